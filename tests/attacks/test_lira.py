"""Both LiRA attacks against a double loop written from Carlini et al. 2022, by scipy's normal distribution."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from hf_mia.attacks import lira
from hf_mia.attacks.lira import LiRA, OfflineLiRA
from hf_mia.core import Evidence
from hf_mia.reports.estimates import auc, best_threshold
from hf_mia.signals.language import MeanRank

SIGNAL = MeanRank()
EVERY = [LiRA(SIGNAL), LiRA(SIGNAL, "each"), OfflineLiRA(SIGNAL), OfflineLiRA(SIGNAL, "each")]


def games(models: int, units: int, width: int = 1, seed: int = 0, memory: float = 2.0, halves: bool = False) -> list:
    """Evidence of models trained on random shares of one pool (or on halves, each other one on the rest).

    A unit has a level of its own, and a model that saw it says more.
    """
    rng, names = np.random.default_rng(seed), tuple(f"{i:03d}" for i in range(units))
    level, spread = 4 * rng.normal(size=(units, width)), rng.uniform(0.5, 2, size=(units, width))
    member = rng.random((models, units)) < rng.uniform(0.35, 0.65, size=units)
    if halves:
        member[1::2] = ~member[::2]
    return [
        Evidence(level + memory * m[:, None] + spread * rng.normal(size=(units, width)), m.astype(float), names)
        for m in member
    ]


def against(games: Sequence[Evidence]) -> list[Evidence]:
    """Each game with the others as its references."""
    return [replace(one, references=tuple(other for other in games if other is not one)) for one in games]


def hidden(one: Evidence) -> Evidence:
    return replace(one, member=np.full(len(one.names), np.nan))


def said(one: Evidence, u: int, q: int, side: int) -> list[float]:
    return [float(other.features[u, q]) for other in one.references if other.member[u] == side]


def variances(one: Evidence, q: int, side: int) -> float:
    """The one variance around the units' own means: squares over references less units."""
    squares = freedom = 0.0
    for u in range(len(one.names)):
        numbers = said(one, u, q, side)
        for number in numbers:
            squares += (number - statistics.fmean(numbers)) ** 2
        freedom += max(len(numbers) - 1, 0)
    return squares / freedom


def naive(attack: LiRA | OfflineLiRA, one: Evidence) -> dict[int, float]:
    """The score of each unit that has the references it needs."""
    need, found = 2 if attack.variance == "each" else 1, {}
    sides = (1, 0) if isinstance(attack, LiRA) else (0,)
    for u in range(len(one.names)):
        if min(len(said(one, u, 0, side)) for side in sides) < need:
            continue
        total = 0.0
        for q in range(one.features.shape[1]):
            x, normals = float(one.features[u, q]), {}
            for side in sides:
                numbers = said(one, u, q, side)
                fixed = attack.variance == "fixed"
                variance = variances(one, q, side) if fixed else statistics.variance(numbers)
                normals[side] = norm(statistics.fmean(numbers), variance**0.5)
            if isinstance(attack, LiRA):
                total += normals[1].logpdf(x) - normals[0].logpdf(x)
            else:
                total += normals[0].logcdf(x) - normals[0].logsf(x)  # the log-odds of 1 - Pr[Z > x] = Pr[Z <= x]
        found[u] = total / one.features.shape[1]
    return found


@pytest.mark.parametrize("attack", EVERY, ids=repr)
@pytest.mark.parametrize("width", [1, 3])
def test_scores_are_the_papers(attack: LiRA | OfflineLiRA, width: int) -> None:
    target = hidden(against(games(14, 25, width))[0])
    counts = {len(said(target, u, 0, 1)) for u in range(25)}
    assert len(counts) > 3  # units are in for different numbers of references
    expected = naive(attack, target)
    assert len(expected) == 25
    np.testing.assert_allclose(attack.fit([]).score(target), [expected[u] for u in range(25)], rtol=1e-10, atol=1e-12)


