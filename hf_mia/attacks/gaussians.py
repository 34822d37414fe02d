"""Likelihoods under two normal distributions, one of members and one of non-members, fitted on shadows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_mia.attacks.shadow import Classifier

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin


@dataclass(frozen=True)
class Gaussians(Classifier):
    """How much likelier a unit's features are among members than among non-members, as the log of the ratio.

    A normal distribution is fitted to each side of the shadows, each column by itself, and both sides count the same.
    A variance is never below `floor` times that of both sides together, so that equal numbers do not divide by 0.
    With the norm of a feature vector it is LpLA as we read its abstract (Sun et al., ASIA CCS 2025, arXiv 2506.05743),
    which says that the norms' distribution is used and no more. Raises ValueError for a floor outside of (0, 1].
    """

    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor must be above 0 and at most 1, such as 1e-6, but is {self.floor}.")

    def build(self) -> ClassifierMixin:
        from hf_mia.estimators.gaussians import GaussianRatio

        return GaussianRatio(self.floor)
