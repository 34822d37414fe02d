"""Classified images and texts as games: every record a unit in the group of its class, and audits end to end."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset
from rich.console import Console
from worlds import World, classes_config, contents, noise, write_images

from hf_mia.audits.dry import describe
from hf_mia.audits.experiment import experiment
from hf_mia.audits.folder import read_evidence, write_folder
from hf_mia.audits.games import games
from hf_mia.audits.played import Played
from hf_mia.audits.run import play
from hf_mia.audits.setting import jobs, setting
from hf_mia.audits.table import print_played
from hf_mia.config import override
from hf_mia.core import Evidence
from hf_mia.data.classified import ClassifiedImages, ClassifiedTexts
from hf_mia.papers import PAPERS
from hf_mia.probes.posteriors import Posteriors, Shifts
from hf_mia.probes.tokens import Tokens
from hf_mia.runner import Runner

ATTACKS = ("rmia", "lira", "loss-per-class")


def test_images_keep_their_classes_and_repeat_none(tmp_path: Path) -> None:
    encoded = noise(6, seed=1)
    path = write_images(tmp_path / "a.parquet", [*encoded, encoded[0]], kind=["b", "a", "b", None, "c", "c", "a"])
    pool = ClassifiedImages(path=str(path), label="kind").load()
    assert pool.names == ("000000", "000001", "000002", "000004", "000005")
    assert pool.group is not None
    assert pool.group.tolist() == [1, 0, 1, 2, 2]
    assert pool.records.features["label"] == ClassLabel(names=["a", "b", "c"])
    assert contents(pool.records) == [encoded[i].hex() for i in (0, 1, 2, 4, 5)]
    some = ClassifiedImages(path=str(path), label="kind", labels=(1, 2)).load()
    assert some.names == ("000000", "000002", "000004", "000005")


def test_the_digits_are_the_default() -> None:
    pool = ClassifiedImages().load()
    assert len(pool.names) == 1797
    assert pool.records.features["label"].names == [str(digit) for digit in range(10)]


def test_texts_keep_their_most_frequent_classes(tmp_path: Path) -> None:
    texts = ["one", "two", " ", "three", "one", "four", "five"]
    Dataset.from_dict({"said": texts, "by": ["x", "y", "y", "z", "x", "z", "z"]}).to_parquet(tmp_path / "t.parquet")
    data = ClassifiedTexts(path=str(tmp_path / "t.parquet"), text="said", label="by", classes=2)
    pool = data.load()
    assert pool.records["text"][:] == ["one", "three", "four", "five"]
    assert pool.records.features["label"].names == ["x", "z"]
    assert pool.group is not None
    assert pool.group.tolist() == [0, 1, 1, 1]
    twins = data.twins(pool, np.array([True, False, True, False]))
    assert twins is not None
    assert (twins.exact, twins.of) == (0, 2)


def test_docstrings_are_classified_by_package() -> None:
    pool = ClassifiedTexts(classes=3).load()
    names = pool.records.features["label"].names
    assert len(names) == 3
    assert "torch" in names
    assert all("." not in name for name in names)


def test_only_what_a_classifier_answers_is_asked() -> None:
    shifted = Posteriors(queries=Shifts(reach=1))
    assert ClassifiedImages().takes(Posteriors())
    assert ClassifiedImages().takes(shifted)
    assert ClassifiedTexts().takes(Posteriors())
    assert not ClassifiedTexts().takes(shifted)
    assert not ClassifiedImages().takes(Tokens())


def test_the_attackers_records_may_not_be_the_targets() -> None:
    def pool(texts: list[str]) -> Dataset:
        return Dataset.from_dict({"text": texts, "label": [0] * len(texts)})

    from hf_mia.core import Pool

    def of(texts: list[str]) -> Pool:
        return Pool(pool(texts), np.arange(len(texts)), tuple(map(str, range(len(texts)))))

    ClassifiedTexts().check(of(["a", "b"]), of(["c"]), of(["a"]))
    ClassifiedTexts().check(of(["a", "b"]), None, of([]))
    with pytest.raises(ValueError, match=r"^1 texts of the target's"):
        ClassifiedTexts().check(of(["a", "b"]), of(["c", "b"]), of([]))


@pytest.fixture(scope="module")
def audited(overfitted_classes: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Played, Path]:
    """The overfitted world, audited with a bound on epsilon from models that are there already, and its folder."""
    attacks = {name: PAPERS[name] for name in ATTACKS}
    described = replace(overfitted_classes.experiment, attacks=attacks, delta=1e-5, controls=("untrained",))
    prepared = replace(overfitted_classes.setting, experiment=described)
    played = play(prepared, overfitted_classes.cache)
    out = tmp_path_factory.mktemp("audited")
    write_folder(out, described, played)
    return replace(overfitted_classes, experiment=described), played, out


def test_a_report_holds_every_control(audited: tuple[World, Played, Path]) -> None:
    _, played, out = audited
    told = json.loads((out / "report.json").read_text())
    assert told["verdict"] == "leak"
    assert told["test_accuracy"] < 0.6  # labels say nothing
    assert told["accuracy_of_the_target"]["members"] == 1
    assert told["near_duplicates"]["of"] == 60
    for name, report in played.reports.items():
        found = told["attacks"][name]
        assert found["access"].startswith("the logits, of each record")
        assert found["checks"] == {
            f"beats {what}": True for what in ("chance", "the blind control", "shuffled membership")
        }
        assert found["shuffled"]["p_value"] == 1 / 1001
        assert found["shuffled"]["auc"] == pytest.approx(report.auc.value)
        (bound,) = found["epsilon"]
        assert (bound["method"], bound["delta"], bound["threshold"]) == ("threshold", 1e-5, report.threshold)
        assert 0 < bound["value"] < 10
        best = found["most_exposed"]
        assert len(best) == 10
        assert [row["score"] for row in best] == sorted(report.scores, reverse=True)[:10]
        assert {row["group"] for row in best} <= {0, 1, 2}
        rates = [row["flip_rate"] for row in best]
        assert all(0 <= rate <= 1 for rate in rates) if PAPERS[name].compares else rates == [None] * 10
    assert told["scenes"]["controls"]["reports"]["untrained"]["rmia"]["estimates"]["auc"]["low"] < 0.5


def test_every_unit_stands_in_the_table_of_an_attack(audited: tuple[World, Played, Path]) -> None:
    world, played, out = audited
    for name, report in played.reports.items():
        table = pq.read_table(out / "exposed" / f"{name}.parquet")
        assert sorted(table["unit"].to_pylist()) == sorted(report.units)
        group = dict(zip(world.target.pool.names, world.target.pool.group, strict=True))
        assert table["group"].to_pylist() == [group[unit] for unit in table["unit"].to_pylist()]


def test_evidence_in_a_folder_refits_the_attack(audited: tuple[World, Played, Path]) -> None:
    """From the files alone, groups and references included, to the last bit."""
    _, played, out = audited
    for name in ATTACKS:
        shadows = [read_evidence(out / "evidence" / name / f"shadow-{i:03d}.parquet") for i in range(1, 9)]
        target: Evidence = read_evidence(out / "evidence" / name / "target.parquet")
        scores = PAPERS[name].fit(shadows).score(target)
        assert scores.tobytes() == played.reports[name].scores.tobytes()


def test_the_tables_name_what_was_found(audited: tuple[World, Played, Path]) -> None:
    world, played, _ = audited
    file = io.StringIO()
    print_played(world.experiment, played, Console(file=file, width=80, highlight=False))
    text = file.getvalue()
    for words in ("epsilon is at least, at delta = 1e-05", "the most exposed by rmia", "Verdict by rmia: leak"):
        assert words in text
    nothing = replace(played, reports={"rmia": replace(played.reports["rmia"], scores=played.control.scores)})
    file = io.StringIO()
    print_played(world.experiment, nothing, Console(file=file, width=200, highlight=False))
    assert "inconclusive" in file.getvalue()
    assert "It does not beat chance or the blind control or shuffled membership." in file.getvalue()


def test_membership_by_coins_is_bounded_from_one_run(tmp_path: Path) -> None:
    path = write_images(tmp_path / "i.parquet", noise(120, 3), label=np.arange(120) % 3)
    given = override(classes_config(path, 120, 40), ["split.coin=true", "delta=0", "attacks=[rmia]"])
    described = experiment(given)
    assert described.provenance == "coin"
    played = play(setting(described), tmp_path / "cache")
    member = played.headline.member
    assert 0 < abs(int(member.sum()) - 60) < 25  # not a fixed number
    write_folder(tmp_path / "out", described, played)
    bounds = json.loads((tmp_path / "out" / "report.json").read_text())["attacks"]["rmia"]["epsilon"]
    assert [bound["method"] for bound in bounds] == ["threshold", "one-run"]
    assert bounds[1]["value"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["delta=1.0"], r"0 <= delta < 1"),
        (["delta=.1", "target={name: checkpoint, model: a, provenance: post_hoc}", "shadows.count=0", "attacks=[loss]"],
         r"provenance: a bound on epsilon needs membership drawn at random, but it is 'post_hoc'"),
        (["shadows.data={path: other}"], r"pool = same takes the target's own records, so data must be null"),
        (["shadows.pool=both"], r"shadows\.pool = 'both' has the wrong type"),
        (["target=moco"], r"target trains on images, but data\.kind is classified-images"),
        (["attacks=[encodermi-t]"], r"'encodermi-t' asks by .*not for data\.kind = classified-images"),
        (["shadows.count=1"], r"takes 2 shadows or more, but shadows\.count is 1"),
        (["attacks=[{name: shokri, attack: {classifier: {estimator: RandomForrest}}}]"], None),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: list[str], message: str | None) -> None:
    given = override(classes_config(tmp_path / "none.parquet", 40, 1), ["attacks=[rmia]", *changes])
    if message is None:
        classifier = experiment(given).attacks.popitem()[1].attack.classifier  # type: ignore[attr-defined]
        with pytest.raises(
            ValueError, match=r"'RandomForrest' is no classifier.*did you mean 'RandomForestClassifier'"
        ):
            classifier.build()
        return
    with pytest.raises(ValueError, match=message):
        experiment(given)


def test_a_dry_run_counts_models_and_queries(tmp_path: Path) -> None:
    path = write_images(tmp_path / "i.parquet", noise(60, 3), label=np.arange(60) % 3)
    text = describe(experiment(override(classes_config(path, 40, 2), ["attacks=[rmia]"])), tmp_path / "cache")
    assert "images: 20 members, 20 non-members, 40 attacker's, 20 not in the game" in text
    assert "models: 9 to have, 9 to train" in text


def test_a_classifier_trained_elsewhere_is_audited(overfitted_classes: World, tmp_path: Path) -> None:
    """The folder of a trained model as a checkpoint, with its members listed: the same scores."""
    world = overfitted_classes
    job = jobs(world.setting)[0]
    listed = tmp_path / "members.txt"
    inside = [n for n, m in zip(world.target.pool.names, world.target.member, strict=True) if m]
    listed.write_text("\n".join(inside))
    target = {"name": "checkpoint", "model": str(job.folder(world.cache)), "members_file": str(listed)}
    given = {"data": {"kind": "classified-images", "path": world.experiment.data.path}, "attacks": ["loss"]}
    made = experiment({**given, "target": target, "shadows": {"count": 0}})
    found, shadows = games(setting(made), tmp_path / "cache")
    assert shadows == []
    from hf_mia.core import audit

    ours = audit(PAPERS["loss"], found, [], Runner(tmp_path / "cache"))
    theirs = audit(PAPERS["loss"], world.target, [], world.ask)
    known = dict(zip(theirs.units, theirs.scores, strict=True))
    same = [abs(score - known[unit]) for unit, score in zip(ours.units, ours.scores, strict=True) if unit in known]
    assert len(same) == 120
    assert max(same) < 1e-5