def test_one_offline_query_ranks_by_the_papers_probability() -> None:
    target = against(games(9, 40))[0]
    probability = []
    for u in range(40):
        numbers = said(target, u, 0, 0)
        probability.append(norm.cdf(target.features[u, 0], np.mean(numbers), variances(target, 0, 0) ** 0.5))
    scores = OfflineLiRA(SIGNAL).fit([]).score(target)
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(probability))


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_the_threshold_is_the_best_of_all_shadows_known_units(attack: LiRA | OfflineLiRA) -> None:
    shadows = against(games(6, 30, seed=3))
    shadows[2] = replace(shadows[2], member=np.where(np.arange(30) < 9, np.nan, shadows[2].member))
    scores, member = [], []
    for shadow in shadows:
        found = naive(attack, shadow)
        assert 0 < len(found) <= 30
        known = [u for u in found if not np.isnan(shadow.member[u])]
        scores += [found[u] for u in known]
        member += [shadow.member[u] == 1 for u in known]
    assert len(scores) < 6 * 30 - 9 or attack.variance == "fixed"  # some units lack references and are left out
    expected = best_threshold(np.array(scores), np.array(member))
    assert attack.fit(shadows).threshold == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_without_a_unit_to_score_there_is_no_threshold(attack: LiRA | OfflineLiRA) -> None:
    every = games(2, 20)
    assert attack.fit([]).threshold is None
    assert attack.fit(every).threshold is None  # none has a reference
    both = [replace(one, member=np.ones(20)) for one in every]
    assert attack.fit(against(both)).threshold is None  # every unit is in for every reference


def test_members_alone_give_no_threshold() -> None:
    shadow = against(games(4, 20, halves=True))[0]
    assert OfflineLiRA(SIGNAL).fit([shadow]).threshold is not None
    known = replace(shadow, member=np.where(shadow.member == 1, 1, np.nan))
    assert OfflineLiRA(SIGNAL).fit([known]).threshold is None


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_order_and_the_targets_own_membership_do_not_matter(attack: LiRA | OfflineLiRA) -> None:
    shadows = against(games(21, 30, 2, seed=5))
    target, score = shadows.pop(0), attack.fit(shadows).score
    plain = score(hidden(target))
    for member in (target.member, 1 - target.member):
        assert score(replace(target, member=member)).tobytes() == plain.tobytes()
    backward = replace(target, references=target.references[::-1])
    np.testing.assert_allclose(score(backward), plain, rtol=1e-12, atol=1e-12)
    order = np.random.default_rng(1).permutation(30)
    names = tuple(target.names[i] for i in order)

    def shuffled(one: Evidence) -> Evidence:
        return Evidence(one.features[order], one.member[order], names)

    mixed = replace(shuffled(target), references=tuple(map(shuffled, target.references)))
    np.testing.assert_allclose(score(mixed), plain[order], rtol=1e-12, atol=1e-12)
    assert attack.fit(shadows[::-1]).threshold == pytest.approx(attack.fit(shadows).threshold, rel=1e-12)


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_blocks_do_not_matter(attack: LiRA | OfflineLiRA, monkeypatch: pytest.MonkeyPatch) -> None:
    target = against(games(20, 30, 2))[0]
    plain = attack.fit([]).score(target)
    monkeypatch.setattr(lira, "_BLOCK", 7)
    np.testing.assert_array_equal(attack.fit([]).score(target), plain)


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_a_reference_of_unknown_membership_is_on_neither_side(attack: LiRA | OfflineLiRA) -> None:
    target = against(games(16, 20))[0]
    wild = Evidence(np.full((20, 1), 99.0), np.full(20, np.nan), target.names)
    more = replace(target, references=(*target.references, wild))
    np.testing.assert_array_equal(attack.fit([]).score(more), attack.fit([]).score(target))


