"""Dataset inference against every permutation there is: the p-value, its size under the null, its power."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, kstest

from hf_mia.core import Floats
from hf_mia.reports import inference
from hf_mia.reports.inference import LEVEL, infer, permutation_p


def exact(suspect: Floats, held_out: Floats) -> float:
    """The share of all ways to call as many texts suspect that have at least the same mean."""
    scores = [*suspect.tolist(), *held_out.tolist()]
    own = math.fsum(suspect.tolist())
    ways = list(combinations(scores, len(suspect)))
    return sum(math.fsum(way) >= own - 1e-9 for way in ways) / len(ways)


@pytest.mark.parametrize("digits", [None, 0], ids=["distinct", "tied"])
@pytest.mark.parametrize(("n", "m", "shift"), [(4, 5, 0.0), (5, 4, 1.0), (1, 9, 0.5), (7, 2, -0.5)])
def test_the_p_value_is_the_share_of_permutations(n: int, m: int, shift: float, digits: int | None) -> None:
    rng = np.random.default_rng(n)
    suspect, held_out = rng.normal(shift, size=n), rng.normal(size=m)
    if digits is not None:
        suspect, held_out = suspect.round(digits), held_out.round(digits)
    expected = exact(suspect, held_out)
    found = permutation_p(suspect, held_out, draws=20_000, seed=1)
    assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / 20_000) + 1e-4


def test_it_is_uniform_where_both_sets_are_alike() -> None:
    """Of scores that are anything but normal: each multiple of 1 / (1 + draws) has the same chance."""
    rng = np.random.default_rng(0)
    found = [permutation_p(rng.exponential(size=15) ** 2, rng.exponential(size=25) ** 2, 199, i) for i in range(800)]
    assert kstest(np.array(found) - rng.random(800) / 200, "uniform").pvalue > 1e-3
    assert all(round(p * 200) == pytest.approx(p * 200) and p >= 1 / 200 for p in found)


def test_ties_never_make_it_bolder() -> None:
    """Where all scores are equal nothing tells the sets apart, whatever the order of a sum."""
    assert permutation_p(np.full(7, 0.1), np.full(12, 0.1)) == 1.0
    rng = np.random.default_rng(1)
    small = np.mean([permutation_p(rng.integers(0, 2, 10), rng.integers(0, 2, 10), 199, i) <= 0.05 for i in range(600)])
    assert small <= binom.isf(1e-4, 600, 0.05) / 600


def test_a_small_shift_of_all_texts_shows_where_no_single_text_does() -> None:
    rng = np.random.default_rng(2)
    suspect, held_out = rng.normal(0.2, size=1000), rng.normal(size=1000)
    found = infer(suspect, held_out, repeats=100)
    assert found.p_value == 1 / 1000
    assert (found.suspect, found.held_out, found.repeats) == (1000, 1000, 100)
    assert infer(held_out, suspect, repeats=1).p_value == pytest.approx(1.0, abs=1e-3)  # one-sided


def test_the_control_is_the_same_test_between_random_halves() -> None:
    rng = np.random.default_rng(3)
    suspect, held_out = rng.normal(size=30), rng.exponential(size=61)
    found = infer(suspect, held_out, draws=99, repeats=400, seed=4)
    low, high = binom.ppf([1e-4, 1 - 1e-4], 400, LEVEL - 1e-9)
    assert low <= 400 * found.false_alarms <= high
    shifted = infer(suspect + 100, held_out, draws=99, repeats=400, seed=4)
    assert shifted.false_alarms == found.false_alarms  # it never looks at the suspect
    assert shifted.p_value == 1 / 100


def test_a_test_that_alarms_for_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the suspects always drawn from the low end, the control would say so."""

    def low(size: int, count: int, draws: int, rng: np.random.Generator) -> list[np.ndarray]:
        return [np.zeros((draws, count), dtype=np.int64)]

    monkeypatch.setattr(inference, "_subsets", low)
    found = infer(np.zeros(3), np.random.default_rng(0).normal(size=40), repeats=100)
    assert found.false_alarms > 0.2


def test_memory_is_bounded_by_blocks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    suspect, held_out = rng.normal(0.3, size=20), rng.normal(size=30)
    whole = infer(suspect, held_out, draws=500, repeats=5)
    monkeypatch.setattr(inference, "_BLOCK", 120)
    assert infer(suspect, held_out, draws=500, repeats=5) == whole


@pytest.mark.parametrize(
    ("suspect", "held_out", "changes", "message"),
    [
        ([], [1.0] * 4, {}, r"suspect: .* at least 1, but is of shape \(0,\)"),
        ([1.0], [1.0] * 3, {}, r"held_out: .* at least 4"),
        ([[1.0]], [1.0] * 4, {}, r"suspect: must be one score a text.*\(1, 1\)"),
        ([1.0, np.nan], [1.0] * 4, {}, r"suspect: every score must be finite, but 1 are not.*position 1"),
        ([1.0], [1.0, np.inf, 2.0, 3.0], {}, "held_out: every score must be finite"),
        ([1.0], [1.0] * 4, {"draws": 19}, "draws: must be at least 20"),
        ([1.0], [1.0] * 4, {"repeats": 0}, "repeats: must be at least 1"),
    ],
)
def test_what_cannot_be_tested_is_refused(suspect: list[float], held_out: list[float], changes: dict[str, int], message: str) -> None:  # fmt: skip  # noqa: E501
    with pytest.raises(ValueError, match=message):
        infer(np.array(suspect), np.array(held_out), **changes)


def test_one_permutation_at_least() -> None:
    with pytest.raises(ValueError, match="draws: must be at least 1"):
        permutation_p(np.zeros(2), np.zeros(2), draws=0)
