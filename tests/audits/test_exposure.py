"""Exposure of single units against naive loops: p-values, the table, and decisions with half of the shadows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_mia.attacks.relative import Relative
from hf_mia.attacks.threshold import Threshold
from hf_mia.audits import exposure
from hf_mia.audits.exposure import Flips, exposures, flips, p_values, q_values
from hf_mia.core import Attack, Booleans, Evidence, Floats, Scorer, Signal
from hf_mia.reports.report import Report
from hf_mia.signals.language import MeanRank

SIGNAL = MeanRank()


def scored(seed: int, units: int, digits: int | None = None, shift: float = 1.0) -> tuple[Floats, Booleans]:
    rng = np.random.default_rng(seed)
    member = rng.permutation(units) < units // 2
    scores = rng.normal(size=units) + shift * member
    return scores if digits is None else scores.round(digits), member


@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize("units", [2, 3, 41])
def test_p_values_are_counted(units: int, digits: int | None) -> None:
    scores, member = scored(units, units, digits)
    expected = []
    for i in range(units):
        others = [j for j in range(units) if not member[j] and j != i]
        expected.append((1 + sum(scores[j] >= scores[i] for j in others)) / (1 + len(others)))
    np.testing.assert_allclose(p_values(scores, member), expected, rtol=1e-15)


def test_p_values_of_nonmembers_are_uniform() -> None:
    """A member that is none is called at a with a chance of at most a, and of hardly less."""
    rng = np.random.default_rng(0)
    games = [rng.normal(size=60) for _ in range(2000)]
    first = np.array([p_values(scores, np.arange(60) == 0)[0] for scores in games])
    for level in (1 / 60, 0.05, 0.3):
        exact = np.floor(60 * level + 1e-9) / 60
        assert abs((first <= level + 1e-12).mean() - exact) < 4 * np.sqrt(exact / 2000)


def test_p_values_need_scores_that_can_be_compared() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        p_values(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="at least 1 of each class"):
        p_values(np.zeros(2), np.ones(2, dtype=bool))


def test_q_values_are_benjamini_and_hochbergs() -> None:
    p = p_values(*scored(1, 50, 1))
    expected = []
    for one in p:
        expected.append(min(1.0, min(50 * other / (p <= other).sum() for other in p if other >= one)))
    np.testing.assert_allclose(q_values(p), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_no_more_than_q_of_those_called_at_q_are_nonmembers(seed: int) -> None:
    scores, member = scored(seed, 80, 1 if seed % 2 else None, shift=3.0)
    q = q_values(p_values(scores, member))
    assert q.min() < 0.1
    for level in np.unique(q):
        assert (~member[q <= level]).mean() <= level + 1e-12


def made(units: int = 30, threshold: float | None = 0.5) -> Report:
    scores, member = scored(4, units, 1)
    names = tuple(f"u{i * 7 % units:02d}" for i in range(units))
    return Report("attack", scores, member, names, threshold)


def test_the_table_has_the_most_exposed_first(tmp_path: Path) -> None:
    report = made()
    group, rate = np.arange(30) % 4, Flips(np.arange(30) / 30, 10)
    pq.write_table(exposures(report, group, rate), tmp_path / "exposure.parquet")
    rows = pq.read_table(tmp_path / "exposure.parquet").to_pylist()
    assert len(np.unique(report.scores)) < 30
    order = sorted(range(30), key=lambda i: (-report.scores[i], report.units[i]))
    p = p_values(report.scores, report.member)
    q = q_values(p)
    for i, row in zip(order, rows, strict=True):
        assert row == {
            "unit": report.units[i],
            "score": report.scores[i],
            "p_value": p[i],
            "q_value": q[i],
            "group": i % 4,
            "member": report.member[i],
            "decision": report.scores[i] >= 0.5,
            "flip_rate": i / 30,
        }


def test_what_is_unknown_is_null_in_a_column_of_the_same_type() -> None:
    full = exposures(made(), np.arange(30), Flips(np.zeros(30), 1))
    bare = exposures(made(threshold=None))
    assert bare.schema == full.schema
    assert [name for name in bare.column_names if bare[name].null_count == 30] == ["group", "decision", "flip_rate"]
    assert all(full[name].null_count == 0 for name in full.column_names)


def test_columns_must_fit_the_report() -> None:
    with pytest.raises(ValueError, match=r"group: .* 30 units, not of shape \(29,\)"):
        exposures(made(), np.arange(29))
    with pytest.raises(ValueError, match=r"flips: .* 30 units, not of shape \(31,\)"):
        exposures(made(), flips=Flips(np.zeros(31), 1))


def evidence(seed: int, units: int = 24, unseen: bool = False) -> Evidence:
    rng = np.random.default_rng(seed)
    member = np.zeros(units) if unseen else (rng.permutation(units) < units // 2).astype(np.float64)
    features = rng.normal(size=(units, 1)) + rng.normal() + member[:, None]
    return Evidence(features, member, tuple(f"{i:02d}" for i in range(units)))


def world(count: int) -> tuple[Evidence, list[Evidence]]:
    """A target and shadows of their own pools; each game's references are the other shadows, asked about its units."""
    target = replace(
        evidence(90),
        member=np.full(24, np.nan),
        references=tuple(evidence(1000 + i, unseen=True) for i in range(count)),
    )
    shadows = [
        replace(evidence(j), references=tuple(evidence(100 * (j + 1) + i) for i in range(count) if i != j))
        for j in range(count)
    ]
    return target, shadows


