"""Every number of the report against a naive loop, scikit-learn or scipy, never against itself."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped, unused-ignore]
from sklearn.metrics import (  # type: ignore[import-untyped, unused-ignore]
    accuracy_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from hf_mia.reports import estimates
from hf_mia.reports.estimates import Estimate, auc, best_threshold, bootstrap, clopper_pearson, roc, tpr_at
from hf_mia.reports.report import Report

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def world(members: int, others: int, shift: float, digits: int | None, seed: int = 0) -> tuple[Floats, Bools]:
    rng = np.random.default_rng(seed)
    member = rng.permutation(members + others) < members
    scores = rng.normal(size=members + others) + shift * member
    return np.asarray(scores if digits is None else np.round(scores, digits), dtype=np.float64), member


def made(scores: Floats, member: Bools, threshold: float | None = None, seed: int = 0, name: str = "attack") -> Report:
    return Report(name, scores, member, tuple(f"unit {i}" for i in range(len(scores))), threshold, seed=seed)


HALVES = np.arange(40) < 20
TABLE = {
    "continuous": world(60, 90, 0.7, None),
    "ties": world(60, 90, 0.7, 0),
    "many ties": world(300, 200, 1.0, 1),
    "constant": (np.zeros(40), HALVES),
    "perfect": (np.where(HALVES, 2.0, 1.0), HALVES),
    "reversed": (np.where(HALVES, -2.0, -1.0), HALVES),
    "one of each": (np.array([0.25, 0.75]), np.array([True, False])),
    "huge and tiny": (np.array([-1e308, 1e308, 5e-324, 0.0, 1e308]), np.array([False, True, True, False, False])),
}
every = pytest.mark.parametrize(("scores", "member"), TABLE.values(), ids=TABLE.keys())
FPRS = (0.0, 0.001, 1 / 90, 0.01, 0.025, 0.05, 0.07, 0.1, 0.29, 0.5, 0.999, 1.0)


def naive_tpr_at(scores: Floats, member: Bools, fpr: float) -> float | None:
    """Try every threshold."""
    others = int((~member).sum())
    if fpr < 1 / others:
        return None
    best = 0.0
    for threshold in scores:
        called = scores >= threshold
        if (called & ~member).sum() / others <= fpr:
            best = max(best, (called & member).sum() / member.sum())
    return best


def ranked(ours: Floats, others: Floats) -> float:
    """The AUC by scipy's mid-ranks."""
    ranks = stats.rankdata(np.concatenate([ours, others]))[: len(ours)]
    return float(ranks.sum() - len(ours) * (len(ours) + 1) / 2) / (len(ours) * len(others))


@every
def test_auc(scores: Floats, member: Bools) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[member] for b in scores[~member]]
    assert auc(scores, member) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auc(scores, member) == pytest.approx(roc_auc_score(member, scores), abs=1e-12)
    statistic = stats.mannwhitneyu(scores[member], scores[~member]).statistic
    assert auc(scores, member) == pytest.approx(statistic / len(pairs), abs=1e-12)


def test_auc_is_exact_where_floats_would_round() -> None:
    scores, member = world(700, 300, 0.1, None)
    assert auc(scores, member) + auc(-scores, member) == 1.0


@every
def test_roc(scores: Floats, member: Bools) -> None:
    fpr, tpr, thresholds = roc(scores, member)
    theirs = roc_curve(member, scores, drop_intermediate=False)
    for ours, reference in zip((fpr, tpr, thresholds), theirs, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-15)
    assert len(fpr) == 1 + len(set(scores.tolist()))
    for x, y, threshold in zip(fpr, tpr, thresholds, strict=True):
        called = scores >= threshold
        assert (x, y) == (called[~member].mean(), called[member].mean())


@every
@pytest.mark.parametrize("fpr", FPRS)
def test_tpr_at(scores: Floats, member: Bools, fpr: float) -> None:
    assert tpr_at(scores, member, fpr) == naive_tpr_at(scores, member, fpr)


