"""Likelihood ratios against a mean of references: how a unit's stands among those of a population."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_mia.attacks.lira import IN, OUT, Comparison, blocks, both_sides, one_side
from hf_mia.core import Evidence, Floats

_ROUNDING = 8 * np.finfo(np.float64).eps  # what two log ratios may lose, relative to the logs they come from


@dataclass(frozen=True)
class _Ratio(Comparison):
    """p(x) / p_ref(x), in logs, of a signal of one column: log p of the label. `expected` is log p_ref."""

    @abstractmethod
    def expected(self, evidence: Evidence) -> Floats:
        """Log of the probability (units,) that a model gives, whether it saw the unit or not; NaN where unknown."""

    def ratio(self, evidence: Evidence) -> Floats:
        """Log ratios (units,). Raises ValueError for features that are not one log-probability a unit."""
        name, shape = type(self).__name__, evidence.features.shape
        if shape[1] != 1:
            raise ValueError(f"{name} needs a signal of one number a unit, but this one gives {shape[1]}: take Loss.")
        if (largest := evidence.features.max(initial=0.0)) > 1e-9:
            raise ValueError(f"{name} needs a signal of log-probabilities, but {largest:.6g} is above 0: take Loss.")
        return evidence.features[:, 0] - self.expected(evidence)


@dataclass(frozen=True)
class BASE(_Ratio):
    """BASE (Lassila et al. 2025): log p(x) less the log of the mean of p(x) over all references, in or out.

    By the authors' public code. Where each unit is in half of the references it ranks as `RMIA` does. Their offline
    form, which scales the mean's logarithm down for want of references that a unit is in, is left out. Raises as
    `RMIA`.
    """

    least: ClassVar[int] = 1

    @property
    def needs(self) -> tuple[str, str]:
        return "a reference", "raise shadows.count"

    def expected(self, evidence: Evidence) -> Floats:
        return _log_mean(evidence)

    def rate(self, evidence: Evidence) -> Floats:
        return self.ratio(evidence)


@dataclass(frozen=True)
class RMIA(_Ratio):
    """Online RMIA (Zarifzadeh et al. 2024): the share of a population z with ratio(x) / ratio(z) >= gamma.

    ratio = p / p_ref, p_ref(x) = (mean of p over references that x is in + mean over those it is out of) / 2, so that
    both sides count the same. The population are the Z units that are known non-members in the evidence, or, where
    there are none, the Z other units; no unit counts for itself. Ratios that are gamma apart but for float64's
    rounding count. The score is (number + t) / Z with a tie-break 0 < t < 1: (r + 0.5) / R for the r-th, from 0, of
    the R distinct log ratios in the evidence. So units tie only where their ratios do, and the share is
    floor(score x Z) / Z. O(N log N). Shadows, whose membership is hidden, are rated among all their units.

    Raises ValueError unless gamma is above 0 and finite, for a signal of anything but one log-probability a unit, for
    a unit without any other, and as `Comparison`.
    """

    least: ClassVar[int] = 2
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"gamma must be above 0, such as 2.0, but is {self.gamma}.")

    @property
    def needs(self) -> tuple[str, str]:
        return both_sides("OfflineRMIA")

    def expected(self, evidence: Evidence) -> Floats:
        return _log_mix(_log_mean(evidence, IN), _log_mean(evidence, OUT), 0.5)

    def rate(self, evidence: Evidence) -> Floats:
        ratio = self.ratio(evidence)
        ready = ~np.isnan(ratio)
        known = evidence.member == OUT
        population = ready & known if known.any() else ready
        others = int(population.sum()) - (not known.any())
        if not ready.any():
            return ratio
        if others < 1:
            raise ValueError(
                f"{type(self).__name__} compares a unit with others, but the evidence has only "
                f"{evidence.names[int(np.argmax(ready))]!r}: add known non-members, or audit more units."
            )
        distinct, place = np.unique(ratio[ready], return_inverse=True)
        step = np.log(self.gamma) - _ROUNDING * (np.abs(evidence.features[ready]).max() + np.abs(distinct).max())
        below = np.searchsorted(np.sort(ratio[population]), distinct - step, side="right")
        itself = population[ready] & (step <= 0)
        scores = np.full(len(ratio), np.nan)
        scores[ready] = (below[place] - itself + (place + 0.5) / len(distinct)) / others
        return scores


@dataclass(frozen=True)
class OfflineRMIA(RMIA):
    """Offline RMIA (Zarifzadeh et al. 2024): as `RMIA`, with the references that a unit is out of only.

    p_ref(x) = ((1 + a) p_out(x) + 1 - a) / 2, p_out their mean: the paper's linear guess p_in = a p_out + 1 - a of what
    models say that saw x. a = 0.3 is the public code's default; 1 takes p_out as it is. Raises ValueError for an
    a outside of [0, 1], and as `RMIA`.
    """

    least: ClassVar[int] = 1
    a: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.a <= 1:
            raise ValueError(f"a must be at least 0 and at most 1, such as 0.3, but is {self.a}.")

    @property
    def needs(self) -> tuple[str, str]:
        return one_side()

    def expected(self, evidence: Evidence) -> Floats:
        outside = _log_mean(evidence, OUT)
        return _log_mix(outside, np.zeros_like(outside), (1 + self.a) / 2)


def _log_mean(evidence: Evidence, side: float | None = None) -> Floats:
    """Log of the mean of exp(feature) (units,) over the references, those on one side only; NaN where there is none.

    Differences from the largest go through expm1 and log1p: nothing underflows, and probabilities of almost 1 keep
    the digits in which they differ.
    """
    found = np.full(len(evidence.names), np.nan)
    for here in blocks(len(found)):
        said = [other.features[here, 0] for other in evidence.references]
        chosen = [(other.member[here] == side) | (side is None) for other in evidence.references]
        count = np.sum(chosen, axis=0)
        top = np.full(count.shape, -np.inf)
        for logs, w in zip(said, chosen, strict=True):
            np.maximum(top, logs, out=top, where=w)
        total, rest = np.zeros(count.shape), np.zeros(count.shape)
        for logs, w in zip(said, chosen, strict=True):
            total += np.expm1(logs - top, out=rest, where=w) * w
        found[here] = np.where(count > 0, top + np.log1p(total / np.maximum(count, 1)), np.nan)
    return found


def _log_mix(u: Floats, v: Floats, weight: float) -> Floats:
    """log(weight exp(u) + (1 - weight) exp(v)), by expm1 and log1p where u and v are close."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a weight of 1 leaves nothing of v
        far = np.logaddexp(u + np.log(weight), v + np.log1p(-weight))
    gap = np.where(np.abs(u - v) < 1, u - v, 0.0)
    return np.where(np.abs(u - v) < 1, v + np.log1p(weight * np.expm1(gap)), far)
