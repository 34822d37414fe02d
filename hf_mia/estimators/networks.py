"""Small networks as scikit-learn estimators, trained with torch: an MLP, and DeepSets over sets of numbers.

A fit depends on its features, labels and seed alone: torch's global random numbers are neither read nor moved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch.nn.functional import cross_entropy, one_hot

Affine = tuple[torch.Tensor, torch.Tensor]  # weight (inputs, outputs) and bias (outputs,)
NUMBERS = 2**14  # features scored at a time


def views(flat: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[Affine]:
    """Affine layers (inputs, outputs) that lie in one flat tensor, so that one step of Adam moves them all."""
    parts = torch.split(flat, [count for inputs, outputs in sizes for count in (inputs * outputs, outputs)])
    return [
        # the longer side lies contiguous, for the sake of the layer with two outputs: 5 % of a fit
        (weight.view(size) if size[0] <= size[1] else weight.view(size[::-1]).t(), bias)
        for size, weight, bias in zip(sizes, parts[::2], parts[1::2], strict=True)
    ]


class Parameters:
    """A network's affine layers in `flat`, and their gradients in `flat.grad`, as views of the same shapes."""

    def __init__(self, sizes: Sequence[tuple[int, int]], generator: torch.Generator, device: str) -> None:
        """Uniform in 1 / sqrt(inputs) either way, which is torch's own start; drawn on the CPU for every device."""
        start = torch.empty(sum(prod(size) + size[1] for size in sizes), dtype=torch.float32)
        for (inputs, _), layer in zip(sizes, views(start, sizes), strict=True):
            for part in layer:
                part.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        self.flat = start.to(device)
        self.flat.grad = torch.zeros_like(self.flat)
        self.layers, self.gradients = views(self.flat, sizes), views(self.flat.grad, sizes)


class Network(ABC):
    """An architecture; a frozen dataclass, so that estimators can be compared and cloned."""

    threads: ClassVar[int | None] = None  # None leaves torch's own number

    @property
    def device(self) -> str:
        return "cpu"

    @abstractmethod
    def sizes(self, features: int) -> list[tuple[int, int]]:
        """Inputs and outputs of each affine layer; the last has two outputs, non-member and member."""

    @abstractmethod
    def logits(self, layers: Sequence[Affine], x: torch.Tensor) -> torch.Tensor:
        """Logits (rows, 2) of features (rows, f)."""

    def gradient(self, parameters: Parameters, x: torch.Tensor, truth: torch.Tensor) -> None:
        """Fill `parameters.gradients` with those of the mean cross-entropy; `truth` (rows, 2) is one-hot."""
        with torch.enable_grad():
            leaves = [(w.detach().requires_grad_(), b.detach().requires_grad_()) for w, b in parameters.layers]
            loss = cross_entropy(self.logits(leaves, x), truth)
        found = torch.autograd.grad(loss, [part for layer in leaves for part in layer])
        for kept, new in zip((part for layer in parameters.gradients for part in layer), found, strict=True):
            kept.copy_(new)


