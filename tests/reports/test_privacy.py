"""Bounds on epsilon: the published formulas term by term, and mechanisms whose epsilon is known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped, unused-ignore]

from hf_mia.reports import privacy
from hf_mia.reports.privacy import (
    Epsilon,
    Method,
    check_randomised,
    epsilon_from_guesses,
    epsilon_from_threshold,
    epsilon_one_run,
    one_run_p_value,
)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
RUNS = 300
MOST = int(stats.binom.ppf(0.999, RUNS, 0.05))  # bounds of 95 % that may fail, one such test in a thousand


def coins(units: int, rng: np.random.Generator) -> Bools:
    return rng.random(units) < 0.5


def response(member: Bools, epsilon: float, rng: np.random.Generator) -> Floats:
    """Randomised response: the truth with chance e^epsilon / (1 + e^epsilon), otherwise its opposite."""
    honest = rng.random(member.size) < math.exp(epsilon) / (1 + math.exp(epsilon))
    return np.where(honest, member, ~member).astype(np.float64)


def laplace(member: Bools, epsilon: float, rng: np.random.Generator) -> Floats:
    """The Laplace mechanism on one bit: no threshold shows more than epsilon, and many show as much."""
    return np.asarray(member + rng.laplace(scale=1 / epsilon, size=member.size), dtype=np.float64)


def naive_threshold(scores: Floats, member: Bools, threshold: float, delta: float, confidence: float) -> float:
    """Both inequalities of (epsilon, delta)-privacy, with scipy's Clopper-Pearson intervals."""
    called = scores >= threshold

    def ends(k: int, n: int) -> tuple[float, float]:
        interval = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
        return float(interval.low), float(interval.high)

    members, others = int(member.sum()), int((~member).sum())
    tpr_low = ends(int((called & member).sum()), members)[0]
    fnr_high = ends(int((~called & member).sum()), members)[1]
    fpr_high = ends(int((called & ~member).sum()), others)[1]
    tnr_low = ends(int((~called & ~member).sum()), others)[0]
    found = [0.0]
    if tpr_low > delta:
        found.append(math.log((tpr_low - delta) / fpr_high))
    if tnr_low > delta:
        found.append(math.log((tnr_low - delta) / fnr_high))
    return max(found)


def naive_p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 as a sum: f(v) + 2 m delta max_i (f(v - i) - f(v)) / i, f(v) = P[Binomial(r, q) >= v]."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))

    def f(least: int) -> float:
        return sum(math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(max(least, 0), r + 1))

    gained = max([(f(v - i) - f(v)) / i for i in range(1, v + 1)], default=0.0)
    return min(f(v) + 2 * m * delta * gained, 1.0)


