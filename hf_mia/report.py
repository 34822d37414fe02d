"""How well an attack did: scores and the truth in, numbers with intervals out; numpy and scipy, no model in sight.

One convention throughout: a larger score means more likely a member, a unit is called one where score >= threshold,
arithmetic is float64, and what the data cannot tell is None ("n/a"), never NaN.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TypedDict

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


def _checked(scores: Floats, member: Bools, units: Sequence[str] | None = None, least: int = 1) -> tuple[Floats, Bools]:
    """Scores as float64 and members as bool, both (U,), or a ValueError that names what is wrong and which unit."""
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(member)
    if values.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"member: must be one value a score, both of shape (units,); got {truth.shape} for scores of "
                         f"shape {values.shape}. Fold the records of a unit into one score first.")

    def named(wrong: Bools, given: npt.NDArray[np.generic]) -> str:
        where = np.flatnonzero(wrong)
        shown = ", ".join(f"{given[i]} at {units[i] if units else f'position {i}'}" for i in where[:5])
        return shown + (f" and {where.size - 5:,} more" if where.size > 5 else "")

    if (wrong := ~np.isfinite(values)).any():
        raise ValueError(f"scores: every score must be finite; got {named(wrong, values)}. Compute in float64 from the "
                         "logits, or leave these units out of the audit and say so.")
    if truth.dtype != np.bool_ and (wrong := ~np.isin(truth, (0, 1))).any():
        raise ValueError(f"member: must be True or False; got {named(wrong, truth)}. A unit whose membership is "
                         "unknown cannot be evaluated: leave it out.")
    truth = truth.astype(np.bool_)
    members = int(truth.sum())
    if min(members, truth.size - members) < least:
        raise ValueError(f"member: at least {least} of each class are needed; got {members} members and "
                         f"{truth.size - members} non-members. Audit a pool that holds both.")
    return values, truth


def _tallied(scores: Floats, member: Bools) -> tuple[Floats, Ints, Ints]:
    """The distinct scores, ascending, and how many members and non-members have each."""
    scores, member = _checked(scores, member)
    distinct, group = np.unique(scores, return_inverse=True)
    members = np.bincount(group[member], minlength=distinct.size)
    return distinct, members, np.bincount(group, minlength=distinct.size) - members


def _aucs(members: Ints, nonmembers: Ints) -> Floats:
    """The AUC of each row of counts by ascending score, (..., distinct): pairs in order and half the ties, exactly."""
    twice = (members * (2 * np.cumsum(nonmembers, axis=-1) - nonmembers)).sum(axis=-1)
    return np.asarray(twice / (2 * members.sum(axis=-1) * nonmembers.sum(axis=-1)), dtype=np.float64)


def _false_alarms(fpr: float, nonmembers: int) -> int:
    """The largest k with k / nonmembers <= fpr, safe against the rounding of fpr * nonmembers."""
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr: must lie between 0 and 1, not {fpr}. Write one percent as 0.01.")
    near = int(fpr * nonmembers)
    return max(k for k in (near - 1, near, near + 1) if k / nonmembers <= fpr)


def _found(scores: Floats, member: Bools, fpr: float) -> int | None:
    """How many members score above the (k + 1)-th largest non-member, k being the false alarms that fpr allows."""
    scores, member = _checked(scores, member)
    others = scores[~member]
    allowed = _false_alarms(fpr, others.size)
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
    return float(_aucs(*_tallied(scores, member)[1:]))


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
    found = _found(scores, member, fpr)
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


def _limits(k: int, n: int, confidence: float) -> tuple[float, float]:
    from scipy.special import betaincinv  # type: ignore[import-untyped, unused-ignore]

    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    return low, 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> Estimate:
    """The exact binomial interval of k successes in n trials; n/a for no trials.

    ValueError unless 0 <= k <= n and 0 < confidence < 1. Source: Clopper and Pearson 1934, by quantiles of the beta.
    """
    if not (0 <= k <= n and 0 < confidence < 1):
        raise ValueError(f"k, n, confidence: 0 <= k <= n and 0 < confidence < 1 must hold, not {k}, {n}, {confidence}. "
                         "Give counts, not shares, and write 95 percent as 0.95.")
    return Estimate(k / n, *_limits(k, n, confidence)) if n else Estimate()


def _draws(member: Bools, resamples: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """Blocks of stratified resamples: positions (b, members) and (b, non-members), the same for every block size."""
    sizes = int(member.sum()), int((~member).sum())
    sources = np.random.default_rng(seed).spawn(2)
    rows = max(1, _BLOCK // member.size)
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        up, down = (rng.integers(n, size=(block, n), dtype=np.int32) for rng, n in zip(sources, sizes, strict=True))
        yield up.astype(np.int64), down.astype(np.int64)


def _counts(group: Ints, draws: Ints, width: int) -> Ints:
    """How often each resample (row of draws) has each group: (b, width)."""
    flat = (group[draws] + width * np.arange(len(draws))[:, None]).ravel()
    return np.bincount(flat, minlength=width * len(draws)).reshape(len(draws), width)


def bootstrap(scores: Floats, member: Bools, fprs: Sequence[float] = (), resamples: int = 1000,
              seed: int = 0) -> tuple[Floats, Floats]:
    """AUCs (resamples,) and TPRs (resamples, len(fprs)), as of `auc` and `tpr_at`, of resamples within each class.

    Scores are sorted once; a resample is a row of counts by score, so cumulative sums give all curves at once, block by
    block. The order of units does not matter. ValueError as in `auc`, or for an fpr below 1 / non-members.
    Source: Efron 1979.
    """
    scores, member = _checked(scores, member)
    m, n = int(member.sum()), int((~member).sum())
    allowed = [_false_alarms(fpr, n) for fpr in fprs]
    if 0 in allowed:
        raise ValueError(f"fprs: each must be at least 1 / non-members = 1 / {n}; got {tuple(fprs)}. Drop the smaller.")
    distinct, group = np.unique(scores, return_inverse=True)
    ours, others = np.sort(group[member]), np.sort(group[~member])
    aucs, tprs = [], []
    for up, down in _draws(member, resamples, seed):
        true, false = (_counts(g, d, distinct.size) for g, d in ((ours, up), (others, down)))
        aucs.append(_aucs(true, false))
        if allowed:
            # false alarms and hits left once the lowest 1, 2, ... groups are turned away; the last leaves none
            alarms, hits = n - np.cumsum(false, axis=1), m - np.cumsum(true, axis=1)
            first = np.stack([(alarms > k).sum(axis=1) for k in allowed], axis=1)
            whole = np.array([k >= n for k in allowed])
            tprs.append(np.where(whole, m, np.take_along_axis(hits, first, axis=1)) / m)
    return np.concatenate(aucs), np.concatenate(tprs) if tprs else np.empty((resamples, 0))


def _interval(value: float, drawn: Floats, pairs: int, confidence: float, floor: float = 0.0) -> Estimate:
    """The percentile interval of a number in [floor, 1], never surer than a perfect sample of so many pairs would be.

    The bootstrap of perfectly separated classes is [1, 1]. But were a share q of member/non-member pairs out of order,
    min(members, non-members) disjoint, so independent, pairs would still all be in order with chance (1 - q)^pairs:
    a q up to 1 - (alpha / 2)^(1 / pairs) cannot be excluded (Clopper and Pearson 1934 for k = n; the rule of three,
    Hanley and Lippman-Hand 1983). So the low end is at most that of perfect separation, the high end at least that of
    its opposite; and where no resample differs (constant scores) that share of pairs may be all wrong or all right.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    unseen = 1 - tail ** (1 / pairs)
    low, high = min(low, value, 1 - unseen * (1 - floor)), max(high, value, floor + unseen * (1 - floor))
    if drawn.min() == drawn.max():
        low, high = min(low, value - unseen * (value - floor)), max(high, value + unseen * (1 - value))
    return Estimate(value, low, high)


