"""Scores and the truth in, numbers with intervals out: AUC, ROC, TPR at FPR, exact and bootstrap intervals.

One convention throughout: a larger score means more likely a member, a unit is called one where score >= threshold,
arithmetic is float64, and what the data cannot tell is None ("n/a"), never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_BLOCK = 100_000  # draws a block of the bootstrap: bounds its memory, does not change its result


@dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval; all three None is "n/a". Floats; ValueError for NaN and infinities."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None:
                if not math.isfinite(number):
                    raise ValueError(f"{name}: must be a finite number, not {number}; None says n/a.")
                object.__setattr__(self, name, float(number))

    def __str__(self) -> str:
        if self.value is None:
            return "n/a"
        limits = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{limits}"


def checked(scores: Floats, member: Bools, units: Sequence[str] | None = None, least: int = 1) -> tuple[Floats, Bools]:
    """Scores as float64 and members as bool, both (U,), or a ValueError that names what is wrong and which unit."""
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(member)
    if values.ndim != 1 or truth.shape != values.shape:
        raise ValueError(
            f"member: must be one value a score, both of shape (units,); got {truth.shape} for scores of "
            f"shape {values.shape}. Fold the records of a unit into one score first."
        )

    def named(wrong: Bools, given: npt.NDArray[np.generic]) -> str:
        where = np.flatnonzero(wrong)
        shown = ", ".join(f"{given[i]} at {units[i] if units else f'position {i}'}" for i in where[:5])
        return shown + (f" and {where.size - 5:,} more" if where.size > 5 else "")

    if (wrong := ~np.isfinite(values)).any():
        raise ValueError(
            f"scores: every score must be finite; got {named(wrong, values)}. Compute in float64 from the "
            "logits, or leave these units out of the audit and say so."
        )
    if truth.dtype != np.bool_ and (wrong := ~np.isin(truth, (0, 1))).any():
        raise ValueError(
            f"member: must be True or False; got {named(wrong, truth)}. A unit whose membership is "
            "unknown cannot be evaluated: leave it out."
        )
    truth = truth.astype(np.bool_)
    members = int(truth.sum())
    if min(members, truth.size - members) < least:
        raise ValueError(
            f"member: at least {least} of each class are needed; got {members} members and "
            f"{truth.size - members} non-members. Audit a pool that holds both."
        )
    return values, truth


def _tallied(scores: Floats, member: Bools) -> tuple[Floats, Ints, Ints]:
    """The distinct scores, ascending, and how many members and non-members have each."""
    scores, member = checked(scores, member)
    distinct, group = np.unique(scores, return_inverse=True)
    members = np.bincount(group[member], minlength=distinct.size)
    return distinct, members, np.bincount(group, minlength=distinct.size) - members


def aucs_of(members: Ints, nonmembers: Ints) -> Floats:
    """The AUC of each row of counts by ascending score, (..., distinct): pairs in order and half the ties, exactly."""
    twice = (members * (2 * np.cumsum(nonmembers, axis=-1) - nonmembers)).sum(axis=-1)
    return np.asarray(twice / (2 * members.sum(axis=-1) * nonmembers.sum(axis=-1)), dtype=np.float64)


def false_alarms(fpr: float, nonmembers: int) -> int:
    """The largest k with k / nonmembers <= fpr, safe against the rounding of fpr * nonmembers."""
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr: must lie between 0 and 1, not {fpr}. Write one percent as 0.01.")
    near = int(fpr * nonmembers)
    return max(k for k in (near - 1, near, near + 1) if k / nonmembers <= fpr)


def members_found(scores: Floats, member: Bools, fpr: float) -> int | None:
    """How many members score above the (k + 1)-th largest non-member, k being the false alarms that fpr allows."""
    scores, member = checked(scores, member)
    others = scores[~member]
    allowed = false_alarms(fpr, others.size)
    if allowed == 0:
        return None
    last = others.size - 1 - allowed
    bar = np.partition(others, last)[last] if last >= 0 else -np.inf
    return int((scores[member] > bar).sum())


def auc(scores: Floats, member: Bools) -> float:
    """The area under the ROC curve: the chance that a member outscores a non-member, a tie counting one half.

    scores (U,) float64, member (U,) bool. ValueError for NaN, infinities, one class. O(U log U) and exact in integers.
    Source: Mann and Whitney 1947; Hanley and McNeil 1982.
    """
    return float(aucs_of(*_tallied(scores, member)[1:]))


def roc(scores: Floats, member: Bools) -> tuple[Floats, Floats, Floats]:
    """The empirical ROC staircase: (fpr, tpr, thresholds), one point a distinct score, from strict to lenient.

    Three arrays (1 + distinct scores,) float64, after the point (0, 0) whose threshold is inf. No convex hull and no
    interpolation: tied units enter together. ValueError as in `auc`. Source: Fawcett 2006, algorithm 1.
    """
    distinct, members, others = _tallied(scores, member)
    fpr, tpr = (np.concatenate([[0], np.cumsum(count[::-1])]) / count.sum() for count in (others, members))
    return fpr, tpr, np.concatenate([[np.inf], distinct[::-1]])


def tpr_at(scores: Floats, member: Bools, fpr: float) -> float | None:
    """The largest true-positive rate of the thresholds whose empirical false-positive rate is at most fpr.

    None where fpr < 1 / non-members: one false alarm would already be too many, so the data cannot resolve it.
    Tied units enter together. ValueError as in `auc`, or for fpr outside [0, 1]. Source: Carlini et al. 2022.
    """
    found = members_found(scores, member, fpr)
    return None if found is None else found / int(np.count_nonzero(member))


def best_threshold(scores: Floats, member: Bools) -> float:
    """The threshold of best accuracy for score >= threshold, by an exact sweep: for shadows, never for the target.

    Midway between two neighbouring distinct scores; the smallest score where calling all a member is best, just above
    the largest where calling none is. Of equally accurate ones the largest: it accuses least. ValueError as in `auc`.
    """
    distinct, members, others = _tallied(scores, member)
    correct = members.sum() + np.concatenate([[0], np.cumsum(others - members)])  # by the number of groups turned away
    cut = int(correct.size - 1 - np.argmax(correct[::-1]))
    if cut == 0:
        return float(distinct[0])
    if cut == distinct.size:
        return float(np.nextafter(distinct[-1], np.inf))
    low, high = float(distinct[cut - 1]), float(distinct[cut])
    middle = low / 2 + high / 2
    return middle if low < middle <= high else high


def binomial_limits(k: int, n: int, confidence: float) -> tuple[float, float]:
    """The ends of the Clopper-Pearson interval of k successes in n > 0 trials."""
    from scipy.special import betaincinv  # type: ignore[import-untyped, unused-ignore]

    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    return low, 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> Estimate:
    """The exact binomial interval of k successes in n trials; n/a for no trials.

    ValueError unless 0 <= k <= n and 0 < confidence < 1. Source: Clopper and Pearson 1934, by quantiles of the beta.
    """
    if not (0 <= k <= n and 0 < confidence < 1):
        raise ValueError(
            f"k, n, confidence: 0 <= k <= n and 0 < confidence < 1 must hold, not {k}, {n}, {confidence}. "
            "Give counts, not shares, and write 95 percent as 0.95."
        )
    return Estimate(k / n, *binomial_limits(k, n, confidence)) if n else Estimate()


def stratified_draws(member: Bools, resamples: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """Blocks of stratified resamples: positions (b, members) and (b, non-members), the same for every block size."""
    sizes = int(member.sum()), int((~member).sum())
    sources = np.random.default_rng(seed).spawn(2)
    rows = max(1, _BLOCK // member.size)
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        up, down = (rng.integers(n, size=(block, n), dtype=np.int32) for rng, n in zip(sources, sizes, strict=True))
        yield up.astype(np.int64), down.astype(np.int64)


def draw_counts(group: Ints, draws: Ints, width: int) -> Ints:
    """How often each resample (row of draws) has each group: (b, width)."""
    flat = (group[draws] + width * np.arange(len(draws))[:, None]).ravel()
    return np.bincount(flat, minlength=width * len(draws)).reshape(len(draws), width)


def bootstrap(
    scores: Floats, member: Bools, fprs: Sequence[float] = (), resamples: int = 1000, seed: int = 0
) -> tuple[Floats, Floats]:
    """AUCs (resamples,) and TPRs (resamples, len(fprs)), as of `auc` and `tpr_at`, of resamples within each class.

    Scores are sorted once; a resample is a row of counts by score, so cumulative sums give all curves at once, block by
    block. The order of units does not matter. ValueError as in `auc`, or for an fpr below 1 / non-members.
    Source: Efron 1979.
    """
    scores, member = checked(scores, member)
    m, n = int(member.sum()), int((~member).sum())
    allowed = [false_alarms(fpr, n) for fpr in fprs]
    if 0 in allowed:
        raise ValueError(f"fprs: each must be at least 1 / non-members = 1 / {n}; got {tuple(fprs)}. Drop the smaller.")
    distinct, group = np.unique(scores, return_inverse=True)
    ours, others = np.sort(group[member]), np.sort(group[~member])
    aucs, tprs = [], []
    for up, down in stratified_draws(member, resamples, seed):
        true, false = (draw_counts(g, d, distinct.size) for g, d in ((ours, up), (others, down)))
        aucs.append(aucs_of(true, false))
        if allowed:
            # false alarms and hits left once the lowest 1, 2, ... groups are turned away; the last leaves none
            alarms, hits = n - np.cumsum(false, axis=1), m - np.cumsum(true, axis=1)
            first = np.stack([(alarms > k).sum(axis=1) for k in allowed], axis=1)
            whole = np.array([k >= n for k in allowed])
            tprs.append(np.where(whole, m, np.take_along_axis(hits, first, axis=1)) / m)
    return np.concatenate(aucs), np.concatenate(tprs) if tprs else np.empty((resamples, 0))


def percentile_interval(value: float, drawn: Floats, pairs: int, confidence: float, floor: float = 0.0) -> Estimate:
    """The percentile interval of a number in [floor, 1], never surer than a perfect sample of so many pairs would be.

    The bootstrap of perfectly separated classes is [1, 1]. But were a share q of member/non-member pairs out of order,
    min(members, non-members) disjoint, so independent, pairs would still all be in order with chance (1 - q)^pairs:
    a q up to 1 - (alpha / 2)^(1 / pairs) cannot be excluded (Clopper and Pearson 1934 for k = n; the rule of three,
    Hanley and Lippman-Hand 1983). So the low end is at most that of perfect separation, the high end at least that of
    its opposite; and where no resample differs (constant scores) that share of pairs may be all wrong or all right.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return widened(Estimate(value, low, high), bool(drawn.min() == drawn.max()), pairs, confidence, floor)


def widened(found: Estimate, point: bool, pairs: int, confidence: float, floor: float = 0.0) -> Estimate:
    """An interval, as `percentile_interval` says of it: no surer than `pairs` allow; `point` where nothing varied."""
    value, low, high = (float(number or 0) for number in (found.value, found.low, found.high))
    unseen = 1 - ((1 - confidence) / 2) ** (1 / pairs)
    low, high = min(low, value, 1 - unseen * (1 - floor)), max(high, value, floor + unseen * (1 - floor))
    if point:
        low, high = min(low, value - unseen * (value - floor)), max(high, value + unseen * (1 - value))
    return Estimate(value, low, high)