@pytest.mark.parametrize("delta", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_a_given_threshold_is_the_naive_formula(seed: int, delta: float) -> None:
    rng = np.random.default_rng(seed)
    member = coins(80 + 30 * seed, rng)
    scores = rng.normal(size=member.size).round(1) + (seed - 1) * member
    for threshold in (-1.0, 0.0, 0.7, 3.0, 9.0):
        found = epsilon_from_threshold(scores, member, delta, 0.9, provenance="random_split", threshold=threshold)
        assert found.value == pytest.approx(naive_threshold(scores, member, threshold, delta, 0.9), abs=1e-9)
        assert (found.delta, found.confidence, found.method) == (delta, 0.9, "threshold")
        assert (found.threshold, found.guesses) == (threshold, None)


def test_either_inequality_may_be_the_one_that_shows() -> None:
    member = np.arange(2000) < 1000
    few_found = np.where(np.arange(2000) < 300, 1.0, 0.0)  # 30 % of members and no one else
    few_cleared = np.where(np.arange(2000) < 1700, 1.0, 0.0)  # 30 % of non-members and no one else
    for scores in (few_found, few_cleared):
        value = epsilon_from_threshold(scores, member, 0, provenance="coin", threshold=0.5).value
        low = stats.beta.ppf(0.025, 300, 701)
        assert value == pytest.approx(math.log(low / (1 - 0.025 ** (1 / 1000))))


def test_thresholds_tried_are_paid_for_and_hang_on_nonmembers_alone() -> None:
    rng = np.random.default_rng(3)
    member = coins(400, rng)
    scores = laplace(member, 2.0, rng)
    found = epsilon_from_threshold(scores, member, 1e-5, provenance="coin", tries=7)
    bars = privacy._ranked(scores[~member], 7)
    assert len(bars) == 7
    assert all(above > below for above, below in pairwise(bars))
    assert bars[0] > scores[~member].max()
    assert set(bars[1:]) <= set(scores[~member])
    assert privacy._ranked(np.arange(1.0, 101), 3).tolist() == [np.nextafter(100, 101), 51, 2]  # the 50th, the 99th
    paid = [naive_threshold(scores, member, bar, 1e-5, 1 - 0.05 / 7) for bar in bars]
    assert found.value == pytest.approx(max(paid))
    assert found.threshold == bars[int(np.argmax(paid))]
    assert "7 tried" in found.note


@pytest.mark.parametrize("delta", [0.0, 1e-4, 0.01, 0.4])
def test_the_p_value_is_the_theorems(delta: float) -> None:
    for m, r in ((1, 1), (12, 5), (40, 40), (60, 25)):
        for v in range(r + 1):
            for epsilon in (0.0, 0.3, 2.0):
                expected = naive_p_value(m, r, v, epsilon, delta)
                assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_papers_own_example() -> None:
    """Appendix D of arXiv 2305.08846: 75 of 100 guesses right among 1,000 units, delta = 1e-4, 95 %: 0.673."""
    assert epsilon_from_guesses(1000, 100, 75, 1e-4, 0.95) == pytest.approx(0.673, abs=5e-4)


@pytest.mark.parametrize("units", [5, 50, 1000])
def test_perfect_separation_has_a_closed_form(units: int) -> None:
    """All right: q^m = alpha, epsilon = logit of alpha^(1/m)."""
    member = coins(units, np.random.default_rng(1))
    member[:2] = True, False
    found = epsilon_one_run(member * 2.0, member, 0.0, guesses=(member.sum(), (~member).sum()), provenance="coin")
    chance = 0.05 ** (1 / units)
    assert found.value == pytest.approx(math.log(chance / (1 - chance)), abs=1e-9)
    assert found.correct == units


@pytest.mark.parametrize(("guesses", "delta"), [((10, 10), 0.0), ((30, 0), 1e-3), ((0, 25), 1e-3), ((60, 60), 1e-5)])
def test_guesses_are_the_highest_and_the_lowest(guesses: tuple[int, int], delta: float) -> None:
    rng = np.random.default_rng(5)
    member = coins(120, rng)
    scores = laplace(member, 4.0, rng)
    order = sorted(range(120), key=lambda i: scores[i])
    right = [bool(member[i]) for i in order[120 - guesses[0] :]] + [not member[i] for i in order[: guesses[1]]]
    found = epsilon_one_run(scores, member, delta, 0.9, guesses, provenance="coin")
    assert (found.guesses, found.correct, found.threshold) == (guesses, sum(right), None)
    assert found.value > 0
    just_below, just_above = found.value - 1e-6, found.value + 1e-6
    assert naive_p_value(120, sum(guesses), sum(right), just_below, delta) < 0.1
    assert naive_p_value(120, sum(guesses), sum(right), just_above, delta) >= 0.1


def test_numbers_of_guesses_tried_are_paid_for() -> None:
    rng = np.random.default_rng(6)
    member = coins(400, rng)
    scores = laplace(member, 3.0, rng)
    listed = privacy._listed(400)
    assert len(listed) == len(set(listed)) == 7
    assert max(sum(pair) for pair in listed) == 400
    sure = 1 - 0.05 / 7
    single = [epsilon_one_run(scores, member, 1e-5, sure, pair, provenance="coin").value for pair in listed]
    found = epsilon_one_run(scores, member, 1e-5, provenance="coin")
    assert found.value == pytest.approx(max(single), abs=1e-12)
    assert found.guesses == listed[int(np.argmax(single))]
    assert (found.confidence, found.method) == (0.95, "one-run")


def test_ties_do_not_leak_who_comes_first() -> None:
    """Members first and all scores equal: whoever took the order for a score would find everyone."""
    member, most = np.arange(1000) < 500, int(stats.binom.ppf(0.999, 60, 0.05))
    for order in (member, ~member):
        for guesses in (None, (500, 0), (0, 500), (100, 100)):
            draws = [
                epsilon_one_run(np.zeros(1000), order, 0.0, 0.95, guesses, provenance="coin", seed=s) for s in range(60)
            ]
            assert sum(draw.value > 0 for draw in draws) <= most
        assert epsilon_from_threshold(np.zeros(1000), order, 0.0, provenance="coin").value == 0


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 0.0), (3.0, 1e-3)])
@pytest.mark.parametrize("form", ["given", "tried", "one run", "one run, tried"])
def test_bounds_hold_as_often_as_they_say(form: str, epsilon: float, delta: float) -> None:
    """On randomised response, and on the Laplace mechanism where a threshold is to be found; delta tells the truth."""
    rng, units = np.random.default_rng([7, int(10 * epsilon)]), 250
    values = []
    for _ in range(RUNS):
        member = coins(units, rng)
        made = laplace if epsilon and form.endswith("tried") else response
        shown = rng.random(units) < delta
        scores = np.where(shown, np.where(member, 99.0, -99.0), made(member, epsilon, rng))
        values.append(
            {
                "given": lambda s, m: epsilon_from_threshold(s, m, delta, provenance="coin", threshold=0.5),
                "tried": lambda s, m: epsilon_from_threshold(s, m, delta, provenance="coin"),
                "one run": lambda s, m: epsilon_one_run(s, m, delta, guesses=(125, 125), provenance="coin"),
                "one run, tried": lambda s, m: epsilon_one_run(s, m, delta, provenance="coin"),
            }[form](scores, member).value
        )
    assert sum(value > epsilon for value in values) <= MOST
    assert min(values) >= 0


