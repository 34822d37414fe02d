"""Encoders of images and classifiers are loaded as language models are: spread over devices, in other numbers."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path

import labelled
import numpy as np
import pytest
import torch
import transformers as hf
from datasets import Dataset
from worlds import each

import hf_mia.models.loading as module
from hf_mia.audits.experiment import experiment
from hf_mia.audits.targets import Checkpoint
from hf_mia.core import Model, Probe
from hf_mia.models.classifiers import audio_classifier, image_classifier, text_classifier
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.models.vision import encoder
from hf_mia.probes.posteriors import Posteriors
from hf_mia.probes.views import Plain
from hf_mia.runner import Runner

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def clip(folder: Path) -> Path:
    """A model of images and texts, of which the vision tower is taken."""
    vision = hf.CLIPVisionConfig(**SIZES, image_size=16, patch_size=8)
    text = hf.CLIPTextConfig(**SIZES, vocab_size=20, max_position_embeddings=8, eos_token_id=1, bos_token_id=0)
    torch.manual_seed(0)
    model = hf.CLIPModel(hf.CLIPConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=8))
    size = {"height": 16, "width": 16}
    return labelled.saved(folder, model, hf.ViTImageProcessorPil(size=size))


KINDS: Mapping[str, tuple[Callable[[Path], Path], Callable[..., Model], Probe, Callable[[], Dataset]]] = {
    "encoder": (lambda folder: labelled.vit(folder, hf.ViTModel), encoder, Plain(), labelled.images),
    "tower": (clip, encoder, Plain(), labelled.images),
    "images": (lambda folder: labelled.vit(folder, num_labels=3), image_classifier, Posteriors(), labelled.images),
    "texts": (lambda folder: labelled.bert(folder, num_labels=3), text_classifier, Posteriors(), labelled.texts),
    "sounds": (lambda folder: labelled.wav2vec2(folder, num_labels=3), audio_classifier, Posteriors(), labelled.sounds),
}


def answers(name: str, folder: Path, cache: Path, loading: Loading) -> np.ndarray:
    _, load, probe, records = KINDS[name]
    found = each(Runner(cache, chunk=8)(load(folder, loading=loading), probe, records()))
    return np.concatenate([numbers for row in found for numbers in row.values()])


@pytest.mark.parametrize("name", KINDS)
def test_a_device_map_is_for_real_and_answers_the_same(name: str, tmp_path: Path) -> None:
    """By accelerate, on the devices that there are: where there is but one, nothing is spread."""
    folder = KINDS[name][0](tmp_path)
    loading = Loading(device_map="auto")
    plain = answers(name, folder, tmp_path / "plain", WHOLE)
    np.testing.assert_allclose(answers(name, folder, tmp_path / "auto", loading), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_another_dtype_is_another_model_and_answers_nearly_the_same(name: str, tmp_path: Path) -> None:
    folder = KINDS[name][0](tmp_path)
    half, whole = (KINDS[name][1](folder, loading=loading) for loading in (Loading(dtype="bfloat16"), WHOLE))
    assert half.key != whole.key
    assert {weights.dtype for weights in half.load().parameters()} == {torch.bfloat16}
    assert {weights.dtype for weights in whole.load().parameters()} == {torch.float32}
    one, other = (answers(name, folder, tmp_path / "c", loading) for loading in (Loading(dtype="bfloat16"), WHOLE))
    assert 0 < np.abs(one - other).max() < 0.05 * np.ptp(other)


@pytest.mark.parametrize("name", KINDS)
def test_quantization_reaches_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if bitsandbytes were there; what it would make of a model takes a GPU."""
    folder, load = KINDS[name][0](tmp_path), KINDS[name][1]
    with pytest.raises(ValueError, match="takes the package bitsandbytes"):
        load(folder, loading=Loading(quantization="8bit"))
    version = importlib.metadata.version
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "0.48.0" if n == "bitsandbytes" else version(n))
    given: dict[str, object] = {}

    def loader(place: Path, **options: object) -> tuple[torch.nn.Module, dict[str, object]]:
        given.update(options)
        raise KeyError("loaded")

    kinds = ("AutoModel", "AutoModelForImageClassification", "AutoModelForSequenceClassification")
    for kind in (*kinds, "AutoModelForAudioClassification"):
        monkeypatch.setattr(getattr(hf, kind), "from_pretrained", loader)
    with pytest.raises(KeyError, match="loaded"):
        load(folder, loading=Loading(quantization="8bit")).load()
    config = given["quantization_config"]
    assert isinstance(config, hf.BitsAndBytesConfig)
    assert config.load_in_8bit


def test_a_config_says_how(tmp_path: Path) -> None:
    target = {"name": "checkpoint", "model": str(labelled.vit(tmp_path, hf.ViTModel)), "dtype": "bfloat16"}
    given = {"data": {"kind": "images"}, "target": target, "shadows": {"count": 0}, "attacks": ["encoder-similarity"]}
    made = experiment(given)
    assert isinstance(made.target, Checkpoint)
    model = made.target.load(made.data, labelled.images(), tmp_path)
    assert {weights.dtype for weights in model.load().parameters()} == {torch.bfloat16}
