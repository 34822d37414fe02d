"""Attacks on arrays against naive float64 loops and an audit of a module, and everything that a user can get wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import hf_mia
from hf_mia.attacks.groups import PerGroup
from hf_mia.attacks.shadow import LogisticRegression, ShadowClassifier
from hf_mia.attacks.threshold import Threshold
from hf_mia.core import Evidence, Ragged
from hf_mia.papers import PAPERS
from hf_mia.probes.posteriors import Access, Posteriors
from hf_mia.reports.estimates import auc
from hf_mia.saved.arrays import Reference, Shadow, attack, fitting, heard, scores
from hf_mia.saved.outputs import ROWS
from hf_mia.signals.classifier import Loss, Posterior

N, C, R = 24, 4, 6


@dataclass(frozen=True, eq=False)
class Case:
    """A target and references that are surer of the classes of what they saw."""

    logits: np.ndarray
    labels: np.ndarray
    member: np.ndarray
    references: tuple[Reference, ...]

    @property
    def given(self) -> dict[str, Any]:
        return {"logits": self.logits, "labels": self.labels, "references": self.references}


def case(seed: int = 0, n: int = N, references: int = R, queries: int | None = None, kind: type = np.float64) -> Case:
    rng = np.random.default_rng(seed)
    labels = rng.integers(C, size=n)
    shape = (n, C) if queries is None else (n, queries, C)

    def said(member: np.ndarray) -> np.ndarray:
        logits = rng.normal(size=shape)
        logits[np.arange(n), ..., labels] += (1 + 3 * member).reshape(-1, *[1] * (len(shape) - 2))
        return logits.astype(kind)

    halves = [rng.permutation(n) < n // 2 for _ in range(references // 2)]
    sides = [side for half in halves for side in (half, ~half)]
    member = rng.permutation(n) < n // 2
    return Case(said(member), labels, member, tuple(Reference(logits=said(side), member=side) for side in sides))


def softmax(row: np.ndarray) -> list[float]:
    powers = [math.exp(float(z) - float(row.max())) for z in row]
    return [power / sum(powers) for power in powers]


def gap(row: np.ndarray, label: int) -> float:
    p = softmax(row)
    return math.log(p[label]) - math.log(sum(q for i, q in enumerate(p) if i != label))


def test_modified_entropy_is_song_and_mittals() -> None:
    given = case()
    expected = []
    for row, label in zip(given.logits, given.labels, strict=True):
        p = softmax(row)
        others = sum(p[i] * math.log(1 - p[i]) for i in range(C) if i != label)
        expected.append((1 - p[label]) * math.log(p[label]) + others)
    found = scores("modified-entropy", logits=given.logits, labels=given.labels)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_lira_is_carlinis() -> None:
    """With every unit's own variance, and several queries."""
    given = case(queries=2)
    found = scores("lira", **given.given, changes={"variance": "each"})
    for unit in range(N):
        ratios = []
        for query in range(2):
            x = gap(given.logits[unit, query], given.labels[unit])
            logs = []
            for side in (True, False):
                said = [
                    gap(one.logits[unit, query], given.labels[unit])  # type: ignore[index,call-overload]
                    for one in given.references
                    if one.member[unit] == side  # type: ignore[index,call-overload]
                ]
                mean = sum(said) / len(said)
                variance = sum((z - mean) ** 2 for z in said) / (len(said) - 1)
                logs.append(-((x - mean) ** 2) / (2 * variance) - math.log(variance) / 2)
            ratios.append(logs[0] - logs[1])
        assert found[unit] == pytest.approx(sum(ratios) / 2, rel=1e-8)


def test_rmia_is_zarifzadehs() -> None:
    given, gamma = case(1), 1.5
    found = scores("rmia", **given.given, changes={"gamma": gamma})
    ratio = []
    for unit in range(N):
        label = given.labels[unit]
        means = []
        for side in (True, False):
            said = [
                softmax(one.logits[unit])[label]  # type: ignore[index,call-overload]
                for one in given.references
                if one.member[unit] == side  # type: ignore[index,call-overload]
            ]
            means.append(sum(said) / len(said))
        ratio.append(softmax(given.logits[unit])[label] / (sum(means) / 2))
    for unit in range(N):
        share = sum(ratio[unit] / ratio[z] >= gamma for z in range(N) if z != unit)
        assert math.floor(found[unit] * (N - 1) + 1e-9) == share