def relative_decisions(target: Evidence, shadows: Sequence[Evidence], kept: Sequence[int]) -> Booleans:
    """`Relative(Threshold())` by hand: reference i of the shadow j is the shadow i, or i + 1 from j on."""

    def differences(one: Evidence, own: int | None) -> list[tuple[float, float]]:
        found = []
        names = [i for i in range(len(shadows)) if i != own]  # which shadow each reference is
        for u in range(24):
            level = [
                reference.features[u, 0]
                for name, reference in zip(names, one.references, strict=True)
                if name in kept and reference.member[u] == 0
            ]
            if level:
                found.append((one.features[u, 0] - np.mean(level), one.member[u]))
        return found

    known = np.array([pair for j in kept for pair in differences(shadows[j], j)])
    scores = np.array([score for score, _ in differences(target, None)])
    values = np.unique(known[:, 0])
    tries = [values[0], *(values[:-1] + values[1:]) / 2, np.nextafter(values[-1], np.inf)]
    accuracy = [((known[:, 0] >= t) == (known[:, 1] == 1)).sum() for t in tries]
    best = max(t for t, right in zip(tries, accuracy, strict=True) if right == max(accuracy))
    return scores >= best


@pytest.mark.parametrize("count", [4, 5, 6])
def test_flips_of_relative_drop_the_same_shadows_everywhere(count: int) -> None:
    target, shadows = world(count)
    found = flips(Relative(Threshold(SIGNAL)), target, shadows, draws=6, seed=count)
    halves = list(exposure._halves(target, count, 2, 6, count))
    decided = relative_decisions(target, shadows, range(count))
    changed = [relative_decisions(target, shadows, kept) != decided for kept in halves]
    assert found is not None
    assert found.draws == 6
    np.testing.assert_allclose(found.rate, np.mean(changed, axis=0), rtol=1e-15)
    assert 0 < found.rate.sum() < 24


def test_flips_of_a_threshold_are_its_refits() -> None:
    target, shadows = evidence(50), [evidence(seed) for seed in range(7)]
    found = flips(Threshold(SIGNAL), target, shadows, draws=8, seed=3)
    changed = []
    for kept in exposure._halves(target, 7, 0, 8, 3):
        assert len(kept) == 4
        thresholds = [Threshold(SIGNAL).fit(some).threshold for some in (shadows, [shadows[i] for i in kept])]
        one, other = (target.features[:, 0] >= threshold for threshold in thresholds)
        changed.append(one != other)
    assert found is not None
    np.testing.assert_array_equal(found.rate, np.mean(changed, axis=0))
    assert found.rate.any()
    again = flips(Threshold(SIGNAL), target, shadows, draws=8, seed=4)
    assert again is not None
    assert (again.rate != found.rate).any()


def test_halves_are_random_and_no_smaller_than_the_attack_takes() -> None:
    target = evidence(0)
    halves = {tuple(kept) for kept in exposure._halves(target, 5, 0, 400, 0)}
    assert halves == set(combinations(range(5), 3))
    assert {len(kept) for kept in exposure._halves(target, 6, 5, 20, 0)} == {5}
    assert not list(exposure._halves(target, 5, 5, 20, 0))


@dataclass(frozen=True)
class Strict(Attack):
    """The loss less its mean over references that saw the unit; refuses a unit without references of either side."""

    compares: ClassVar[bool] = True
    signal: Signal = SIGNAL

    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        return Scorer(self._score, 0.5 + len(shadows) % 2)

    def _score(self, one: Evidence) -> Floats:
        seen = np.array([reference.member for reference in one.references])
        if (seen.all(axis=0) | ~seen.any(axis=0)).any():
            raise ValueError("a unit lacks references")
        features = np.array([reference.features[:, 0] for reference in one.references])
        return np.asarray(one.features[:, 0] - (seen * features).sum(axis=0) / seen.sum(axis=0))