@pytest.mark.parametrize("others", [7, 10, 49, 100, 300, 1000])
def test_tpr_at_survives_the_rounding_of_the_rate(others: int) -> None:
    scores = np.concatenate([np.arange(others) + 0.5, np.arange(others)])
    member = np.arange(2 * others) < others
    for k in range(1, others):
        assert tpr_at(scores, member, k / others) == (k + 1) / others  # 0.29 * 100 is 28.999999999999996


def test_tied_units_enter_together() -> None:
    scores = np.array([1.0] * 50 + [1.0] * 50 + [0.0] * 50)
    member = np.arange(150) < 50
    assert tpr_at(scores, member, 0.1) == 0.0  # letting in any of the ties lets in half of the non-members
    assert tpr_at(scores, member, 0.5) == 1.0


@pytest.mark.parametrize(
    ("others", "fpr", "known"), [(99, 0.01, False), (100, 0.01, True), (999, 0.001, False), (1000, 0.001, True)]
)
def test_rates_below_one_in_n_are_not_available(others: int, fpr: float, known: bool) -> None:
    scores, member = world(20, others, 1.0, None)
    assert (tpr_at(scores, member, fpr) is not None) == known
    estimate = made(scores, member).tpr_at(fpr)
    assert (estimate != Estimate(None, None, None)) == known
    if not known:
        assert str(estimate) == "n/a"
        with pytest.raises(ValueError, match=f"fprs: .*1 / {others}"):
            bootstrap(scores, member, (fpr,))


@every
def test_best_threshold(scores: Floats, member: Bools) -> None:
    def accuracy(threshold: float) -> float:
        return float(((scores >= threshold) == member).mean())

    distinct = np.unique(scores)
    threshold = best_threshold(scores, member)
    assert math.isfinite(threshold) or distinct[-1] > 1e308
    assert accuracy(threshold) == max(accuracy(t) for t in [*distinct, np.inf])
    if distinct[0] < threshold <= distinct[-1]:
        low, high = distinct[distinct < threshold].max(), distinct[distinct >= threshold].min()
        assert threshold == pytest.approx(low / 2 + high / 2, abs=0, rel=1e-15) or threshold == high


def test_best_threshold_at_the_ends() -> None:
    member = np.array([True, True, False])
    assert best_threshold(np.array([1.0, 2.0, 3.0]), member) == 1.0  # all
    assert best_threshold(np.array([1.0, 2.0, 3.0]), ~member) == 2.5
    assert best_threshold(np.array([1.0, 1.0, 1.0]), ~member) == np.nextafter(1.0, 2.0)  # none
    close = np.array([1.0, np.nextafter(1.0, 2.0)])
    assert best_threshold(close, np.array([False, True])) == close[1]  # no float lies between


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (3, 20), (999, 1000), (123_456, 1_000_000)])
def test_clopper_pearson(k: int, n: int, confidence: float) -> None:
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    ours = clopper_pearson(k, n, confidence)
    assert (ours.value, ours.low, ours.high) == pytest.approx((k / n, theirs.low, theirs.high), rel=1e-9)


def test_clopper_pearson_covers() -> None:
    n, share = 30, 0.13
    covered = 0.0
    for k in range(n + 1):  # the coverage itself, no simulation
        interval = clopper_pearson(k, n, 0.9)
        assert interval.low is not None
        assert interval.high is not None
        covered += stats.binom.pmf(k, n, share) * (interval.low <= share <= interval.high)
    assert covered >= 0.9
    assert clopper_pearson(0, 0) == Estimate()


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 3, 0.9), (4, 3, 0.9), (1, 3, 0.0), (1, 3, 1.0), (1, 3, 95.0)])
def test_clopper_pearson_refuses(k: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"k, n, confidence: "):
        clopper_pearson(k, n, confidence)