def test_scores_are_those_of_an_audit_of_a_module() -> None:
    """The probe asks a module that answers with these logits: the same bits, at every access level."""
    given = case(2, kind=np.float32)

    def asked(probe: Posteriors, logits: np.ndarray) -> dict[str, Ragged]:
        label = torch.from_numpy(given.labels)
        found = probe.observe(lambda batch: batch["z"], {"z": torch.from_numpy(logits), "label": label})  # type: ignore[arg-type]
        tables = {name: tensor.numpy() for name, tensor in found.items()}
        return {name: Ragged(t.ravel(), np.arange(N + 1) * t.shape[1]) for name, t in tables.items()}

    for access in ("logits", "probabilities", "top-k"):
        probe = Posteriors(access=access, k=2)
        attack = replace(PAPERS["lira"], signal=replace(PAPERS["lira"].signal, probe=probe))  # type: ignore[type-var,call-arg]
        names = tuple(map(str, range(N)))
        others = tuple(
            Evidence(attack.signal.measure(asked(probe, one.logits)), np.array(one.member, float), names)  # type: ignore[arg-type]
            for one in given.references
        )
        target = Evidence(attack.signal.measure(asked(probe, given.logits)), np.full(N, np.nan), names, others)
        expected = attack.fit([]).score(target)
        assert scores(attack, **given.given).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", [name for name in fitting() if name not in ("label-only", "lira-augmented")])
def test_every_attack_on_outputs_finds_members(name: str) -> None:
    given = case(3, n=200)
    report = attack(name, **given.given, member=given.member)
    assert report.name == name
    assert report.units == tuple(map(str, range(200)))
    assert report.threshold is not None
    assert report.auc.value is not None
    assert report.auc.value > (0.55 if name in ("correctness", "confidence", "entropy") else 0.8)


@pytest.mark.parametrize("name", ["label-only", "lira-augmented"])
def test_attacks_of_several_queries_need_several(name: str) -> None:
    given = case(3, n=100, queries=3)
    assert attack(name, **given.given, member=given.member).auc.value > 0.6  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"one row of each unit: give logits of several queries, \(n, q, C\)"):
        attack(name, **case(3).given, member=case(3).member)


def test_the_attack_does_not_see_the_truth() -> None:
    given = case(4)
    ours = attack("rmia", **given.given, member=given.member)
    swapped = attack("rmia", **given.given, member=~given.member)
    blind = scores("rmia", **given.given)
    assert ours.scores.tobytes() == swapped.scores.tobytes() == blind.tobytes()
    assert ours.threshold == swapped.threshold
    assert (ours.member == ~swapped.member).all()


def test_probabilities_stand_for_logits() -> None:
    given = case(5)
    p = np.array([softmax(row) for row in given.logits])
    references = [
        Reference(probabilities=np.array([softmax(row) for row in one.logits]), member=one.member)  # type: ignore[union-attr,arg-type]
        for one in given.references
    ]
    found = scores("lira", probabilities=p, labels=given.labels, references=references)
    np.testing.assert_allclose(found, scores("lira", **given.given), rtol=1e-9)
    sure = scores("loss", probabilities=np.eye(C), labels=np.array([0, 1, 2, 0]))
    assert sure[3] == pytest.approx(-149 * math.log(2))
    assert np.isfinite(scores("modified-entropy", probabilities=np.eye(C), labels=np.arange(C))).all()


def test_access_reduces_what_an_attack_sees() -> None:
    given = case(6, n=400)
    full = attack("loss", **given.given, member=given.member)
    for access in ("logits", "probabilities", "top-k"):
        report = attack("loss", **given.given, member=given.member, access=access)
        assert report.name == f"loss, access={access}"
        assert abs(report.auc.value - full.auc.value) < 0.02  # type: ignore[operator]
    label = attack("correctness", **given.given, member=given.member, access="label")
    assert set(label.scores) == {0.0, 1.0}
    np.testing.assert_array_equal(label.scores, given.logits.argmax(1) == given.labels)
    with pytest.raises(ValueError, match="labels alone are shown"):
        attack("loss", **given.given, member=given.member, access="label")
    with pytest.raises(ValueError, match=r"access must be one of .* 'top': did you mean 'top-k'"):
        attack("loss", **given.given, member=given.member, access="top")  # type: ignore[arg-type]