def like(gaps: np.ndarray, spread: float, width: int = 1) -> Evidence:
    """Units of which 4 references say the same, 1 in and 1 out, or that and `spread` more, and the target the gaps."""
    names = tuple(map(str, range(len(gaps))))
    ones, levels = np.ones((len(gaps), width)), (1, 1 + spread, -1, -1 - spread)
    references = tuple(Evidence(level * ones, np.full(len(gaps), float(level > 0)), names) for level in levels)
    return Evidence(gaps[:, None] * ones, np.full(len(gaps), np.nan), names, references)


@pytest.mark.parametrize("spread", [1.0, 0.0])
@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_extreme_gaps_neither_tie_nor_overflow(attack: LiRA | OfflineLiRA, spread: float) -> None:
    gaps = np.arange(-800, 801, dtype=np.float64)
    scores = attack.fit([]).score(like(gaps, spread))
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()


@pytest.mark.parametrize("variance", ["fixed", "each"])
def test_the_offline_test_has_one_side(variance: str) -> None:
    """What lies below all that non-members show is no member, however far: the density would say so."""
    scores = OfflineLiRA(SIGNAL, variance).fit([]).score(like(np.array([-60.0, -1.0, 1.0, 60.0]), 0.5, width=2))  # type: ignore[arg-type]
    assert scores.argmin() == 0
    assert scores[0] < -100 < 100 < scores[3]


def test_the_offline_attack_hears_no_reference_that_saw_the_unit() -> None:
    target = against(games(16, 20))[0]
    loud = tuple(
        replace(other, features=np.where(other.member[:, None] == 1, 1e3, other.features))
        for other in target.references
    )
    score = OfflineLiRA(SIGNAL).fit([]).score
    np.testing.assert_array_equal(score(replace(target, references=loud)), score(target))


def test_one_reference_a_side_shares_what_variance_there_is() -> None:
    """Without two references of any unit, the variance over the units; with two on one side, that side's."""
    one, *others = games(4, 15, seed=2)
    inside, outside = (
        replace(other, member=np.full(15, side)) for other, side in zip(others, (1.0, 0.0), strict=False)
    )
    x, a, b = (e.features[:, 0] for e in (one, inside, outside))
    pair = replace(one, references=(inside, outside))

    def expected(variance: float) -> np.ndarray:
        return ((x - b) ** 2 - (x - a) ** 2) / (2 * variance)

    score = LiRA(SIGNAL).fit([]).score
    np.testing.assert_allclose(score(pair), expected(np.var(b)), rtol=1e-10)
    z = (x - b) / np.std(b)
    np.testing.assert_allclose(OfflineLiRA(SIGNAL).fit([]).score(pair), norm.logcdf(z) - norm.logsf(z), rtol=1e-10)
    third = replace(others[2], member=np.where(np.arange(15) == 4, 0.0, np.nan))
    more = replace(pair, references=(inside, outside, third))
    within = np.var([b[4], third.features[4, 0]], ddof=1)
    np.testing.assert_allclose(np.delete(score(more), 4), np.delete(expected(within), 4), rtol=1e-10)


def test_fixed_variance_is_not_biased_by_few_references() -> None:
    """Two references out of 20,000 units whose noise has variance 4: what a deviation over all would make 30."""
    rng, names = np.random.default_rng(0), tuple(map(str, range(20_000)))
    level = 5 * rng.normal(size=(20_000, 1))
    models = [Evidence(level + 2 * rng.normal(size=level.shape), np.zeros(20_000), names) for _ in range(2)]
    z = 1.0
    target = Evidence((models[0].features + models[1].features) / 2 + 2 * z, np.zeros(20_000), names, tuple(models))
    scores = OfflineLiRA(SIGNAL).fit([]).score(target)
    np.testing.assert_allclose(scores, norm.logcdf(z) - norm.logsf(z), rtol=0.02)