BAD = {
    "nan": ([0.0, np.nan, 1.0, 2.0], [0, 1, 0, 1], "scores: .*nan at unit 1.*logits"),
    "infinities": ([np.inf, 0.0, -np.inf, 1.0], [0, 1, 0, 1], "scores: .*inf at unit 0, -inf at unit 2"),
    "many": ([np.nan] * 8, [0, 1] * 4, "at unit 4 and 3 more"),
    "only members": ([0.0, 1.0, 2.0], [1, 1, 1], "member: .*3 members and 0 non-members"),
    "only non-members": ([0.0, 1.0, 2.0], [0, 0, 0], "member: .*0 members and 3 non-members"),
    "unknown": ([0.0, 1.0, 2.0], [0, 1, np.nan], "member: .*nan at unit 2.*leave it out"),
    "labels": ([0.0, 1.0, 2.0], [0, 1, -1], "member: .*-1 at unit 2"),
    "lengths": ([0.0, 1.0, 2.0], [0, 1], r"member: .*\(2,\).*\(3,\)"),
    "records": ([[0.0, 1.0]] * 2, [0, 1], "member: .*Fold"),
}


@pytest.mark.parametrize(("scores", "member", "message"), BAD.values(), ids=BAD.keys())
def test_bad_scores_are_refused(scores: list[float], member: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(np.array(scores), np.array(member))
    for function in (auc, roc, best_threshold, lambda s, m: tpr_at(s, m, 0.5), lambda s, m: bootstrap(s, m)):
        with pytest.raises(ValueError, match=message.replace("unit", "position")):
            function(np.array(scores), np.array(member))


def test_members_given_as_numbers_are_not_positions() -> None:
    scores, member = world(30, 30, 1.0, None)
    assert auc(scores, member.astype(np.int64)) == auc(scores, member)  # type: ignore[arg-type, unused-ignore]
    assert tpr_at(scores, member.astype(float), 0.1) == tpr_at(scores, member, 0.1)  # type: ignore[arg-type, unused-ignore]


def test_bad_reports_are_refused() -> None:
    good = made(*world(5, 5, 1.0, None))
    for changes, message in (
        ({"units": good.units[:-1]}, "units: .*9 names, 10 scores"),
        ({"units": ("twin", "twin", *good.units[2:])}, "units: .*'twin' repeats"),
        ({"member": np.arange(10) < 1}, "member: at least 2 of each.*1 members"),
        ({"threshold": math.nan}, "threshold: .*nan.*None"),
        ({"threshold": math.inf}, "threshold: "),
        ({"confidence": 95.0}, "confidence: .*0.95"),
        ({"resamples": 0}, "resamples, seed: "),
        ({"seed": -1}, "resamples, seed: "),
        ({"fprs": (1.0, 5.0)}, "fpr: .*5.0"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(good, **changes)  # type: ignore[arg-type, unused-ignore]
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"high: .*None"):
            Estimate(0.5, 0.4, number)


# The bootstrap


@pytest.mark.parametrize("shift", [0.8, -2.0])
@pytest.mark.parametrize("digits", [None, 1, 0])
def test_each_resample_is_the_statistic_of_a_real_resample(digits: int | None, shift: float) -> None:
    scores, member = world(50, 80, shift, digits)
    fprs = (1 / 80, 0.1, 0.5, 1.0)
    aucs, tprs = bootstrap(scores, member, fprs, resamples=30, seed=4)
    ups, downs = (np.concatenate(blocks) for blocks in zip(*estimates.stratified_draws(member, 30, 4), strict=True))
    ours, others = np.sort(scores[member]), np.sort(scores[~member])
    truth = np.repeat([True, False], [50, 80])
    for row, (up, down) in enumerate(zip(ups, downs, strict=True)):
        drawn = np.concatenate([ours[up], others[down]])
        assert aucs[row] == pytest.approx(roc_auc_score(truth, drawn), abs=1e-12)
        assert tprs[row].tolist() == [naive_tpr_at(drawn, truth, fpr) for fpr in fprs]


def test_draws_are_uniform_and_independent() -> None:
    member = np.arange(12) < 5
    ups, downs = (np.concatenate(blocks) for blocks in zip(*estimates.stratified_draws(member, 4000, 0), strict=True))
    for draws, size in ((ups, 5), (downs, 7)):
        assert draws.shape == (4000, size)
        assert stats.chisquare(np.bincount(draws.ravel(), minlength=size)).pvalue > 1e-3
    pairs = np.bincount(ups[:, 0] * 7 + downs[:, 0], minlength=35).reshape(5, 7)
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_the_spread_is_that_of_a_naive_bootstrap() -> None:
    scores, member = world(60, 60, 0.8, 1)
    ours, others = scores[member], scores[~member]
    rng = np.random.default_rng(9)
    naive = [ranked(rng.choice(ours, 60), rng.choice(others, 60)) for _ in range(1500)]
    aucs, _ = bootstrap(scores, member, resamples=1500)
    assert stats.ks_2samp(naive, aucs).pvalue > 1e-3


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, member = world(33, 50, 0.8, 1)
    whole = bootstrap(scores, member, (0.1,), resamples=101)
    for block in (1, 83 * 7, 83 * 50):
        monkeypatch.setattr(estimates, "_BLOCK", block)
        for ours, theirs in zip(bootstrap(scores, member, (0.1,), resamples=101), whole, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("digits", [None, 0])
def test_the_order_of_units_does_not_matter(digits: int | None) -> None:
    scores, member = world(60, 90, 0.7, digits)
    other = np.round(scores + np.random.default_rng(5).normal(size=150), 1)
    order = np.random.default_rng(6).permutation(150)
    first, second = made(scores, member, 0.3), made(other, member)
    units = tuple(first.units[i] for i in order)
    moved = Report("attack", scores[order], member[order], units, 0.3)
    assert moved.summary() == first.summary()
    assert moved.auc_above(Report("attack", other[order], member[order], units)) == first.auc_above(second)


# The report


@pytest.mark.parametrize("world", [name for name in TABLE if name != "one of each"])  # a report needs two of each
def test_rates_at_the_threshold(world: str) -> None:
    scores, member = TABLE[world]
    for threshold in (*np.unique(scores)[:5], 0.5):
        report = made(scores, member, float(threshold))
        called = scores >= threshold
        assert report.accuracy.value == pytest.approx(accuracy_score(member, called))
        assert report.recall.value == pytest.approx(recall_score(member, called))
        advantage = called[member].mean() - called[~member].mean()
        assert report.advantage.value == pytest.approx(advantage)
        if called.any():
            assert report.precision.value == pytest.approx(precision_score(member, called))
        else:
            assert report.precision == Estimate()


def test_intervals_are_those_of_scipy() -> None:
    scores, member = world(200, 300, 1.0, 1)
    report = replace(made(scores, member, 0.4), confidence=0.9)
    called = scores >= 0.4
    hits, alarms = int((called & member).sum()), int((called & ~member).sum())

    def exact(k: int, n: int) -> tuple[float, float]:
        interval = stats.binomtest(k, n).proportion_ci(0.9, method="exact")
        return interval.low, interval.high

    for estimate, k, n in (
        (report.accuracy, hits + 300 - alarms, 500),
        (report.precision, hits, hits + alarms),
        (report.recall, hits, 200),
        (report.tpr_at(0.01), round((naive_tpr_at(scores, member, 0.01) or 0) * 200), 200),
    ):
        assert (estimate.low, estimate.high) == pytest.approx(exact(k, n), rel=1e-9)
    (low, high), (least, most) = exact(hits, 200), exact(alarms, 300)
    gap, up, down = hits / 200 - alarms / 300, hits / 200, alarms / 300
    assert report.advantage.low == pytest.approx(gap - math.sqrt((up - low) ** 2 + (most - down) ** 2))
    assert report.advantage.high == pytest.approx(gap + math.sqrt((high - up) ** 2 + (down - least) ** 2))
    drawn = np.quantile(bootstrap(scores, member)[0], [0.05, 0.95])
    assert (report.auc.low, report.auc.high) == pytest.approx(tuple(drawn))


def test_without_a_threshold_nothing_is_claimed() -> None:
    report = made(*world(200, 300, 1.0, None))
    for estimate in (report.accuracy, report.precision, report.recall, report.advantage):
        assert estimate == Estimate(None, None, None)
    assert list(report.summary()) == ["auc", "accuracy", "precision", "recall", "tpr@0.01", "tpr@0.001"]
    assert list(replace(report, fprs=(0.1,)).summary())[4:] == ["tpr@0.1"]
    assert report.summary()["auc"] == report.auc
    assert report.summary()["tpr@0.01"] == report.tpr_at(0.01)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("members", "others"), [(2, 2), (20, 35), (1000, 300)])
def test_perfect_separation_keeps_an_interval(members: int, others: int, sign: int) -> None:
    member = np.arange(members + others) < members
    report = made(sign * member.astype(float), member)
    fewest = min(members, others)
    bound = stats.binomtest(fewest, fewest).proportion_ci(0.95, method="exact").low
    expected = (1, bound, 1) if sign > 0 else (0, 0, 1 - bound)
    assert (report.auc.value, report.auc.low, report.auc.high) == pytest.approx(expected, abs=1e-12)


def test_one_inversion_does_not_make_us_surer_than_none() -> None:
    member = np.arange(200) < 100
    scores = np.where(member, 2.0, 1.0) + np.arange(200) / 1000
    perfect = made(scores, member).auc
    scores[150] = 2.0005  # above one member
    assert made(scores, member).auc.low == pytest.approx(perfect.low)


def test_constant_scores_keep_an_interval() -> None:
    member = np.arange(200) < 100
    estimate = made(np.zeros(200), member).auc
    ties = stats.binomtest(100, 100).proportion_ci(0.95, method="exact").low
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.5, ties / 2, 1 - ties / 2))


