"""Two normal distributions as a scikit-learn estimator: how much likelier a row is under one than under the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted


class GaussianRatio(ClassifierMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """A normal distribution for each of two labels, each column by itself; scores are the log of their ratio.

    Means and variances are those of maximum likelihood; a variance is never below `floor` times that of all rows.
    Both labels count the same, however many rows each has. Raises ValueError for labels not of two classes.
    """

    def __init__(self, floor: float) -> None:
        self.floor = floor

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> GaussianRatio:
        """Take means and variances of features (rows, f) and labels (rows,)."""
        features, labels = np.asarray(X, dtype=np.float64), np.asarray(y)
        self.classes_ = np.unique(labels)
        if len(self.classes_) != 2:
            raise ValueError(
                f"y must be of two classes, but has {self.classes_.tolist()[:5]}: give shadows with both members and "
                "non-members."
            )
        sides, lowest = [features[labels == label] for label in self.classes_], self.floor * features.var(axis=0)
        self.mean_ = np.array([side.mean(axis=0) for side in sides])
        variance = np.maximum([side.var(axis=0) for side in sides], lowest)
        self.var_ = np.where(variance > 0, variance, 1.0)  # a column that never varies tells nothing
        return self

    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores (rows,); above 0 the larger of the two labels is the likelier."""
        check_is_fitted(self, "var_")
        away = np.asarray(X, dtype=np.float64)[:, None] - self.mean_
        density = -0.5 * (away**2 / self.var_ + np.log(self.var_)).sum(axis=2)
        return np.asarray(density[:, 1] - density[:, 0], dtype=np.float64)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """The likelier label of each row."""
        return np.asarray(self.classes_[(self.decision_function(X) > 0).astype(int)])
