"""A classifier trained on shadows, of which the attacker knows who was in: Shokri et al. 2017 and all that follow."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_mia.core import Attack, Evidence, Floats, Integers, Scorer, Signal

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin, TransformerMixin
    from sklearn.pipeline import Pipeline

Setting = bool | int | float | str | tuple[int, ...] | None  # of a classifier
LEAST = 1e-12  # a probability that is told from 0


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
class ScikitLearn(Classifier):
    """Any classifier of scikit-learn, by its class's name, with some of its `settings`; the others are its defaults.

    It must have a `decision_function`, or probabilities, of which the log odds count. By default the network of Shokri
    et al. 2017: one hidden layer of 64 units. ValueError for an unknown name or setting, and where it has neither.
    """

    estimator: str = "MLPClassifier"
    settings: Mapping[str, Setting] = field(default_factory=lambda: {"hidden_layer_sizes": (64,)})
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", dict(sorted(self.settings.items())))  # in whatever order they came

    def build(self) -> ClassifierMixin:
        from sklearn.utils import all_estimators

        known = dict(all_estimators(type_filter="classifier"))
        if self.estimator not in known:
            near = get_close_matches(self.estimator, known, 1)
            hint = f": did you mean {near[0]!r}" if near else ""
            raise ValueError(f"estimator {self.estimator!r} is no classifier of scikit-learn{hint}? {sorted(known)}.")
        made = known[self.estimator]()
        seeded = {"random_state": self.seed} if "random_state" in made.get_params() else {}
        try:
            return made.set_params(**seeded, **self.settings)
        except ValueError as error:
            raise ValueError(f"settings of {self.estimator}: {error}") from error


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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Stochastic Optimizer")  # as many steps as its settings say are meant
            fitted = make_pipeline(self.classifier.scaler(), self.classifier.build()).fit(features, member)

        def score(evidence: Evidence) -> Floats:
            return decided(fitted, evidence.features)

        return Scorer(score, 0.0)


def decided(fitted: Pipeline, features: Floats) -> Floats:
    """How far a fitted classifier of two classes leans to the second (units,), 0 where it leans to neither."""
    if hasattr(fitted, "decision_function"):
        return np.asarray(fitted.decision_function(features), dtype=np.float64)
    if not hasattr(fitted, "predict_proba"):
        raise ValueError(f"{fitted[-1]} gives classes and no numbers: name a classifier with predict_proba.")
    share = np.clip(np.asarray(fitted.predict_proba(features)[:, 1], dtype=np.float64), LEAST, 1 - LEAST)
    return np.asarray(np.log(share) - np.log1p(-share), dtype=np.float64)


def _known(shadow: Evidence) -> Integers:
    """Units of known membership, by name: where a solver stops hangs on the order in which it meets them."""
    order = sorted(range(len(shadow.names)), key=shadow.names.__getitem__)  # pools are sorted: one pass
    return np.array(order, dtype=np.int64)[~np.isnan(shadow.member[order])]
