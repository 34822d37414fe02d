"""RMIA and BASE against a double loop written from the papers, in decimal numbers of 60 digits, or in fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from hf_mia.attacks import lira
from hf_mia.attacks.rmia import BASE, RMIA, OfflineRMIA
from hf_mia.core import Evidence
from hf_mia.reports.estimates import auc, best_threshold
from hf_mia.signals.language import MeanRank

SIGNAL = MeanRank()
Ratio = BASE | RMIA | OfflineRMIA
EVERY = [RMIA(SIGNAL), RMIA(SIGNAL, 1.0), RMIA(SIGNAL, 0.5), OfflineRMIA(SIGNAL), OfflineRMIA(SIGNAL, 1.5, 1.0)]
ALL = [*EVERY, OfflineRMIA(SIGNAL, 2.0, 0.0), BASE(SIGNAL)]
PRECISE = Context(prec=60, Emin=-9999)


def games(models: int, units: int, seed: int = 0, scale: float = 1.0) -> list[Evidence]:
    """Log-probabilities that models trained on random shares of one pool give the right classes: members' are larger.

    `scale` 1 has losses around 1 nat, 800 has probabilities of e^-800, 1e-18 has ones that differ from 1 by so much.
    """
    rng, names = np.random.default_rng(seed), tuple(f"{i:03d}" for i in range(units))
    hard = rng.uniform(0.2, 2, size=(units, 1))
    member = rng.random((models, units)) < rng.uniform(0.35, 0.65, size=units)
    return [
        Evidence(-scale * hard * rng.exponential(np.where(m[:, None], 0.5, 1)), m.astype(float), names) for m in member
    ]


def against(games: Sequence[Evidence]) -> list[Evidence]:
    return [replace(one, references=tuple(other for other in games if other is not one)) for one in games]


def hidden(one: Evidence) -> Evidence:
    return replace(one, member=np.full(len(one.names), np.nan))


def ratios(attack: Ratio, one: Evidence) -> dict[int, Decimal]:
    """p(x) / p_ref(x) of each unit that has the references it takes."""
    found = {}
    for u in range(len(one.names)):
        sides: dict[float, list[Decimal]] = {0.0: [], 1.0: []}
        for other in one.references:
            sides[float(other.member[u])].append(Decimal(float(other.features[u, 0])).exp())
        inside, outside = sides[1.0], sides[0.0]
        p = Decimal(float(one.features[u, 0])).exp()
        if isinstance(attack, BASE):
            found[u] = p / (sum(inside + outside) / len(inside + outside))
        elif isinstance(attack, OfflineRMIA):
            if outside:
                a = Decimal(attack.a)
                found[u] = p / (((1 + a) * sum(outside) / len(outside) + (1 - a)) / 2)
        elif inside and outside:
            found[u] = p / ((sum(inside) / len(inside) + sum(outside) / len(outside)) / 2)
    return found


def naive(attack: Ratio, one: Evidence) -> tuple[dict[int, int], int, dict[int, Decimal]]:
    """How many z each unit dominates, how many there are, and the ratios."""
    with localcontext(PRECISE):
        ratio = ratios(attack, one)
        known = [u for u in ratio if one.member[u] == 0]
        counts = {}
        for x in ratio:
            counts[x] = sum(ratio[x] / ratio[z] >= Decimal(attack.gamma) for z in known or ratio if z != x)  # type: ignore[union-attr]
        return counts, len(known) or len(ratio) - 1, ratio


def score_of(attack: Ratio, one: Evidence) -> dict[int, float]:
    """Scores by the definition: the share, and between shares the place among the distinct ratios."""
    if isinstance(attack, BASE):
        with localcontext(PRECISE):
            return {u: float(r.ln()) for u, r in ratios(attack, one).items()}
    counts, others, ratio = naive(attack, one)
    places = sorted(set(ratio.values()))
    return {u: (counts[u] + (places.index(ratio[u]) + 0.5) / len(places)) / others for u in ratio}


@pytest.mark.parametrize("attack", ALL, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 800.0, 1e-18])
def test_scores_are_the_papers(attack: Ratio, scale: float) -> None:
    target = hidden(against(games(14, 40, scale=scale))[0])
    assert len({sum(other.member[u] for other in target.references) for u in range(40)}) > 3  # sides of unequal size
    expected = score_of(attack, target)
    assert len(expected) == 40
    scores = attack.fit([]).score(target)
    assert np.isfinite(scores).all()
    if isinstance(attack, RMIA):
        counts, others, _ = naive(attack, target)
        assert [floor(score * others) for score in scores] == [counts[u] for u in range(40)]
    np.testing.assert_allclose(scores, [expected[u] for u in range(40)], rtol=1e-11, atol=1e-14 * scale)


@pytest.mark.parametrize("attack", ALL, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 800.0, 1e-18])
def test_no_two_units_tie_whose_ratios_differ(attack: Ratio, scale: float) -> None:
    """The share alone would: of an overfitted model most units dominate all z, or all none."""
    target = hidden(against(games(18, 300, seed=4, scale=scale))[0])
    with localcontext(PRECISE):
        distinct = len(set(ratios(attack, target).values()))
    scores = attack.fit([]).score(target)
    assert len(np.unique(scores)) == distinct == 300
    if isinstance(attack, RMIA) and attack.gamma != 1:
        assert len(set(np.floor(scores * 299))) < 300


def tied(p: Sequence[str], references: Sequence[Sequence[str]], sides: Sequence[int]) -> tuple[Evidence, list]:
    """Evidence of probabilities that are fractions, and the fractions."""
    names = tuple(map(str, range(len(p))))

    def one(row: Sequence[str], member: float) -> Evidence:
        logs = np.log([float(Fraction(x)) for x in row])[:, None]
        return Evidence(logs, np.full(len(p), member), names)

    given = tuple(one(row, float(side)) for row, side in zip(references, sides, strict=True))
    return replace(one(p, np.nan), references=given), [list(map(Fraction, row)) for row in (p, *references)]


@pytest.mark.parametrize("gamma", ["3/2", "2", "3", "1", "1/2"])
@pytest.mark.parametrize("offline", [False, True])
def test_ratios_that_are_gamma_apart_count(gamma: str, offline: bool) -> None:
    """In fractions, where equal is equal: thirds and sevenths that no logarithm in float64 holds exactly."""
    p = ["1/3", "2/3", "1/7", "2/7", "3/7", "6/7", "1/2", "1/4", "3/4", "1/3"]
    rows = [["1/3", "1/3", "1/7", "1/7", "3/7", "3/7", "1/8", "1/8", "1/8", "1/3"]] * 2
    target, (mine, inside, outside) = tied(p, rows, (1, 0))
    half = [(a + b) / 2 for a, b in zip(inside, outside, strict=True)]
    ratio = [x / ((Fraction(5, 4) * o + Fraction(3, 4)) / 2 if offline else h)
             for x, o, h in zip(mine, outside, half, strict=True)]  # fmt: skip
    counts = [sum(ratio[x] / ratio[z] >= Fraction(gamma) for z in range(10) if z != x) for x in range(10)]
    equal = sum(ratio[x] / ratio[z] == Fraction(gamma) for z in range(10) for x in range(10) if z != x)
    assert equal > 0
    attack = OfflineRMIA(SIGNAL, float(Fraction(gamma)), 0.25) if offline else RMIA(SIGNAL, float(Fraction(gamma)))
    scores = attack.fit([]).score(target)
    assert [floor(score * 9) for score in scores] == counts
    assert scores[0] == scores[9]  # equal ratios


@pytest.mark.parametrize(("short", "count"), [(1e-9, 0), (0.0, 1), (-1e-9, 1)])
@pytest.mark.parametrize("level", [0.0, -700.0])
def test_ratios_that_are_almost_gamma_apart_do_not_count(short: float, count: int, level: float) -> None:
    logs, names = np.array([[-1.0 - short], [-1.0 - np.log(2)]]), ("x", "z")
    references = tuple(Evidence(np.full((2, 1), level), np.full(2, side), names) for side in (0.0, 1.0))
    scores = RMIA(SIGNAL).fit([]).score(Evidence(logs, np.full(2, np.nan), names, references))
    assert list(map(floor, scores)) == [count, 0]


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_known_non_members_are_the_population(attack: RMIA) -> None:
    target = hidden(against(games(14, 40))[0])
    member = np.where(np.arange(40) % 3 == 1, 0.0, np.nan)
    some = replace(target, member=member)
    counts, others, _ = naive(attack, some)
    assert others == 13
    scores = attack.fit([]).score(some)
    assert [floor(score * 13) for score in scores] == [counts[u] for u in range(40)]
    assert (scores != attack.fit([]).score(target)).any()


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_the_threshold_is_the_best_of_all_shadows_known_units(attack: Ratio) -> None:
    shadows = against(games(6, 30, seed=3))
    shadows[2] = replace(shadows[2], member=np.where(np.arange(30) < 9, np.nan, shadows[2].member))
    scores, member = [], []
    for shadow in shadows:
        found = score_of(attack, hidden(shadow))  # so that non-members are no population here either
        known = [u for u in found if not np.isnan(shadow.member[u])]
        scores += [found[u] for u in known]
        member += [shadow.member[u] == 1 for u in known]
    assert len(scores) < 6 * 30 - 9 or isinstance(attack, BASE)  # some units lack references and are left out
    expected = best_threshold(np.array(scores), np.array(member))
    assert attack.fit(shadows).threshold == pytest.approx(expected, rel=1e-9)
    assert attack.fit([]).threshold is None
    assert attack.fit(games(3, 20)).threshold is None


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_order_and_the_targets_own_membership_do_not_matter(attack: Ratio, monkeypatch: pytest.MonkeyPatch) -> None:
    shadows = against(games(16, 30, seed=5))
    target, score = shadows.pop(0), attack.fit(shadows).score
    plain = score(hidden(target))
    assert score(replace(target, member=np.ones(30))).tobytes() == plain.tobytes()
    backward = replace(hidden(target), references=target.references[::-1])
    np.testing.assert_allclose(score(backward), plain, rtol=1e-12, atol=1e-12)
    order = np.random.default_rng(1).permutation(30)
    names = tuple(target.names[i] for i in order)

    def shuffled(one: Evidence) -> Evidence:
        return Evidence(one.features[order], one.member[order], names)

    mixed = replace(shuffled(hidden(target)), references=tuple(map(shuffled, target.references)))
    np.testing.assert_array_equal(score(mixed), plain[order])
    monkeypatch.setattr(lira, "_BLOCK", 7)
    np.testing.assert_array_equal(score(hidden(target)), plain)


@pytest.mark.parametrize("gamma", [1.1, 2.0, 50.0])
def test_gamma_does_not_change_who_is_above_whom(gamma: float) -> None:
    """All units meet the same population, so the share grows with the ratio; and with equal halves that is BASE's."""
    every = games(9, 60, seed=1)
    halves = [replace(one, member=(np.arange(60) + i) % 2 * 1.0) for i, one in enumerate(every[1:])]
    target = replace(hidden(every[0]), references=tuple(halves))
    ranks = [np.argsort(attack.fit([]).score(target)) for attack in (RMIA(SIGNAL, gamma), BASE(SIGNAL))]
    np.testing.assert_array_equal(*ranks)