@pytest.mark.parametrize(("size", "shift"), [(30, 0.0), (30, 4.0), (80, 1.0)])
def test_the_interval_of_the_auc_covers(size: int, shift: float) -> None:
    truth = stats.norm.cdf(shift / math.sqrt(2))
    covered = 0
    for seed in range(150):
        estimate = replace(made(*world(size, size, shift, None, seed), seed=seed), resamples=200).auc
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 0.88 * 150  # 0.95 nominal, less three standard errors and a small sample's error


def test_the_interval_of_a_tpr_covers_the_tpr_of_its_threshold() -> None:
    covered = 0
    for seed in range(300):
        scores, member = world(80, 100, 1.0, None, seed)
        estimate = made(scores, member).tpr_at(0.05)
        assert estimate.low is not None
        assert estimate.high is not None
        bar = np.sort(scores[~member])[-6]
        covered += estimate.low <= stats.norm.sf(bar - 1.0) <= estimate.high
    assert covered >= 0.93 * 300


def test_auc_above_is_paired() -> None:
    rng = np.random.default_rng(2)
    scores, member = world(150, 150, 1.0, None)
    close, blind = scores + 0.3 * rng.normal(size=300), rng.normal(size=300)
    ours, theirs, none = made(scores, member), made(close, member, name="close"), made(blind, member, name="blind")
    for other in (theirs, none):
        drawn = []
        for _ in range(800):
            up, down = rng.choice(np.flatnonzero(member), 150), rng.choice(np.flatnonzero(~member), 150)
            drawn.append(ranked(scores[up], scores[down]) - ranked(other.scores[up], other.scores[down]))
        gap = ours.auc_above(other)
        assert gap.value == pytest.approx(roc_auc_score(member, scores) - roc_auc_score(member, other.scores))
        assert (gap.low, gap.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)
    gap = ours.auc_above(theirs)
    assert gap.low is not None
    assert gap.high is not None
    assert ours.auc.high is not None
    assert ours.auc.low is not None
    assert gap.high - gap.low < 0.7 * (ours.auc.high - ours.auc.low)  # what they share cancels


