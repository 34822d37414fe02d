"""How well an attack did: a `Report` of its scores, numpy and scipy only, no model in sight.

One convention throughout: a larger score means more likely a member, a unit is called one where score >= threshold,
arithmetic is float64, and what the data cannot tell is None ("n/a"), never NaN.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TypedDict

import numpy as np

from hf_mia.reports.delong import delong
from hf_mia.reports.estimates import (
    Bools,
    Estimate,
    Floats,
    auc,
    aucs_of,
    binomial_limits,
    bootstrap,
    checked,
    clopper_pearson,
    draw_counts,
    false_alarms,
    members_found,
    percentile_interval,
    stratified_draws,
)

DRAWN = 10_000  # units up to which the AUC's interval is a bootstrap


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
        scores, member = checked(self.scores, self.member, units, least=2)
        if len(set(units)) != len(units):
            raise ValueError(
                f"units: names must differ; {Counter(units).most_common(1)[0][0]!r} repeats. "
                "Fold the records of a unit into one score first."
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold: must be finite, not {self.threshold}. None says that none was chosen.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence: must lie between 0 and 1, not {self.confidence}. Write 95 percent as 0.95.")
        if self.resamples < 1 or self.seed < 0:
            raise ValueError(
                f"resamples, seed: must be at least 1 and 0, not {self.resamples}, {self.seed}. "
                "1000 resamples do for 95 percent."
            )
        for fpr in self.fprs:
            false_alarms(fpr, scores.size)
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

        Of more than 10,000 units DeLong's interval stands in its place, which is the same to a few per cent of its
        width by then, and takes no draws. Source: Efron 1979; Clopper and Pearson 1934 for perfect separation, where
        the bootstrap degenerates to a point; DeLong et al. 1988.
        """
        if self.member.size > DRAWN:
            return delong(self.scores, self.member, self.confidence)
        drawn, _ = bootstrap(self.scores, self.member, (), self.resamples, self.seed)
        return percentile_interval(auc(self.scores, self.member), drawn, min(self._sizes), self.confidence)

    def auc_above(self, other: Report) -> Estimate:
        """By how much this AUC is above another's on the same units, by a paired stratified bootstrap.

        Both are computed on the same resampled units, so what they share cancels. Within [-1, 1]; this report's
        confidence, resamples and seed. ValueError where units, their order or their membership differ.
        Source: Efron 1979, paired as in Hanley and McNeil 1983; where the bootstrap degenerates, as for `auc`.
        """
        if self.units != other.units or not np.array_equal(self.member, other.member):
            raise ValueError(
                f"other: {other.name!r} must hold the same units, order and membership as {self.name!r}. "
                "Audit both on one pool."
            )
        groups = [np.unique(report.scores, return_inverse=True)[1] for report in (self, other)]
        order = np.lexsort(groups[::-1])  # the order of units does not matter
        sides = [order[self.member[order]], order[~self.member[order]]]
        drawn = []
        for draws in stratified_draws(self.member, self.resamples, self.seed):
            ours, theirs = (
                aucs_of(*(draw_counts(group[s], draw, group.max() + 1) for s, draw in zip(sides, draws, strict=True)))
                for group in groups
            )
            drawn.append(ours - theirs)
        value = auc(self.scores, self.member) - auc(other.scores, other.member)
        return percentile_interval(value, np.concatenate(drawn), min(self._sizes), self.confidence, floor=-1.0)

    def tpr_at(self, fpr: float) -> Estimate:
        """The TPR at the empirical threshold of a false-positive rate, as the function `tpr_at`, with Clopper-Pearson.

        The threshold depends on the non-members only, so the interval is exact for the TPR of this very threshold; that
        its false-positive rate on fresh non-members differs somewhat from fpr is not in it. n/a below 1 / non-members.
        """
        found = members_found(self.scores, self.member, fpr)
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
        low, high = binomial_limits(true, members, self.confidence)
        least, most = binomial_limits(false, others, self.confidence)
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
            raise ValueError(
                f"data: must hold the fields of a Report; missing {sorted(expected - given)}, unknown "
                f"{sorted(given - expected)}. Give what Report.to_dict wrote."
            )
        return Report(
            name=data["name"],
            scores=np.array(data["scores"], dtype=np.float64),
            member=np.array(data["member"]),
            units=tuple(data["units"]),
            threshold=data["threshold"],
            fprs=tuple(data["fprs"]),
            confidence=data["confidence"],
            resamples=data["resamples"],
            seed=data["seed"],
        )