def test_online_beats_offline_beats_chance() -> None:
    """Where models remember some units and not others, whoever knows which side is which does better."""
    rng, units, names = np.random.default_rng(7), 4000, tuple(map(str, range(4000)))
    memory, noise = rng.choice([0.2, 3.0], size=(units, 1)), 1.5
    member = rng.random((33, units)) < 0.5
    every = [
        Evidence(memory * m[:, None] + noise * rng.normal(size=(units, 1)), m.astype(float), names) for m in member
    ]
    target = hidden(replace(every[0], references=tuple(every[1:])))
    online, offline = (auc(attack(SIGNAL).fit([]).score(target), member[0]) for attack in (LiRA, OfflineLiRA))
    loss = auc(target.features[:, 0], member[0])
    assert online > offline + 0.01
    assert offline > 0.6
    assert online > loss + 0.01


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_no_references_and_references_about_other_units_are_refused(attack: LiRA | OfflineLiRA) -> None:
    every, name = games(12, 24), type(attack).__name__
    target, score = against(every)[0], attack.fit([]).score
    with pytest.raises(ValueError, match=rf"^{name} compares .* none: set shadows\.count to {attack.least} or more\.$"):
        score(every[0])
    few = games(1, 12)[0]
    two = replace(target, references=(target.references[0], few, *target.references[2:]))
    message = rf"^{name} compares units across models; reference 2 has 12 units and the target 24\. Ask every shadow"
    with pytest.raises(ValueError, match=message):
        score(two)
    with pytest.raises(ValueError, match=message):
        attack.fit([two])
    other = replace(target.references[0], names=target.names[::-1])
    with pytest.raises(ValueError, match=r"reference 1 has 24 units and the target 24, but other ones or in another"):
        score(replace(target, references=(other,)))
    equal = tuple(replace(one, names=tuple(list(one.names))) for one in target.references)
    np.testing.assert_array_equal(score(replace(target, references=equal)), score(target))


def test_a_unit_without_a_side_is_refused() -> None:
    target = against(games(16, 20))[0]

    def seen(units: Sequence[int], times: int, value: float) -> Evidence:
        """These units are on the side `value` of all references but the first `times`, and on the other of those."""
        references = []
        for i, other in enumerate(target.references):
            member = other.member.copy()
            member[list(units)] = 1 - value if i < times else value
            references.append(replace(other, member=member))
        return replace(target, references=tuple(references))

    with pytest.raises(
        ValueError,
        match=r"^For each unit LiRA needs a reference that saw it and one .* 2 of 20 .*\['003', '007'\].*OfflineLiRA",
    ):
        LiRA(SIGNAL).fit([]).score(seen([3, 7], 0, 0.0))
    with pytest.raises(ValueError, match=r"unit LiRA needs .* 1 of 20 .*\['003'\].*shadows\.count.*shadows\.pool"):
        LiRA(SIGNAL).fit([]).score(seen([3], 0, 1.0))
    with pytest.raises(
        ValueError, match=r"OfflineLiRA needs a reference that did not .* 1 of 20 .*\['003'\].*shadows\.count"
    ):
        OfflineLiRA(SIGNAL).fit([]).score(seen([3], 0, 1.0))
    OfflineLiRA(SIGNAL).fit([]).score(seen([3], 0, 0.0))
    for attack, number in (
        (LiRA, "2 references that saw it and 2 that did not"),
        (OfflineLiRA, "2 references that did not see it"),
    ):
        attack(SIGNAL, "fixed").fit([]).score(seen([3], 1, 1.0))
        with pytest.raises(ValueError, match=rf"{number}, .* 1 of 20 .*\['003'\].*variance: fixed.*shadows\.count"):
            attack(SIGNAL, "each").fit([]).score(seen([3], 1, 1.0))
        attack(SIGNAL, "each").fit([]).score(seen([3], 2, 1.0))


@pytest.mark.parametrize("attack", [LiRA, OfflineLiRA])
def test_another_variance_is_refused(attack: type[LiRA] | type[OfflineLiRA]) -> None:
    with pytest.raises(ValueError, match=r"variance must be 'fixed' or 'each', but is 'global'\."):
        attack(SIGNAL, "global")  # type: ignore[arg-type]
