"""Likelihood ratios against references: what models say of a unit that saw it, and what models say that did not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from hf_mia.core import Attack, Evidence, Floats, Scorer, Signal
from hf_mia.reports.estimates import best_threshold

IN, OUT = 1.0, 0.0
_BLOCK = 16_384  # units at a time: what the references say of so many stays in the processor's cache
_FLOOR = 1e-12  # of a variance: equal numbers do not divide by 0, and squares of 1e9 nats over it are still finite


@dataclass(frozen=True)
class Comparison(Attack):
    """An attack that scores each unit by what its references say of it: `rate` is the one method to write.

    Nothing but the threshold is learnt. Each shadow is played as a target against its own references, its membership
    hidden; the scores of its known units, pooled over the shadows, choose the threshold of best accuracy. Units that
    lack a reference there are left out, and where members or non-members are none the threshold is None; in the target
    such units raise a ValueError, as do references that are none, or were asked about other units.
    """

    compares: ClassVar[bool] = True
    signal: Signal

    @abstractmethod
    def rate(self, evidence: Evidence) -> Floats:
        """Scores (units,) by the evidence and its references alone; NaN where a unit lacks a reference."""

    @property
    @abstractmethod
    def needs(self) -> tuple[str, str]:
        """For the error: the references that each unit needs, and the way out where it lacks them."""

    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        return Scorer(self._score, self._threshold(shadows))

    def _score(self, evidence: Evidence) -> Floats:
        aligned(self, evidence)
        scores = self.rate(evidence)
        if lost := [evidence.names[i] for i in np.flatnonzero(np.isnan(scores))]:
            need, way_out = self.needs
            raise ValueError(
                f"For each unit {type(self).__name__} needs {need}, but {len(lost)} of {len(scores)} units lack that, "
                f"such as {lost[:3]}: {way_out}."
            )
        return scores

    def _threshold(self, shadows: Sequence[Evidence]) -> float | None:
        scores, members = [np.empty(0)], [np.empty(0, dtype=np.bool_)]
        for shadow in shadows:
            if shadow.references:
                aligned(self, shadow)
                rated = self.rate(replace(shadow, member=np.full(len(shadow.names), np.nan)))
                known = ~np.isnan(rated) & ~np.isnan(shadow.member)
                scores.append(rated[known])
                members.append(shadow.member[known] == IN)
        member = np.concatenate(members)
        return best_threshold(np.concatenate(scores), member) if member.any() and not member.all() else None


def aligned(attack: Attack, evidence: Evidence) -> None:
    """Raises a ValueError unless there are references, all of which were asked about the evidence's units."""
    name, units = type(attack).__name__, len(evidence.names)
    if not evidence.references:
        raise ValueError(
            f"{name} compares the target with shadows, and there are none: set shadows.count to {attack.least} or more."
        )
    for i, reference in enumerate(evidence.references, start=1):
        if reference.names is not evidence.names and reference.names != evidence.names:
            same = ", but other ones or in another order" if len(reference.names) == units else ""
            raise ValueError(
                f"{name} compares units across models; reference {i} has {len(reference.names)} units and the target "
                f"{units}{same}. Ask every shadow about the target's units."
            )


def both_sides(offline: str) -> tuple[str, str]:
    """What an online attack needs of each unit, and the way out."""
    return (
        "a reference that saw it and one that did not",
        f"take {offline}, raise shadows.count, or set shadows.pool to same",
    )


def one_side() -> tuple[str, str]:
    """What an offline attack needs of each unit, and the way out."""
    return "a reference that did not see it", "raise shadows.count"


def blocks(units: int) -> Iterator[slice]:
    """Slices of a bounded number of units, so that a pass over the references needs no memory for all at once."""
    return (slice(start, min(start + _BLOCK, units)) for start in range(0, units, _BLOCK))


@dataclass(frozen=True, eq=False)
class _Side:
    """What the references on one side say of each unit: their number (units,), the mean of their features (units, q)
    and the squares of what these differ from it, summed (units, q)."""

    count: Floats
    mean: Floats
    squares: Floats

    @property
    def each(self) -> Floats:
        """Every unit's own variance (units, q), by n - 1."""
        return self.squares / np.maximum(self.count - 1, 1)[:, None]

    @property
    def within(self) -> Floats | None:
        """The variance (q,) around each unit's own mean, over all units; None where no unit has two references."""
        freedom = np.maximum(self.count - 1, 0).sum()
        return self.squares.sum(axis=0) / freedom if freedom else None