@dataclass(frozen=True)
class Perceptron(Network):
    """Fully connected layers with tanh, or ReLU; a written-out gradient: a fifth faster than autograd's at 100 rows."""

    hidden: tuple[int, ...]
    activation: Literal["tanh", "relu"] = "tanh"
    threads: ClassVar[int | None] = 1  # a step is of 0.5 ms: more threads wait for each other

    def sizes(self, features: int) -> list[tuple[int, int]]:
        return list(pairwise((features, *self.hidden, 2)))

    def logits(self, layers: Sequence[Affine], x: torch.Tensor) -> torch.Tensor:
        for weight, bias in layers[:-1]:
            x = self._active(bias, x, weight)
        return torch.addmm(layers[-1][1], x, layers[-1][0])

    def gradient(self, parameters: Parameters, x: torch.Tensor, truth: torch.Tensor) -> None:
        inputs = [x]
        for weight, bias in parameters.layers[:-1]:
            inputs.append(self._active(bias, inputs[-1], weight))
        weight, bias = parameters.layers[-1]
        slope = torch.addmm(bias, inputs[-1], weight).softmax(1).sub_(truth).div_(len(x))
        for i in reversed(range(len(inputs))):
            torch.mm(inputs[i].t(), slope, out=parameters.gradients[i][0])
            torch.sum(slope, 0, out=parameters.gradients[i][1])
            if i:
                slope, y = torch.mm(slope, parameters.layers[i][0].t()), inputs[i]
                slope = slope * (y > 0) if self.activation == "relu" else torch.ops.aten.tanh_backward(slope, y)

    def _active(self, bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The activation of x @ weight + bias; tanh by the logistic function: 9 times faster on a CPU."""
        if self.activation == "relu":
            return torch.addmm(bias, x, weight).relu_()
        return torch.addmm(bias, x, weight, beta=2, alpha=2).sigmoid_().mul(2).sub_(1)


@dataclass(frozen=True)
class SetNetwork(Network):
    """DeepSets with ReLU (Zaheer et al. 2017): phi of each number, pooled over the set, then rho.

    The last layers of phi and of rho are affine. With the mean, phi's last layer follows the pooling instead, which
    is the same function for half the work. On a GPU where there is one.
    """

    phi: tuple[int, ...]
    rho: tuple[int, ...]
    pool: Literal["mean", "max"]

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    def sizes(self, features: int) -> list[tuple[int, int]]:
        return list(pairwise((1, *self.phi, *self.rho, 2)))

    def logits(self, layers: Sequence[Affine], x: torch.Tensor) -> torch.Tensor:
        inner, (weight, bias), outer = layers[: len(self.phi) - 1], layers[len(self.phi) - 1], layers[len(self.phi) :]
        y = x.reshape(-1, 1)
        for w, b in inner:
            y = torch.addmm(b, y, w).relu_()
        if self.pool == "mean":
            y = torch.addmm(bias, y.view(*x.shape, -1).mean(1), weight)
        else:
            y = torch.addmm(bias, y, weight).view(*x.shape, -1).amax(1)
        for w, b in outer[:-1]:
            y = torch.addmm(b, y, w).relu_()
        return torch.addmm(outer[-1][1], y, outer[-1][0])


class NetworkClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """A network trained by Adam on cross-entropy; scores are the logit of the larger label less the other's.

    `decay` times the parameters is added to their gradient (L2). Training is in float32, scoring in float64. Raises
    ValueError for features that are not finite, for labels not of two classes, and where training diverges.
    """

    def __init__(
        self, network: Network, learning_rate: float, decay: float, batch: int, epochs: int, seed: int
    ) -> None:
        self.network, self.learning_rate, self.decay = network, learning_rate, decay
        self.batch, self.epochs, self.seed = batch, epochs, seed

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> NetworkClassifier:
        """Train on features (rows, f) and labels (rows,) of two classes."""
        features = _finite(X)
        self.classes_, label = np.unique(np.asarray(y), return_inverse=True)
        if len(self.classes_) != 2 or label.shape != (len(features),):
            raise ValueError(
                f"y must label {len(features)} rows as of two classes, but has {label.size} labels of "
                f"{self.classes_.tolist()[:5]}: give shadows with both members and non-members."
            )
        generator, device = torch.Generator().manual_seed(self.seed), self.network.device
        parameters = Parameters(self.network.sizes(features.shape[1]), generator, device)
        with torch.no_grad(), _threads(self.network.threads):
            x = torch.from_numpy(features).to(device, torch.float32)
            self._train(parameters, x, one_hot(torch.from_numpy(label), 2).to(x), generator)
        self.n_features_in_ = features.shape[1]
        self.parameters_: npt.NDArray[np.float64] = parameters.flat.double().cpu().numpy()
        if not np.isfinite(self.parameters_).all():
            raise ValueError(f"training diverged with learning_rate = {self.learning_rate}: lower it.")
        return self

    def _train(self, parameters: Parameters, x: torch.Tensor, truth: torch.Tensor, generator: torch.Generator) -> None:
        optimizer = torch.optim.Adam([parameters.flat], lr=self.learning_rate, weight_decay=self.decay, fused=True)
        for _ in range(self.epochs):
            order = torch.randperm(len(x), generator=generator).to(x.device)
            batches = zip(torch.split(x[order], self.batch), torch.split(truth[order], self.batch), strict=True)
            for rows, labels in batches:
                self.network.gradient(parameters, rows, labels)
                optimizer.step()

    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores (rows,), a few rows at a time; above 0 the larger of the two labels is the likelier."""
        check_is_fitted(self, "parameters_")
        features = _finite(X)
        if features.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X must have the {self.n_features_in_} features of the fit, but has {features.shape[1]}: "
                "read it with the same signal."
            )
        device, step = self.network.device, max(1, NUMBERS // features.shape[1])
        layers = views(torch.from_numpy(self.parameters_).to(device), self.network.sizes(features.shape[1]))
        scores = np.empty(len(features))
        with torch.no_grad(), _threads(self.network.threads):
            for start in range(0, len(features), step):
                rows = torch.from_numpy(features[start : start + step]).to(device)
                logits = self.network.logits(layers, rows)
                scores[start : start + step] = (logits[:, 1] - logits[:, 0]).cpu().numpy()
        return scores

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """The likelier label of each row."""
        return np.asarray(self.classes_[(self.decision_function(X) > 0).astype(int)])


class CommonScaler(TransformerMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """One mean and one deviation over all numbers of all rows: a set's numbers keep their level and any order."""

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> CommonScaler:
        """Take the mean and deviation of features (rows, f); where they do not vary, the deviation counts as 1."""
        features = _finite(X)
        self.mean_, deviation = float(features.mean()), float(features.std())
        self.scale_ = deviation if deviation > 1e-12 * abs(self.mean_) else 1.0
        return self

    def transform(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Features (rows, f) less the mean, over the deviation."""
        check_is_fitted(self, "scale_")
        return (_finite(X) - self.mean_) / self.scale_


def _finite(X: npt.ArrayLike) -> npt.NDArray[np.float64]:
    features = np.ascontiguousarray(X, dtype=np.float64)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"X must be features (rows, f), one or more of each, but has shape {features.shape}.")
    if lost := np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
        raise ValueError(f"X must be finite, but {len(lost)} rows are not, such as {lost[:5]}: leave them out.")
    return features


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Run with a number of torch's threads, and leave behind the number found."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
