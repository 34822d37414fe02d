"""What to read off a vision encoder's answers about an image. All are float64, larger = more likely a member."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hf_mia.core import Answers, Floats, Ragged, Signal
from hf_mia.probes.parts import Parts
from hf_mia.probes.views import Anchored, Plain, ViewFeatures, Views

Singles = npt.NDArray[np.float32]
Similarity = Literal["cosine", "correlation", "euclidean"]


@dataclass(frozen=True)
class Pairwise(Signal):
    """What is read off the similarity of every pair of views of an image; Euclidean distances are negated.

    `first` keeps the pairs among the first views only, so that one probe with many views serves any number. Raises
    ValueError for a similarity that does not exist, and for a `first` below 2 or beyond the probe's n.
    """

    similarity: Similarity = "cosine"
    first: int | None = None
    probe: Views = Views()

    def __post_init__(self) -> None:
        if self.similarity not in get_args(Similarity):
            raise ValueError(f"similarity must be one of {get_args(Similarity)}, but is {self.similarity!r}.")
        if self.first is not None and not 2 <= self.first <= self.probe.n:
            raise ValueError(f"first must be 2 to the {self.probe.n} views that the probe draws, but is {self.first}.")

    @abstractmethod
    def measure(self, answers: Answers) -> Floats: ...

    def pairs(self, answers: Answers) -> Singles:
        """The similarities (images, m(m-1)/2) of the first m views, still as float32."""
        m = self.probe.n if self.first is None else self.first
        found = table(answers[self.similarity])[:, : m * (m - 1) // 2]
        return -found if self.similarity == "euclidean" else found


@dataclass(frozen=True)
class ViewSimilarity(Pairwise):
    """The similarities of all pairs of views, the largest first: the feature vector of EncoderMI-V."""

    def measure(self, answers: Answers) -> Floats:
        ascending = np.sort(-self.pairs(answers), axis=1)
        return -ascending.astype(np.float64)


@dataclass(frozen=True)
class MeanSimilarity(Pairwise):
    """The mean similarity of all pairs of views: the score of EncoderMI-T."""

    def measure(self, answers: Answers) -> Floats:
        return mean(self.pairs(answers))


@dataclass(frozen=True)
class PlainSimilarity(Signal):
    """The mean cosine of the plain image's feature with those of its views, one view by default.

    The second baseline of EncoderMI, as we read it: the source has one line on it, which ranks images by the similarity
    of features and does not say of which.
    """

    probe: Anchored = Anchored()

    def measure(self, answers: Answers) -> Floats:
        return mean(table(answers["cosine"]))


@dataclass(frozen=True)
class Feature(Signal):
    """The feature vector of the plain image: the first baseline of EncoderMI."""

    probe: Plain = Plain()

    def measure(self, answers: Answers) -> Floats:
        return table(answers["feature"]).astype(np.float64)


@dataclass(frozen=True)
class ConcatenatedFeatures(Signal):
    """The feature vectors of an image's views, one after the other."""

    probe: ViewFeatures = ViewFeatures()

    def measure(self, answers: Answers) -> Floats:
        return table(answers["features"]).astype(np.float64)


@dataclass(frozen=True)
class PartEnergies(Signal):
    """How far an image's parts are from answering to its map at random, PartCrop's features (images, 2n).

    The n divergences from the uniform distribution, the largest first, then those from the bells, the largest first
    (Zhu et al. 2024; `hf_mia.probes.parts` says what is the published code's).
    """

    probe: Parts = Parts()

    def measure(self, answers: Answers) -> Floats:
        sides = [-np.sort(-table(answers[name]), axis=1) for name in ("uniform", "gaussian")]
        return np.hstack(sides).astype(np.float64)


@dataclass(frozen=True)
class FeatureNorm(Signal):
    """The p-norm (images, 1) of the plain image's feature vector: LpLA's number (Sun et al. 2025, arXiv 2506.05743).

    Of that paper only the abstract could be read, and its repository held no code: that the norm is of one pass over
    the plain image, and that p is 2, is our reading. Raises ValueError for a p below 1.
    """

    p: float = 2.0
    probe: Plain = Plain()

    def __post_init__(self) -> None:
        if not self.p >= 1:
            raise ValueError(f"p must be at least 1, such as 2, or infinity for the largest number, but is {self.p}.")

    def measure(self, answers: Answers) -> Floats:
        sizes = np.abs(table(answers["feature"]).astype(np.float64))
        largest = np.maximum(sizes.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)  # no power overflows
        return np.asarray(largest * np.linalg.norm(sizes / largest, self.p, axis=1, keepdims=True), dtype=np.float64)


@dataclass(frozen=True)
class Confidence(Signal):
    """The chances (images, classes) that a classifier gives its classes, the largest first, from a model's logits.

    They are the softmax of the plain image's `feature`, so the model must be a classifier, which
    `hf_mia.audits.downstream.classifying` makes of an encoder; of an encoder itself the numbers mean nothing.
    """

    probe: Plain = Plain()

    def measure(self, answers: Answers) -> Floats:
        logits = -np.sort(-table(answers["feature"]).astype(np.float64), axis=1)
        chances = np.exp(logits - logits[:, :1])
        return np.asarray(chances / chances.sum(axis=1, keepdims=True), dtype=np.float64)


def table(answers: Ragged) -> Singles:
    """Answers as a table (images, width). Raises ValueError unless every image has as many numbers."""
    sizes = np.diff(answers.offsets)
    if len(sizes) == 0 or sizes.min() == 0 or sizes.min() != sizes.max():
        raise ValueError(f"every image must have one row of answers, but their numbers differ: {np.unique(sizes)}.")
    start, end = answers.offsets[[0, -1]]
    return np.asarray(answers.values[start:end], dtype=np.float32).reshape(len(sizes), -1)


def mean(rows: Singles) -> Floats:
    """The mean of each row (images, 1), summed in float64."""
    return np.asarray(rows.mean(axis=1, dtype=np.float64, keepdims=True), dtype=np.float64)
