"""A limit on what an audit may find, so that a job in CI fails where a model leaks more than its publisher allows.

The estimate counts, not the lower end of its interval: with few units an interval is wide, and a gate that waits for
certainty would pass a model the more easily the less it was tested. To gate on less noise, audit more units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hf_mia.config import check_name
from hf_mia.reports.estimates import Estimate, false_alarms
from hf_mia.reports.report import Report

FIGURES = ("auc", "accuracy", "precision", "recall", "advantage")
WRITTEN = "write a limit as FIGURE=NUMBER, such as tpr@0.01=0.05 or auc=0.6"


@dataclass(frozen=True)
class Limit:
    """The most that a figure of the headline attack may be: one of `FIGURES`, or the TPR at a false-positive rate.

    ValueError for a limit that is not between 0 and 1, or an fpr outside (0, 1).
    """

    figure: str
    most: float
    fpr: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.most <= 1:
            raise ValueError(f"--fail-above: a limit must lie between 0 and 1, but is {self.most} for {self.figure}.")
        if self.fpr is not None and not 0 < self.fpr < 1:
            raise ValueError(
                f"--fail-above: the rate of {self.figure} must lie between 0 and 1: write one percent as 0.01."
            )

    def check(self, nonmembers: int) -> None:
        """Raise ValueError where so many non-members cannot resolve the figure: known before anything is trained."""
        if self.fpr is not None and false_alarms(self.fpr, nonmembers) == 0:
            raise ValueError(
                f"--fail-above: {self.figure} cannot be told with {nonmembers} non-members: one false alarm would be a "
                f"rate of {1 / nonmembers:.3g}. Audit at least {math.ceil(1 / self.fpr):,} a side, or take a larger "
                "rate."
            )

    def estimate(self, report: Report) -> Estimate:
        """The figure in a report."""
        if self.fpr is not None:
            return report.tpr_at(self.fpr)
        return report.advantage if self.figure == "advantage" else report.summary()[self.figure]

    def exceeded(self, report: Report) -> bool:
        """Whether the estimate is above the limit; ValueError, which says why, where there is none."""
        self.check(int((~report.member).sum()))
        value = self.estimate(report).value
        if value is None:
            reason = (
                "it chose no threshold: give it shadows, or gate on auc or a tpr"
                if report.threshold is None
                else "it calls no unit a member: gate on another figure"
            )
            raise ValueError(f"--fail-above: {self.figure} of {report.name} is n/a, for {reason}.")
        return value > self.most


def limit(text: str) -> Limit:
    """A limit as the command line writes it, such as `tpr@0.01=0.05`; ValueError says what is wrong with it."""
    figure, sign, most = text.rpartition("=")
    if not sign or not figure:
        raise ValueError(f"--fail-above: {WRITTEN}, not {text!r}.")
    name, at, rate = figure.partition("@")
    if not at:
        check_name(figure, [*FIGURES, "tpr@0.01"], "figure of --fail-above")
    elif name != "tpr":
        raise ValueError(f"--fail-above: only tpr takes a false-positive rate, as in tpr@0.01, not {figure!r}.")
    return Limit(figure, _number(most, text), _number(rate, text) if at else None)


def over(limits: Iterable[Limit], report: Report) -> list[str]:
    """One line for each limit that a report is above, with the figure's interval; ValueError as in `exceeded`."""
    found = [one for one in limits if one.exceeded(report)]
    return [f"{report.name}: {one.figure} = {one.estimate(report)} is above the limit {one.most:g}." for one in found]


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"--fail-above: {text!r} is no number in {whole!r}: {WRITTEN}.") from error