def _side(evidence: Evidence, member: float) -> _Side:
    """In two passes over the references, because squares less the square of a mean would lose all digits."""
    shape = evidence.features.shape
    found = _Side(np.zeros(shape[0]), np.zeros(shape), np.zeros(shape))
    for here in blocks(shape[0]):
        chosen = [(other.member[here] == member)[:, None] for other in evidence.references]
        said = [other.features[here] for other in evidence.references]
        mean, squares = found.mean[here], found.squares[here]  # views, filled in place
        found.count[here] = sum(w[:, 0] for w in chosen)
        for features, w in zip(said, chosen, strict=True):
            np.add(mean, features, out=mean, where=w)
        mean /= np.maximum(found.count[here], 1)[:, None]
        for features, w in zip(said, chosen, strict=True):
            np.add(squares, (features - mean) ** 2, out=squares, where=w)
    return found


def _fixed(sides: Sequence[_Side]) -> list[Floats]:
    """The one variance (q,) of each side; a side on which no unit has two references takes the others'."""
    own = [side.within for side in sides]
    known = [variance for variance in own if variance is not None]
    spare = np.mean(known, axis=0) if known else sides[-1].mean[sides[-1].count > 0].var(axis=0)
    return [spare if variance is None else variance for variance in own]


@dataclass(frozen=True)
class _Normals(Comparison):
    """A normal distribution a unit, query and side; `weigh` is what the two LiRAs differ in, beside their `sides`."""

    sides: ClassVar[tuple[float, ...]]
    variance: Literal["fixed", "each"] = "fixed"

    def __post_init__(self) -> None:
        if self.variance not in ("fixed", "each"):
            raise ValueError(f"variance must be 'fixed' or 'each', but is {self.variance!r}.")

    @abstractmethod
    def weigh(self, x: Floats, means: Sequence[Floats], variances: Sequence[Floats]) -> Floats:
        """What speaks for a member (units, q) in features x (units, q), by the sides' means and variances."""

    def rate(self, evidence: Evidence) -> Floats:
        sides, x = [_side(evidence, member) for member in self.sides], evidence.features
        ready = np.min([side.count for side in sides], axis=0) >= (2 if self.variance == "each" else 1)
        if not ready.any():
            return np.full(len(x), np.nan)
        found = [side.each for side in sides] if self.variance == "each" else _fixed(sides)
        variances = [np.broadcast_to(np.maximum(variance, _FLOOR), x.shape) for variance in found]
        scores = [
            self.weigh(x[here], [side.mean[here] for side in sides], [v[here] for v in variances]).mean(axis=1)
            for here in blocks(len(x))
        ]
        return np.where(ready, np.concatenate(scores), np.nan)


@dataclass(frozen=True)
class LiRA(_Normals):
    """Online LiRA (Carlini et al. 2022): the log of how much likelier a unit's features are in than out.

    For each unit and query (column of the signal) a normal distribution of the references that it is in, and one of
    those that it is out of; the score is the mean over the queries of the log-likelihood ratio. `variance` "fixed" is
    one a side and query for all units, pooled around the units' own means: with few references a mean takes up a share
    of the spread, so squares are divided by references less units. Where no unit has two references on a side it is the
    other side's, and where there is none either, the variance over all units. "each" is the unit's own, by n - 1, and
    takes 2 references on either side. A variance is at least 1e-12. The paper's public code differs: medians for
    means, the deviation of all units' numbers together for "fixed", which counts how units differ as noise, and the
    in side's for both. Shadows must share the target's pool. Raises ValueError for another variance, and as
    `Comparison`.
    """

    least: ClassVar[int] = 2
    sides: ClassVar[tuple[float, ...]] = (IN, OUT)

    @property
    def needs(self) -> tuple[str, str]:
        if self.variance == "each":
            return "2 references that saw it and 2 that did not", "take variance: fixed, or raise shadows.count"
        return both_sides("OfflineLiRA")

    def weigh(self, x: Floats, means: Sequence[Floats], variances: Sequence[Floats]) -> Floats:
        inside, outside = ((x - m) ** 2 / v + np.log(v) for m, v in zip(means, variances, strict=True))
        return (outside - inside) / 2


@dataclass(frozen=True)
class OfflineLiRA(_Normals):
    """Offline LiRA (Carlini et al. 2022): how far above what models say of a unit that never saw it, one-sided.

    As `LiRA`, with the references that a unit is out of only. The paper's score is 1 - Pr[Z > observed]. This one is
    the log of its odds, averaged over the queries: for one query it ranks alike, but 38 deviations above the mean the
    probability's logarithm is 0 and units tie. (The paper's public code takes the density, which is two-sided.)
    """

    least: ClassVar[int] = 1
    sides: ClassVar[tuple[float, ...]] = (OUT,)

    @property
    def needs(self) -> tuple[str, str]:
        if self.variance == "each":
            return "2 references that did not see it", "take variance: fixed, or raise shadows.count"
        return one_side()

    def weigh(self, x: Floats, means: Sequence[Floats], variances: Sequence[Floats]) -> Floats:
        from scipy.special import log_ndtr

        z = (x - means[0]) / np.sqrt(variances[0])
        return np.asarray(log_ndtr(z) - log_ndtr(-z), dtype=np.float64)
