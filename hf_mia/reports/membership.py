"""Scores and membership in, one flat dictionary of plain numbers out: what the evaluate metric computes, without it."""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import repr as shortened
from typing import cast

import numpy as np
import numpy.typing as npt

from hf_mia.reports.estimates import Bools
from hf_mia.reports.report import Report

Numbers = Sequence[float] | npt.NDArray[np.generic]
FPRS = (0.01, 0.001)
MISSING = "Leave out units that have no score, and say so in the audit."
LABELS = (
    "Write 1 for a member and 0 for a non-member, also in place of -1 and +1 or of names, and leave out units whose "
    "membership is unknown."
)


def membership_inference(
    scores: Numbers,
    member: Numbers,
    fpr: Sequence[float] = FPRS,
    confidence: float = 0.95,
    threshold: float | None = None,
) -> dict[str, float]:
    """How well scores tell members from non-members: AUC, TPR at low FPRs and, at a threshold, what else is asked for.

    scores (U,), larger = more likely a member; member (U,), 1 or True for a member and 0 or False for a non-member;
    fpr: the false-positive rates of the TPRs; confidence of every interval; threshold: a unit is called a member where
    score >= threshold, which was chosen without these units. The result is `flat` of a `hf_mia.reports.report.Report`.
    ValueError for scores that are not finite numbers, membership that is not 1 or 0, lengths that differ, under two
    units of a class, settings out of range.
    """
    values, truth = numbers("scores", scores, MISSING).astype(np.float64), members("member", member)
    if isinstance(fpr, (int, float)):
        raise ValueError(f"fpr: must be a list of rates, not {fpr}. Write [{fpr}].")
    if not isinstance(fpr, (Sequence, np.ndarray)):
        raise ValueError(f"fpr: must be a list of rates, not {shortened(fpr)}. Write [0.01].")
    rates = tuple(number("fpr", rate) for rate in fpr)
    cut = None if threshold is None else number("threshold", threshold)
    if len(values) == 0:
        raise ValueError("scores: there are none. Give one score a unit, and at least two units of each class.")
    units = cast("tuple[str, ...]", tuple(range(len(values))))  # a million strings would take half of the time
    return flat(Report("membership_inference", values, truth, units, cut, rates, number("confidence", confidence)))


def flat(report: Report) -> dict[str, float]:
    """A report as JSON and `evaluate.save` take it: each figure by its name, its interval as NAME_low and NAME_high.

    `auc`, `tpr@FPR` for each of the report's rates and, where it has a threshold, `accuracy`, `precision`, `recall`,
    `advantage` and `threshold`; then the numbers of units: `n`, `members`, `non_members`. A figure that the data cannot
    tell is left out (a TPR at a rate below 1 / non-members; precision where no unit is called a member; everything at
    a threshold where there is none), so that every value is a number.
    """
    found: dict[str, float] = {}
    for name, estimate in (report.summary() | {"advantage": report.advantage}).items():
        ends = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        found |= {key: value for key, value in ends.items() if value is not None}
    if report.threshold is not None:
        found["threshold"] = report.threshold
    inside = int(report.member.sum())
    return found | {"n": report.member.size, "members": inside, "non_members": report.member.size - inside}


def numbers(name: str, given: object, way_out: str) -> npt.NDArray[np.generic]:
    """Numbers as an array, else a ValueError: numpy would take '0.5' for a number, and None for NaN."""
    try:
        values = np.asarray(given)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name}: must be a list of numbers, one a unit, and not lists in it ({error}).") from error
    if values.ndim == 0:
        raise ValueError(f"{name}: must be a list, one number a unit, not {shortened(given)}.")
    if values.size and values.dtype.kind not in "biuf":
        raise ValueError(f"{name}: must be numbers, but {_stranger(values)}. {way_out}")
    return values


def number(name: str, given: object) -> float:
    """A single number, else a ValueError: Python would take True for one, and compare no text with any."""
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (int, float, np.integer, np.floating)):
        raise ValueError(f"{name}: must be a number, not {shortened(given)}.")
    try:
        return float(given)
    except OverflowError as error:
        raise ValueError(f"{name}: must be a number that float64 holds ({error}).") from error


def members(name: str, given: object) -> Bools:
    """1 and 0, True and False as booleans; ValueError for all else, with what to write in its place."""
    values = numbers(name, given, LABELS)
    if values.dtype.kind != "b" and (wrong := (values != 0) & (values != 1)).any():
        place = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{name}: must be 1 (or True) for a member and 0 (or False) for a non-member, but position {place} holds "
            f"{values.ravel()[place]}. {LABELS}"
        )
    return values.astype(np.bool_)


def _stranger(values: npt.NDArray[np.generic]) -> str:
    """The first that is no number, and where."""
    found = enumerate(values.ravel().tolist())
    strangers = (
        f"position {i} holds {shortened(value)}" for i, value in found if not isinstance(value, (bool, int, float))
    )
    return next(strangers, f"they are {values.dtype}")