def shared(member: Sequence[Floats], units: int) -> tuple[Evidence, list[Evidence]]:
    """One pool for all: references differ in what they saw of it."""
    plain = [replace(evidence(i, units), member=row) for i, row in enumerate(member)]
    shadows = [replace(one, references=tuple(other for other in plain if other is not one)) for one in plain]
    return replace(evidence(99, units), references=tuple(plain)), shadows


def test_complementary_shadows_stay_together() -> None:
    rng = np.random.default_rng(0)
    sides = [(rng.random(40) < 0.5).astype(np.float64) for _ in range(4)]
    target, shadows = shared([sides[0], sides[1], 1 - sides[1], sides[2], 1 - sides[0], sides[3], 1 - sides[3],
                              1 - sides[2]], 40)  # fmt: skip
    halves = list(exposure._halves(target, 8, 0, 50, 0))
    pairs = [{0, 4}, {1, 2}, {3, 7}, {5, 6}]
    assert {tuple(kept) for kept in halves} == {tuple(sorted(a | b)) for a, b in combinations(pairs, 2)}
    found = flips(Strict(), target, shadows)
    assert found is not None
    assert found.draws == 10  # unpaired halves of eight shadows would leave some of 40 units without a side


def test_halves_that_the_attack_refuses_do_not_count() -> None:
    seen_by = {0: (0, 1, 2), 1: (2, 3, 4), 2: (0, 2, 5), 3: (1, 3), 4: (0, 4, 5)}  # unit -> shadows
    member = [np.array([float(i in seen_by[unit]) for unit in range(5)]) for i in range(6)]
    target, shadows = shared(member, 5)
    good = []
    for kept in exposure._halves(target, 6, 0, 40, 0):
        seen = np.array(member)[kept].sum(axis=0)
        if ((seen > 0) & (seen < len(kept))).all():
            good.append(kept)
    assert 0 < len(good) < 40
    found = flips(Strict(), target, shadows, draws=4)
    assert found is not None
    assert found.draws == min(4, len(good))
    full = Strict().fit(shadows)
    expected = np.zeros(5)
    for kept in good[:4]:
        some = replace(target, references=tuple(target.references[i] for i in kept))
        fitted = Strict().fit([shadows[i] for i in kept])
        expected += (full.score(target) >= full.threshold) != (fitted.score(some) >= fitted.threshold)
    np.testing.assert_allclose(found.rate, expected / found.draws)
    lonely = np.zeros((6, 5))
    lonely[0] = 1  # only one shadow saw anything: with it, all units have both sides
    lonely[1, 0], lonely[0, 0] = 1, 0  # but the first, which another one saw
    lonely[2, 1], lonely[0, 1] = 1, 0
    lonely[3, 2], lonely[0, 2] = 1, 0
    assert flips(Strict(), *shared(list(lonely), 5)) is None


def test_where_nothing_can_flip_there_is_none() -> None:
    target, shadows = world(4)
    assert flips(Relative(Threshold(SIGNAL)), replace(target, references=target.references[:3]), [
        replace(shadow, references=shadow.references[:2]) for shadow in shadows[:3]
    ]) is None  # fmt: skip
    assert flips(Threshold(SIGNAL), evidence(0), []) is None

    @dataclass(frozen=True)
    class Undecided(Attack):
        signal: Signal = SIGNAL

        def fit(self, shadows: Sequence[Evidence]) -> Scorer:
            return Scorer(lambda one: one.features[:, 0])

    assert flips(Undecided(), target, shadows) is None


def test_references_must_be_the_other_shadows() -> None:
    target, shadows = world(5)
    with pytest.raises(ValueError, match=r"references must be all other shadows in order, \[5, 4, 4, 4, 4, 4\]"):
        flips(Relative(Threshold(SIGNAL)), replace(target, references=target.references[:4]), shadows)
    with pytest.raises(ValueError, match="draws: must be at least 1, not 0"):
        flips(Relative(Threshold(SIGNAL)), target, shadows, draws=0)


def test_an_attack_that_refuses_all_shadows_is_not_silenced() -> None:
    target, shadows = shared([np.zeros(5)] * 4, 5)
    with pytest.raises(ValueError, match="a unit lacks references"):
        flips(Strict(), target, shadows)