def test_auc_above_itself_and_between_perfect_attacks() -> None:
    scores, member = world(50, 60, 1.0, None)
    perfect, doubled = made(member.astype(float), member), made(np.where(member, 2.0, 0.0), member)
    for one, other in ((made(scores, member), made(scores, member)), (perfect, doubled)):
        gap = one.auc_above(other)
        assert gap.value == 0
        assert gap.low is not None
        assert gap.high is not None
        assert -0.1 < gap.low < 0 < gap.high < 0.1
    gap = perfect.auc_above(made(-member.astype(float), member))
    assert gap.value == gap.high == 1
    assert gap.low is not None
    assert 0.8 < gap.low < 0.9


def test_auc_above_refuses_other_units() -> None:
    scores, member = world(5, 5, 1.0, None)
    ours = made(scores, member)
    for other in (
        replace(ours, units=tuple(reversed(ours.units))),
        replace(ours, member=~member),
        made(*world(6, 5, 1.0, None)),
    ):
        with pytest.raises(ValueError, match=r"other: 'attack' must hold the same units.*one pool"):
            ours.auc_above(other)


def test_json_round_trip_is_exact() -> None:
    scores, member = world(30, 40, 0.5, None)
    scores[0] = 0.1 + 0.2
    plain = made(scores, member, 0.5)
    numbers = {"threshold": np.float32(0.3), "confidence": np.float64(0.9), "seed": np.int64(3)}
    numpy_scalars = replace(plain, **numbers)  # type: ignore[arg-type, unused-ignore]
    assert repr(numpy_scalars) == repr(replace(numpy_scalars, threshold=float(np.float32(0.3))))
    single = np.asarray(scores.astype(np.float32), dtype=np.float64)
    for report in (made(scores, member), made(single, member, 1 / 3), numpy_scalars):
        text = json.dumps(report.to_dict(), allow_nan=False)
        again = Report.from_dict(json.loads(text))
        assert json.dumps(again.to_dict(), allow_nan=False) == text
        np.testing.assert_array_equal(again.scores, report.scores)
        np.testing.assert_array_equal(again.member, report.member)
        assert (str(again.scores.dtype), str(again.member.dtype)) == ("float64", "bool")
        assert repr(again) == repr(report)
        assert again.units == report.units
        assert again.summary() == report.summary()
        for value in report.summary().values():
            assert all(type(number) in (float, type(None)) for number in (value.value, value.low, value.high))