def test_the_offline_attack_hears_no_reference_that_saw_the_unit() -> None:
    target = hidden(against(games(16, 20))[0])
    loud = tuple(
        replace(other, features=np.where(other.member[:, None] == 1, -1e-3, other.features))
        for other in target.references
    )
    score = OfflineRMIA(SIGNAL).fit([]).score
    np.testing.assert_array_equal(score(replace(target, references=loud)), score(target))


def test_finds_members_where_models_remember() -> None:
    for attack in ALL:
        every = games(25, 600, seed=11)
        target = replace(every[0], references=tuple(every[1:]))
        assert auc(attack.fit([]).score(hidden(target)), target.member == 1) > 0.58


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_what_cannot_be_compared_is_refused(attack: Ratio) -> None:
    every, name = games(16, 24), type(attack).__name__
    target, score = hidden(against(every)[0]), attack.fit([]).score
    with pytest.raises(ValueError, match=rf"^{name} compares .* none: set shadows\.count to {attack.least} or more\.$"):
        score(every[0])
    few = replace(target, references=(games(1, 12)[0],))
    with pytest.raises(ValueError, match=rf"^{name} compares units across models; reference 1 has 12 units and the t"):
        score(few)
    wide = replace(target, features=np.hstack([target.features, target.features]))
    with pytest.raises(ValueError, match=rf"{name} needs a signal of one number a unit, but .* gives 2: take Loss"):
        score(wide)
    above = replace(target, features=target.features + 3)
    with pytest.raises(ValueError, match=rf"{name} needs a signal of log-probabilities, but .* above 0: take Loss"):
        score(above)


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_a_unit_without_a_side_is_refused(attack: RMIA) -> None:
    target, name = hidden(against(games(16, 20))[0]), type(attack).__name__

    def seen(value: float) -> Evidence:
        where = np.isin(np.arange(20), [3, 7])
        references = tuple(replace(o, member=np.where(where, value, o.member)) for o in target.references)
        return replace(target, references=references)

    way_out = "raise shadows" if isinstance(attack, OfflineRMIA) else "take OfflineRMIA, raise shadows.count, or set"
    with pytest.raises(ValueError, match=rf"^For each unit {name} needs .* 2 of 20 .*\['003', '007'\]: {way_out}"):
        attack.fit([]).score(seen(1.0))
    if isinstance(attack, OfflineRMIA):
        assert np.isfinite(attack.fit([]).score(seen(0.0))).all()
    else:
        with pytest.raises(ValueError, match=rf"^For each unit {name} needs .* 2 of 20 .*: {way_out}"):
            attack.fit([]).score(seen(0.0))


def test_one_unit_alone_has_no_rank() -> None:
    names = ("only",)
    references = tuple(Evidence(np.array([[-1.0]]), np.array([side]), names) for side in (0.0, 1.0))
    target = Evidence(np.array([[-0.5]]), np.array([np.nan]), names, references)
    with pytest.raises(ValueError, match=r"RMIA compares a unit with others, but .* only 'only': add known non-mem"):
        RMIA(SIGNAL).fit([]).score(target)
    assert BASE(SIGNAL).fit([]).score(target) == pytest.approx([0.5])


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("attack", [RMIA, OfflineRMIA])
def test_a_gamma_that_is_not_positive_is_refused(attack: type[RMIA], gamma: float) -> None:
    with pytest.raises(ValueError, match=rf"gamma must be above 0, such as 2\.0, but is {gamma}\."):
        attack(SIGNAL, gamma)


@pytest.mark.parametrize("a", [-0.1, 1.1, float("nan")])
def test_an_a_outside_of_its_range_is_refused(a: float) -> None:
    with pytest.raises(ValueError, match=rf"a must be at least 0 and at most 1, such as 0\.3, but is {a}\."):
        OfflineRMIA(SIGNAL, a=a)