def test_one_run_is_exact_where_all_is_guessed() -> None:
    """Thresholded at 1/2, randomised response makes the theorem an equality: the bound fails in nearly 5 % of runs."""
    rng, failed = np.random.default_rng(11), 0
    for _ in range(RUNS):
        member = coins(250, rng)
        said = response(member, 1.0, rng)
        guesses = (int(said.sum()), int((1 - said).sum()))
        failed += epsilon_one_run(said, member, 0.0, guesses=guesses, provenance="coin").value > 1.0
    chance = max(stats.binom.sf(v - 1, 250, math.e / (1 + math.e)) for v in range(251) if _rejects(v))
    low, high = stats.binom.ppf([0.001, 0.999], RUNS, chance)
    assert 0.03 < chance < 0.05
    assert low <= failed <= high


def _rejects(correct: int) -> bool:
    return epsilon_from_guesses(250, 250, correct, 0.0, 0.95) > 1.0


def test_many_units_come_close() -> None:
    rng = np.random.default_rng(8)
    member = coins(100_000, rng)
    for epsilon in (0.5, 1.0, 3.0):
        scores = response(member, epsilon, rng)
        threshold = epsilon_from_threshold(scores, member, 0.0, provenance="coin", threshold=0.5).value
        tried = epsilon_from_threshold(scores, member, 0.0, provenance="coin").value
        half = epsilon_one_run(scores, member, 0.0, guesses=(49_000, 49_000), provenance="coin").value
        for value in (threshold, tried, half):
            assert 0.9 * epsilon < value < 1.02 * epsilon


def test_scores_that_know_nothing_show_nothing() -> None:
    rng = np.random.default_rng(9)
    member = coins(2000, rng)
    for scores in (rng.normal(size=2000), -1.0 * member):  # the wrong way round is nothing as well
        assert epsilon_from_threshold(scores, member, 1e-5, provenance="canary").value == 0
        assert epsilon_one_run(scores, member, 1e-5, provenance="coin").value == 0


def test_delta_costs() -> None:
    member = coins(500, np.random.default_rng(10))
    values = [
        (
            epsilon_from_threshold(member * 1.0, member, delta, provenance="coin", threshold=0.5).value,
            epsilon_one_run(member * 1.0, member, delta, guesses=(200, 200), provenance="coin").value,
        )
        for delta in (0.0, 1e-4, 1e-2)
    ]
    assert all(a > b for before, after in pairwise(values) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("provenance", ["post_hoc", "unknown", "", "Coin"])
@pytest.mark.parametrize("method", ["threshold", "one-run"])
def test_membership_must_be_random(method: Method, provenance: str) -> None:
    with pytest.raises(ValueError, match=r"drawn at random, but it is .* may then differ by themselves.*'coin'"):
        check_randomised(provenance, method)
    audit = epsilon_from_threshold if method == "threshold" else epsilon_one_run
    with pytest.raises(ValueError, match="drawn at random"):
        audit(np.arange(4.0), np.arange(4) < 2, 0.0, provenance=provenance)


def test_one_run_needs_coins() -> None:
    for provenance in ("random_split", "canary", "coin"):
        check_randomised(provenance, "threshold")
    check_randomised("coin", "one-run")
    for provenance in ("random_split", "canary"):
        with pytest.raises(ValueError, match=r"independent fair coin .*split\.coin to true.*epsilon_from_threshold"):
            epsilon_one_run(np.arange(4.0), np.arange(4) < 2, 0.0, provenance=provenance)


def test_errors_name_the_way_out() -> None:
    scores, member = np.arange(6.0), np.arange(6) >= 3
    for delta, confidence in ((-0.1, 0.95), (1.0, 0.95), (math.nan, 0.95), (0.0, 0.0), (0.0, 1.0), (0.0, 95)):
        for audit in (epsilon_from_threshold, epsilon_one_run):
            with pytest.raises(ValueError, match=r"0 <= delta < 1 and 0 < confidence < 1 must hold, not .* as 0\.95"):
                audit(scores, member, delta, confidence, provenance="coin")
    for guesses in ((0, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match=r"guesses: .* together 1 to 6 units, not \("):
            epsilon_one_run(scores, member, 0.0, guesses=guesses, provenance="coin")
    with pytest.raises(ValueError, match=r"tries: .* at least 1, not None, 0\. None has 10 tried"):
        epsilon_from_threshold(scores, member, 0.0, provenance="coin", tries=0)
    with pytest.raises(ValueError, match=r"threshold, tries: must be a finite number .* not nan"):
        epsilon_from_threshold(scores, member, 0.0, provenance="coin", threshold=math.nan)
    with pytest.raises(ValueError, match="scores: every score must be finite"):
        epsilon_one_run(np.full(6, math.inf), member, 0.0, provenance="coin")
    with pytest.raises(ValueError, match="at least 1 of each class"):
        epsilon_from_threshold(scores, scores < 9, 0.0, provenance="coin")


def test_it_is_frozen_and_plain() -> None:
    found = epsilon_one_run(np.arange(6.0), np.arange(6) >= 3, 0.0, provenance="coin")
    assert isinstance(found, Epsilon)
    assert type(found.value) is float
    with pytest.raises(AttributeError):
        found.value = 9.0  # type: ignore[misc]