def test_halves_are_raised_to_doubles() -> None:
    given = case(7)
    half = given.logits.astype(np.float16)
    raised = scores("lira", logits=half, labels=given.labels, references=given.references)
    exact = scores("lira", logits=half.astype(np.float64), labels=given.labels, references=given.references)
    assert raised.tobytes() == exact.tobytes()
    whole = scores("loss", logits=(half * 8).round().astype(np.int64), labels=given.labels)
    np.testing.assert_array_equal(whole, scores("loss", logits=(half * 8).round().astype(float), labels=given.labels))


def test_shadows_about_other_units_choose_a_threshold() -> None:
    given, other = case(8, n=400), case(9, n=400)
    shadow = Shadow(logits=other.logits, labels=other.labels, member=other.member)
    report = attack("loss", logits=given.logits, labels=given.labels, member=given.member, shadows=[shadow])
    values = scores("loss", logits=other.logits, labels=other.labels)
    best = max(((values >= bar) == other.member).mean() for bar in [*values, np.inf])
    assert ((values >= report.threshold) == other.member).mean() == best
    shokri = PerGroup(ShadowClassifier(Posterior(), LogisticRegression()))
    learnt = attack(shokri, logits=given.logits, labels=given.labels, member=given.member, shadows=[shadow])
    assert learnt.auc.value > 0.8  # type: ignore[operator]
    assert learnt.threshold == 0
    with pytest.raises(ValueError, match=r"LiRA compares models on the same units, but the shadows are about others"):
        attack("lira", **given.given, member=given.member, shadows=[shadow])


def test_references_of_one_side_give_scores_and_no_threshold() -> None:
    """Models that never saw the units: a threshold on them would have no member to find."""
    given = case(10)
    unseen = tuple(replace(one, member=np.zeros(N)) for one in given.references)
    unknown = tuple(replace(one, member=np.full(N, np.nan)) for one in given.references)
    for name in ("loss", "loss-per-class", "relative-loss", "lira-offline", "rmia-offline", "base"):
        report = attack(name, logits=given.logits, labels=given.labels, member=given.member, references=unseen)
        assert report.threshold is None
    plain = attack("base", logits=given.logits, labels=given.labels, member=given.member, references=unknown)
    assert plain.threshold is None
    with pytest.raises(ValueError, match="For each unit LiRA needs a reference that saw it"):
        attack("lira", logits=given.logits, labels=given.labels, member=given.member, references=unseen)


def test_fields_are_changed_by_name() -> None:
    given = case(11)
    report = attack("rmia", **given.given, member=given.member, changes={"gamma": 1.0})
    assert report.name == "rmia (gamma=1.0)"
    assert report.scores.tobytes() == scores(replace(PAPERS["rmia"], gamma=1.0), **given.given).tobytes()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'gama' is no field of attack: did you mean 'gamma'"):
        attack("rmia", **given.given, member=given.member, changes={"gama": 1.0})


def test_attacks_are_told_by_name() -> None:
    given = case()
    with pytest.raises(
        ValueError, match=r"'lirra' is no attack on a classifier's outputs: did you mean 'lira'.*'rmia'"
    ):
        attack("lirra", **given.given, member=given.member)
    for name, asks in (("encodermi-v", "Views"), ("auditmi", "Tokens"), ("white-box", "Gradients")):
        with pytest.raises(ValueError, match=rf"'{name}' asks {asks} of a model.*audit the model itself"):
            attack(name, **given.given, member=given.member)
        with pytest.raises(ValueError, match=rf"{type(PAPERS[name]).__name__} asks {asks} of a model"):
            attack(PAPERS[name], **given.given, member=given.member)
    with pytest.raises(ValueError, match="attack must be a name or an Attack, but is None"):
        attack(None, **given.given, member=given.member)  # type: ignore[arg-type]