def test_from_dict_names_missing_and_unknown_fields() -> None:
    data: dict[str, object] = {**made(*world(5, 5, 1.0, None)).to_dict(), "extra": 1}
    del data["seed"]
    with pytest.raises(ValueError, match=r"data: .*missing \['seed'\], unknown \['extra'\]"):
        Report.from_dict(data)  # type: ignore[arg-type]


def test_a_report_keeps_its_own_copy() -> None:
    scores, member = world(30, 30, 1.0, None)
    report = made(scores, member)
    before = report.auc
    scores[:] = 0
    assert report.scores.any()
    assert made(report.scores, member).auc == before
    with pytest.raises(ValueError, match="read-only"):
        report.scores[0] = 1.0
    assert len(repr(report)) < 200  # not a listing of every unit


def test_seeds_and_sizes_change_only_the_bootstrap() -> None:
    report = made(*world(100, 100, 0.5, None))
    again, seeded = replace(report), replace(report, seed=1)
    assert again.auc == report.auc != seeded.auc
    assert seeded.auc.value == report.auc.value
    assert seeded.tpr_at(0.1) == report.tpr_at(0.1)


def test_estimates_read_well() -> None:
    assert (str(Estimate()), str(Estimate(0.5))) == ("n/a", "0.500")
    assert str(Estimate(0.5, 0.25, 1)) == "0.500 [0.250, 1.000]"


def test_importing_the_report_loads_nothing_heavy() -> None:
    heavy = "{'scipy', 'sklearn', 'matplotlib', 'torch', 'transformers'}"
    loaded = "{name.split('.')[0] for name in sys.modules}"
    code = f"import sys, hf_mia.reports.report, hf_mia.reports.figures; print({heavy} & {loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
