"""Classified sounds as games: loaded encoded, asked of a tiny Wav2Vec2, blind where nothing tells."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from datasets import ClassLabel, Dataset
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from hf_mia.audits.experiment import experiment
from hf_mia.audits.run import play
from hf_mia.audits.setting import setting
from hf_mia.core import Pool
from hf_mia.data.classified_sounds import ClassifiedSounds
from hf_mia.probes.posteriors import Posteriors, Shifts

RATE = 8000


def sound(seed: int, length: int = 1600) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, length)
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def write(path: Path, encoded: list[bytes | None], **columns: object) -> Path:
    given = {"audio": [content and {"bytes": content, "path": None} for content in encoded], **columns}
    Dataset.from_dict(given).cast_column("audio", datasets.Audio(decode=False)).to_parquet(path)
    return path


def model(folder: Path) -> Path:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_conv_pos_embeddings": 4}
    sizes |= {"num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "num_labels": 2, "vocab_size": 8}
    torch.manual_seed(0)
    Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**sizes)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    return folder


def test_sounds_keep_their_classes_and_repeat_none(tmp_path: Path) -> None:
    encoded = [sound(0), sound(1), sound(0), None, sound(2)]
    path = write(tmp_path / "a.parquet", encoded, said=["no", "yes", "yes", "no", None])
    pool = ClassifiedSounds(path=str(path), label="said").load()
    assert pool.names == ("000000", "000001")
    assert pool.group is not None
    assert pool.group.tolist() == [0, 1]
    assert pool.records.features["label"] == ClassLabel(names=["no", "yes"])
    assert [value["bytes"] for value in pool.records["audio"]] == [sound(0), sound(1)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ClassifiedSounds(), r"data\.path must name the sounds, for there is no embedded default"),
        (ClassifiedSounds(path="HERE", audio="said"), r"data\.audio = 'said' is no audio column: it holds"),
        (ClassifiedSounds(path="HERE", audio="sound"), r"data\.audio = 'sound' is no column of the data"),
        (
            ClassifiedSounds(path="HERE", label="audio"),
            r"data\.label = 'audio' holds .* must be names or whole numbers",
        ),
    ],
    ids=["no path", "no audio", "no column", "no classes"],
)
def test_what_holds_no_classified_sounds_is_refused(tmp_path: Path, data: ClassifiedSounds, message: str) -> None:
    path = write(tmp_path / "a.parquet", [sound(0), sound(1)], said=["no", "yes"])
    chosen = {name: getattr(data, name) for name in ("audio",)}
    given = ClassifiedSounds(
        path=str(path) if data.path else "", label="said" if data.label == "label" else data.label, **chosen
    )
    with pytest.raises(ValueError, match=message):
        given.load()


def test_shared_sounds_are_refused_with_their_number() -> None:
    def of(seeds: list[int]) -> Pool:
        records = Dataset.from_dict({"audio": [{"bytes": sound(seed), "path": None} for seed in seeds]})
        return Pool(records, np.arange(len(seeds)), tuple(map(str, seeds)))

    ClassifiedSounds(path="a").check(of([0, 1]), of([2]), of([]))
    ClassifiedSounds(path="a").check(of([0, 1]), None, of([]))
    with pytest.raises(ValueError, match=r"^1 sounds of the target's"):
        ClassifiedSounds(path="a").check(of([0, 1]), of([2, 1]), of([]))


def test_a_classifier_of_sounds_is_audited(tmp_path: Path) -> None:
    """One that nobody trained: nothing is found, by the model or without it, and every sound is asked about."""
    count = 60
    path = write(tmp_path / "a.parquet", [sound(i, 1200 + 40 * (i % 3)) for i in range(count)], label=[0, 1] * 30)
    inside = [f"{i:06d}" for i in np.random.default_rng(0).permutation(count)[:30]]
    target = {
        "name": "checkpoint",
        "model": str(model(tmp_path / "m")),
        "members": inside,
        "provenance": "random_split",
    }
    given = {"data": {"kind": "classified-sounds", "path": str(path)}, "target": target, "shadows": {"count": 0}}
    played = play(setting(experiment({**given, "attacks": ["loss", "gradient-norm"]})), tmp_path / "cache")
    for report in [*played.reports.values(), played.control]:
        assert sorted(report.units) == [f"{i:06d}" for i in range(count)]
        assert report.auc.value == pytest.approx(0.5, abs=0.25)
    assert np.ptp(played.headline.scores) > 0
    assert played.facts["sounds"] == {"members": 30, "non_members": 30, "attacker": 0, "shadows": 0}


def test_sounds_are_neither_shifted_nor_mirrored() -> None:
    assert ClassifiedSounds(path="a").takes(Posteriors())
    assert not ClassifiedSounds(path="a").takes(Posteriors(queries=Shifts(mirror=True)))
