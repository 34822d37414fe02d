"""A classifier trained on shadows, of which the attacker knows who was in: Shokri et al. 2017 and all that follow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_mia.core import Attack, Evidence, Floats, Integers, Scorer, Signal

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin, TransformerMixin


class Classifier(ABC):
    """Settings of a scikit-learn classifier with a `decision_function`; a fresh one is built for every fit."""

    @abstractmethod
    def build(self) -> ClassifierMixin:
        """An unfitted estimator."""

    def scaler(self) -> TransformerMixin:
        """What scales the features first, fitted on the shadows: each column to mean 0 and deviation 1."""
        from sklearn.preprocessing import StandardScaler

        return StandardScaler()


@dataclass(frozen=True)
class LinearSVC(Classifier):
    """scikit-learn's `LinearSVC`, AuditMI's classifier, with its defaults."""

    C: float = 1.0
    seed: int = 0

    def build(self) -> ClassifierMixin:
        from sklearn.svm import LinearSVC as Estimator

        return Estimator(C=self.C, random_state=self.seed)


@dataclass(frozen=True)
class LogisticRegression(Classifier):
    """scikit-learn's `LogisticRegression` with balanced classes, so that score 0 means as likely in as out."""

    C: float = 1.0

    def build(self) -> ClassifierMixin:
        from sklearn.linear_model import LogisticRegression as Estimator

        return Estimator(C=self.C, class_weight="balanced", max_iter=1000)


@dataclass(frozen=True)
class ShadowClassifier(Attack):
    """Scale the shadows' features, fit the classifier on who was in, score by its decision function.

    The threshold is the decision function's own, 0.
    """

    least: ClassVar[int] = 1
    signal: Signal
    classifier: Classifier = LinearSVC()

    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        from sklearn.pipeline import make_pipeline

        if not shadows:
            raise ValueError(
                "ShadowClassifier learns from shadows, and there are none: set shadows.count to 1 or more."
            )
        starts = np.cumsum([0, *(len(shadow.names) for shadow in shadows)])
        known = np.concatenate([start + _known(shadow) for start, shadow in zip(starts, shadows, strict=False)])
        features = np.take(np.vstack([shadow.features for shadow in shadows]), known, axis=0)
        member = np.concatenate([shadow.member for shadow in shadows])[known]
        fitted = make_pipeline(self.classifier.scaler(), self.classifier.build()).fit(features, member)

        def score(evidence: Evidence) -> Floats:
            return np.asarray(fitted.decision_function(evidence.features), dtype=np.float64)

        return Scorer(score, 0.0)


def _known(shadow: Evidence) -> Integers:
    """Units of known membership, by name: where a solver stops hangs on the order in which it meets them."""
    order = sorted(range(len(shadow.names)), key=shadow.names.__getitem__)  # pools are sorted: one pass
    return np.array(order, dtype=np.int64)[~np.isnan(shadow.member[order])]