class ReportDict(TypedDict):
    """A `Report` as plain Python values, as JSON holds it."""

    name: str
    scores: list[float]
    member: list[bool]
    units: list[str]
    threshold: float | None
    fprs: list[float]
    confidence: float
    resamples: int
    seed: int


@dataclass(frozen=True, eq=False)
class Report:
    """What an attack scored on units whose membership is known to the auditor, and how good that is.

    name: the attack's; scores (U,) float64 and member (U,) bool, kept as read-only copies; units: U distinct names;
    threshold: chosen on the shadows, never here (None: accuracy, precision, recall, advantage are n/a); fprs: the
    false-positive rates of the summary; confidence of every interval; resamples and seed of the bootstraps. ValueError
    for lengths that differ, scores that are not finite, names that repeat, under two units of a class, settings out of
    range.
    """

    name: str
    scores: Floats = field(repr=False)
    member: Bools = field(repr=False)
    units: tuple[str, ...] = field(repr=False)
    threshold: float | None = None
    fprs: tuple[float, ...] = (0.01, 0.001)
    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        units = tuple(self.units)
        if len(units) != len(self.scores):
            raise ValueError(f"units: must be one name a score; got {len(units)} names, {len(self.scores)} scores.")
        scores, member = _checked(self.scores, self.member, units, least=2)
        if len(set(units)) != len(units):
            raise ValueError(f"units: names must differ; {Counter(units).most_common(1)[0][0]!r} repeats. "
                             "Fold the records of a unit into one score first.")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold: must be finite, not {self.threshold}. None says that none was chosen.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence: must lie between 0 and 1, not {self.confidence}. Write 95 percent as 0.95.")
        if self.resamples < 1 or self.seed < 0:
            raise ValueError(f"resamples, seed: must be at least 1 and 0, not {self.resamples}, {self.seed}. "
                             "1000 resamples do for 95 percent.")
        for fpr in self.fprs:
            _false_alarms(fpr, scores.size)
        scores, member = scores.copy(), member.copy()
        scores.flags.writeable = member.flags.writeable = False
        kept: dict[str, object] = {"units": units, "scores": scores, "member": member}
        kept["fprs"] = tuple(float(fpr) for fpr in self.fprs)  # plain numbers from here on, whatever was given
        kept["threshold"] = None if self.threshold is None else float(self.threshold)
        kept |= {"confidence": float(self.confidence), "resamples": int(self.resamples), "seed": int(self.seed)}
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @cached_property
    def auc(self) -> Estimate:
        """The AUC with a stratified percentile bootstrap, never surer than perfect separation of this many units.

        Source: Efron 1979; Clopper and Pearson 1934 for perfect separation, where the bootstrap degenerates to a point.
        """
        drawn, _ = bootstrap(self.scores, self.member, (), self.resamples, self.seed)
        return _interval(auc(self.scores, self.member), drawn, min(self._sizes), self.confidence)

    def auc_above(self, other: Report) -> Estimate:
        """By how much this AUC is above another's on the same units, by a paired stratified bootstrap.

        Both are computed on the same resampled units, so what they share cancels. Within [-1, 1]; this report's
        confidence, resamples and seed. ValueError where units, their order or their membership differ.
        Source: Efron 1979, paired as in Hanley and McNeil 1983; where the bootstrap degenerates, as for `auc`.
        """
        if self.units != other.units or not np.array_equal(self.member, other.member):
            raise ValueError(f"other: {other.name!r} must hold the same units, order and membership as {self.name!r}. "
                             "Audit both on one pool.")
        groups = [np.unique(report.scores, return_inverse=True)[1] for report in (self, other)]
        order = np.lexsort(groups[::-1])  # the order of units does not matter
        sides = [order[self.member[order]], order[~self.member[order]]]
        drawn = []
        for draws in _draws(self.member, self.resamples, self.seed):
            ours, theirs = (
                _aucs(*(_counts(group[side], draw, group.max() + 1) for side, draw in zip(sides, draws, strict=True)))
                for group in groups
            )
            drawn.append(ours - theirs)
        value = auc(self.scores, self.member) - auc(other.scores, other.member)
        return _interval(value, np.concatenate(drawn), min(self._sizes), self.confidence, floor=-1.0)

    def tpr_at(self, fpr: float) -> Estimate:
        """The TPR at the empirical threshold of a false-positive rate, as the function `tpr_at`, with Clopper-Pearson.

        The threshold depends on the non-members only, so the interval is exact for the TPR of this very threshold; that
        its false-positive rate on fresh non-members differs somewhat from fpr is not in it. n/a below 1 / non-members.
        """
        found = _found(self.scores, self.member, fpr)
        return Estimate() if found is None else clopper_pearson(found, self._sizes[0], self.confidence)

    @property
    def _sizes(self) -> tuple[int, int]:
        members = int(self.member.sum())
        return members, self.member.size - members

    def _positives(self) -> tuple[int, int] | None:
        """True and false positives at the threshold; None without one."""
        if self.threshold is None:
            return None
        called = self.member[self.scores >= self.threshold]
        return int(called.sum()), int((~called).sum())

    @property
    def accuracy(self) -> Estimate:
        """The share of units called rightly at the threshold, with Clopper-Pearson; n/a without a threshold.

        Conservative: with the class sizes fixed, the count varies no more than a binomial one (Hoeffding 1956).
        """
        if (positives := self._positives()) is None:
            return Estimate()
        right = positives[0] + self._sizes[1] - positives[1]
        return clopper_pearson(right, self.member.size, self.confidence)

    @property
    def precision(self) -> Estimate:
        """The share of members among the units called members, with Clopper-Pearson; n/a where none is called one.

        It belongs to the share of members in this pool; where members are rarer it is lower.
        """
        positives = self._positives()
        return Estimate() if positives is None else clopper_pearson(positives[0], sum(positives), self.confidence)

    @property
    def recall(self) -> Estimate:
        """The share of members called members at the threshold (its TPR), with Clopper-Pearson; n/a without one."""
        positives = self._positives()
        return Estimate() if positives is None else clopper_pearson(positives[0], self._sizes[0], self.confidence)

    @property
    def advantage(self) -> Estimate:
        """TPR - FPR at the given threshold; n/a without one. The best over all thresholds would flatter the attack.

        Source: Yeom et al. 2018; the interval adds the squares of the two Clopper-Pearson ones (Newcombe
        1998, method 10; Zou and Donner 2008).
        """
        if (positives := self._positives()) is None:
            return Estimate()
        (true, false), (members, others) = positives, self._sizes
        tpr, fpr = true / members, false / others
        (low, high), (least, most) = _limits(true, members, self.confidence), _limits(false, others, self.confidence)
        gap = tpr - fpr
        return Estimate(gap, gap - math.hypot(tpr - low, most - fpr), gap + math.hypot(high - tpr, fpr - least))

    def summary(self) -> dict[str, Estimate]:
        """The numbers to show, in order: auc, accuracy, precision, recall, then tpr@FPR for each of fprs."""
        first = {"auc": self.auc, "accuracy": self.accuracy, "precision": self.precision, "recall": self.recall}
        return first | {f"tpr@{fpr}": self.tpr_at(fpr) for fpr in self.fprs}

    def to_dict(self) -> ReportDict:
        """Plain Python values that json.dumps(allow_nan=False) takes and `from_dict` restores to the last bit."""
        return {
            "name": self.name,
            "scores": self.scores.tolist(),
            "member": self.member.tolist(),
            "units": list(self.units),
            "threshold": self.threshold,
            "fprs": list(self.fprs),
            "confidence": self.confidence,
            "resamples": self.resamples,
            "seed": self.seed,
        }

    @staticmethod
    def from_dict(data: ReportDict) -> Report:
        """The report that `to_dict` wrote; ValueError for a field that is missing or unknown."""
        expected, given = {item.name for item in fields(Report)}, set(data)
        if expected != given:
            raise ValueError(f"data: must hold the fields of a Report; missing {sorted(expected - given)}, unknown "
                             f"{sorted(given - expected)}. Give what Report.to_dict wrote.")
        return Report(
            name=data["name"], scores=np.array(data["scores"], dtype=np.float64), member=np.array(data["member"]),
            units=tuple(data["units"]), threshold=data["threshold"], fprs=tuple(data["fprs"]),
            confidence=data["confidence"], resamples=data["resamples"], seed=data["seed"],
        )
