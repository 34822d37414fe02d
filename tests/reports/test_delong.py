"""DeLong's interval against its definition, pair by pair, and against the bootstrap where both are at home."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from hf_mia.reports.delong import delong
from hf_mia.reports.estimates import auc, bootstrap
from hf_mia.reports.report import DRAWN, Report


def drawn(size: int, seed: int = 0, digits: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    member = rng.random(size) < 0.4
    return np.round(rng.normal(size=size) + 0.7 * member, digits), member


@pytest.mark.parametrize("digits", [6, 0], ids=["distinct", "many ties"])
def test_the_variance_is_the_papers(digits: int) -> None:
    scores, member = drawn(60, digits=digits)
    pairs = np.array([[(x > y) + (x == y) / 2 for y in scores[~member]] for x in scores[member]])
    above, below = pairs.mean(axis=1), pairs.mean(axis=0)
    variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
    reach = NormalDist().inv_cdf(0.975) * variance**0.5
    found = delong(scores, member)
    assert (found.value, found.low, found.high) == pytest.approx(
        (pairs.mean(), pairs.mean() - reach, pairs.mean() + reach), abs=1e-12
    )


@pytest.mark.parametrize("digits", [6, 1], ids=["distinct", "ties"])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_it_agrees_with_the_bootstrap_of_many_units(digits: int, confidence: float) -> None:
    scores, member = drawn(DRAWN, digits=digits)
    exact = delong(scores, member, confidence)
    resampled, _ = bootstrap(scores, member, resamples=4000, seed=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    assert exact.low is not None
    assert exact.high is not None
    width = exact.high - exact.low
    assert abs(exact.low - low) < 0.05 * width
    assert abs(exact.high - high) < 0.05 * width


def test_a_report_of_many_units_takes_it() -> None:
    for size, exact in ((DRAWN, False), (DRAWN + 1, True)):
        scores, member = drawn(size)
        report = Report("a", scores, member, tuple(map(str, range(size))), resamples=50)
        assert report.auc.value == auc(scores, member)
        assert (report.auc == delong(scores, member)) is exact


def test_it_covers_the_truth() -> None:
    """Of 400 samples whose AUC is known, about 95 percent: the binomial's 1e-4 limits."""
    shift, inside = 1.0, 0
    truth = NormalDist().cdf(shift / 2**0.5)
    for seed in range(400):
        rng = np.random.default_rng(seed)
        member = np.arange(300) < 150
        found = delong(rng.normal(size=300) + shift * member, member)
        inside += found.low <= truth <= found.high  # type: ignore[operator]
    assert 360 <= inside <= 395


def test_it_is_no_surer_than_perfect_separation() -> None:
    member = np.arange(200) < 100
    perfect = delong(member.astype(float), member)
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(0.025 ** (1 / 100))  # the rule of three, of 100 disjoint pairs
    constant = delong(np.zeros(200), member)
    assert constant.value == 0.5
    assert constant.low == pytest.approx(0.5 * 0.025 ** (1 / 100))
    assert constant.high == pytest.approx(1 - 0.5 * 0.025 ** (1 / 100))


def test_bad_input_is_refused() -> None:
    scores, member = drawn(20)
    with pytest.raises(ValueError, match="confidence: must lie between 0 and 1, not 95"):
        delong(scores, member, 95)
    with pytest.raises(ValueError, match="at least 2 of each class"):
        delong(scores, np.ones(20, dtype=bool))
    with pytest.raises(ValueError, match="every score must be finite"):
        delong(np.full(20, np.nan), member)