WRONG: dict[str, tuple[Mapping[str, Any], str]] = {
    "probabilities as logits": ({"logits": np.full((N, C), 1 / C)}, "pass them as probabilities="),
    "single precision": ({"logits": np.full((N, C), 1 / C, np.float32)}, "as probabilities do"),
    "logits as probabilities": (
        {"logits": None, "probabilities": np.ones((N, C))},
        r"probabilities must be 0 or more and sum to 1.*24 of 24 rows, such as \[0, 1",
    ),
    "both": ({"probabilities": np.full((N, C), 1 / C)}, "both are given"),
    "neither": ({"logits": None}, "neither is given"),
    "NaN": ({"logits": np.where(np.arange(N)[:, None] == 7, np.nan, case().logits)}, r"1 of 24 rows, such as \[7\]"),
    "infinity": (
        {"logits": np.where(np.arange(N)[:, None] > 20, np.inf, case().logits)},
        r"finite, but are NaN or infinite in 3 of 24 rows, such as \[21, 22, 23\]",
    ),
    "one class": ({"logits": np.zeros((N, 1))}, "two classes or more, but are of 1.*two logits 0 and z"),
    "a row": ({"logits": np.zeros(N)}, r"\(n, C\).*but are of shape \(24,\)"),
    "nothing": ({"logits": np.zeros((0, C))}, r"shape \(0, 4\)"),
    "words": ({"logits": np.full((N, C), "a")}, "logits must be float16, float32 or float64, but are <U1"),
    "label too large": ({"labels": np.full(N, C)}, r"labels must be 0 to 3, for there are 4 classes, but are \[4\]"),
    "label negative": (
        {"labels": np.where(np.arange(N) == 5, -1, 0)},
        r"but are \[-1\] in 1 of 24 rows, such as \[5\]",
    ),
    "labels too few": ({"labels": np.zeros(N - 1, int)}, r"labels must be one class for each of 24 rows.*\(23,\)"),
    "labels of floats": ({"labels": np.zeros(N)}, "labels must be whole numbers, 0 to 3, but are float64"),
    "member too few": ({"member": np.ones(N - 1)}, r"member: must be one value a score.*\(23,\)"),
    "members only": ({"member": np.ones(N)}, "got 24 members and 0 non-members"),
    "non-members only": ({"member": np.zeros(N)}, "got 0 members and 24 non-members"),
    "truth unknown": ({"member": np.where(np.arange(N) == 3, np.nan, 1)}, "nan at 3.*cannot be evaluated"),
    "no references": ({"references": ()}, r"RMIA needs 2 other models or more, but has 0: give references="),
    "names too few": ({"units": ["a"]}, "units must be a name for each of 24 rows, but are 1"),
    "names twice": ({"units": ["a"] * N}, "names must differ"),
    "reference of others": (
        {"references": (*case().references, Reference(logits=np.zeros((7, C)), member=np.zeros(7)))},
        r"references\[6\]: must be about the target's 24 units, but is about 7",
    ),
    "reference of other classes": (
        {"references": (Reference(logits=np.zeros((N, C + 1)), member=np.zeros(N)), *case().references)},
        r"references\[0\]: must answer as the target, 1 queries of 4 classes, but answers 1 queries of 5 classes",
    ),
    "reference without numbers": ({"references": [Reference(member=np.zeros(N))]}, r"references\[0\]: .*neither"),
    "reference's member too few": (
        {"references": [Reference(logits=case().logits, member=np.zeros(3))]},
        r"references\[0\]: member must be one value for each of 24 rows, but is of shape \(3,\)",
    ),
    "reference's member": (
        {"references": [Reference(logits=case().logits, member=np.full(N, 2))]},
        r"references\[0\]: member must be 1 or True.*\[2.0\] in 24 of 24 units",
    ),
    "shadow's labels": (
        {"shadows": [Shadow(logits=np.zeros((3, C)), labels=np.full(3, C), member=np.zeros(3))]},
        r"shadows\[0\]: labels must be 0 to 3",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_says_what_to_do(what: str) -> None:
    wrong, message = WRONG[what]
    given = {**case().given, "member": case().member, **wrong}
    with pytest.raises(ValueError, match=message):
        attack("rmia", **given)


def test_rows_are_named_by_their_units() -> None:
    given = case()
    broken = np.where(np.arange(N)[:, None] == 2, np.nan, given.logits)
    with pytest.raises(ValueError, match=r"1 of 24 units, such as \['u2'\]"):
        attack("loss", logits=broken, labels=given.labels, member=given.member, units=[f"u{i}" for i in range(N)])


def test_labels_may_all_be_the_same() -> None:
    given = case(12)
    labels = np.zeros(N, np.int64)
    report = attack(
        "loss-per-class", logits=given.logits, labels=labels, member=given.member, references=given.references
    )
    assert report.threshold == 0


def test_constant_scores_tell_nothing() -> None:
    same = np.tile([2.0, 0.0, 0.0, -1.0], (N, 1))
    member = np.arange(N) % 2 == 0
    references = [Reference(logits=same, member=side) for side in (member, ~member)]
    for name in ("correctness", "loss", "lira", "rmia", "rmia-offline", "base", "relative-loss"):
        report = attack(name, logits=same, labels=np.zeros(N, int), member=member, references=references)
        assert report.auc.value == 0.5
        assert np.isfinite(report.scores).all()


def test_a_million_duplicates() -> None:
    n = 1_000_000
    assert n > 2 * ROWS
    logits = np.tile(np.array([[2.0, 0.0]], np.float32), (n, 1))
    member = np.arange(n) % 2 == 0
    references = [Reference(logits=logits, member=side) for side in (member, ~member)]
    report = attack("rmia", logits=logits, labels=np.zeros(n, int), member=member, references=references)
    assert np.unique(report.scores).size == 1
    assert auc(report.scores, report.member) == 0.5  # without a bootstrap's interval, which takes longer


def test_pieces_do_not_show() -> None:
    """More rows than are read at a time."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(ROWS + 7, 3))
    labels = rng.integers(3, size=ROWS + 7)
    found = scores("loss", logits=logits, labels=labels)
    assert found.shape == (ROWS + 7,)
    assert found[-7:].tobytes() == scores("loss", logits=logits[-7:], labels=labels[-7:]).tobytes()


def test_false_positive_rates_below_one_in_n_are_not_told() -> None:
    given = case(13)
    report = replace(attack("loss", logits=given.logits, labels=given.labels, member=given.member), fprs=(0.5, 1 / N))
    assert str(report.summary()["tpr@0.5"]) != "n/a"
    assert str(report.summary()[f"tpr@{1 / N}"]) == "n/a"


def test_what_a_signal_reads_is_kept() -> None:
    given = case(14)
    asked = heard(**given.given)
    first = asked.evidence(PAPERS["rmia"])[0]
    assert asked.evidence(PAPERS["base"])[0].features is first.features
    assert asked.scores(PAPERS["base"]).tobytes() == scores("base", **given.given).tobytes()


def test_default_attacks_are_those_that_fit() -> None:
    given, alone = case(), {"logits": case().logits, "labels": case().labels}
    without = list(heard(**alone).by_default())
    assert without == [name for name in fitting() if PAPERS[name].least == 0 and name != "label-only"]
    assert "label-only" in heard(**case(queries=2).given).by_default()
    every = heard(**given.given).by_default()
    assert {"lira", "lira-offline", "rmia", "rmia-offline", "base", "relative-loss"} == every.keys() - set(without)
    one = heard(**{**given.given, "references": given.references[:1]}).by_default()
    assert {"lira-offline", "rmia-offline", "base"} == one.keys() - set(without)


@pytest.mark.parametrize("access", ["logits", "probabilities", "top-k", "label", None])
def test_shadow_thresholds_hold_at_every_access(access: Access | None) -> None:
    given = case(15)
    report = attack("correctness", **given.given, member=given.member, access=access)
    assert report.accuracy.value is not None


def test_the_one_liner_is_at_the_door() -> None:
    assert hf_mia.attack is attack
    assert isinstance(Threshold(Loss()), hf_mia.Attack)
