"""What to read off a classifier's answers about a record. All are float64, larger = more likely a member.

Where several queries were made of an image, what is read is of the plain one, but for `LogitGap` and
`AugmentedCorrectness`. Nothing is ever 1 - p: what the other classes have together is summed from their own share, so
numbers are right, finite and different where p rounds to 1.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_mia.core import Answers, Floats, Integers, Ragged, Signal
from hf_mia.probes.gradients import Gradients
from hf_mia.probes.posteriors import Posteriors

SMALLEST = 2.0**-149  # the smallest float32 above 0
UNSEEN = 2.0**-25  # the share that float32 cannot tell from none, beside a share of 1


@dataclass(frozen=True)
class Correctness(Signal):
    """1 where the model's answer is the true class, else 0 (Yeom et al. 2018): all that label-only access gives."""

    probe: Posteriors = Posteriors()

    def measure(self, answers: Answers) -> Floats:
        return np.asarray(predicted(answers)[:, :1] == labels(answers)[:, None], dtype=np.float64)


@dataclass(frozen=True)
class AugmentedCorrectness(Signal):
    """The share of an image's queries answered with the true class: label-only access (Choquette-Choo et al. 2021)."""

    probe: Posteriors = Posteriors()

    def measure(self, answers: Answers) -> Floats:
        right = predicted(answers) == labels(answers)[:, None]
        return np.asarray(right.mean(axis=1, keepdims=True), dtype=np.float64)


@dataclass(frozen=True)
class Distribution(Signal):
    """What is read off the log-probabilities of the classes. ValueError for label-only access, which shows none."""

    probe: Posteriors = Posteriors()

    def __post_init__(self) -> None:
        if self.probe.access == "label":
            raise ValueError(
                f"{type(self).__name__} reads probabilities, and probe.access = 'label' shows none: take 'logits', "
                "'probabilities' or 'top-k', or read Correctness or AugmentedCorrectness."
            )

    @abstractmethod
    def of(self, logp: Floats, label: Integers) -> Floats:
        """The number or numbers of each record from log-probabilities (records, C) and true classes (records, 1)."""

    def measure(self, answers: Answers) -> Floats:
        rows = self.of(log_posteriors(answers)[:, 0], labels(answers)[:, None])
        return np.asarray(rows.reshape(len(rows), -1), dtype=np.float64)


@dataclass(frozen=True)
class Loss(Distribution):
    """The log-probability of the true class in nats: the cross-entropy loss, negated (Yeom et al. 2018)."""

    def of(self, logp: Floats, label: Integers) -> Floats:
        return np.take_along_axis(logp, label, axis=1)


@dataclass(frozen=True)
class Confidence(Distribution):
    """The largest probability, whatever the true class (Salem et al. 2019)."""

    def of(self, logp: Floats, label: Integers) -> Floats:
        return np.asarray(np.exp(logp.max(axis=1)), dtype=np.float64)


@dataclass(frozen=True)
class Entropy(Distribution):
    """The entropy of the probabilities in nats, negated (Salem et al. 2019)."""

    def of(self, logp: Floats, label: Integers) -> Floats:
        return np.asarray((np.exp(logp) * logp).sum(axis=1), dtype=np.float64)


@dataclass(frozen=True)
class ModifiedEntropy(Distribution):
    """-(1 - p_y) log p_y - sum over i other than y of p_i log(1 - p_i), negated (Song and Mittal 2021, eq. 8)."""

    def of(self, logp: Floats, label: Integers) -> Floats:
        rest = log_others(logp)
        terms = np.exp(logp) * rest
        own = np.exp(np.take_along_axis(rest, label, axis=1)) * np.take_along_axis(logp, label, axis=1)
        np.put_along_axis(terms, label, own, axis=1)
        return np.asarray(terms.sum(axis=1), dtype=np.float64)


@dataclass(frozen=True)
class Posterior(Distribution):
    """The probabilities of all classes (records, C), in the order of the labels, as Shokri et al. 2017 attack them."""

    def of(self, logp: Floats, label: Integers) -> Floats:
        return np.asarray(np.exp(logp), dtype=np.float64)


@dataclass(frozen=True)
class LogitGap(Distribution):
    """log p_y - log of the sum of all other p_i, of each of the q queries (records, q): LiRA's, Carlini et al. 2022."""

    def of(self, logp: Floats, label: Integers) -> Floats:
        own, others = np.take_along_axis(logp, label, axis=-1)[..., 0], logp.copy()
        np.put_along_axis(others, np.broadcast_to(label, (*logp.shape[:-1], 1)), -np.inf, axis=-1)
        top = others.max(axis=-1)
        return np.asarray(own - top - np.log(np.exp(others - top[..., None]).sum(axis=-1)), dtype=np.float64)

    def measure(self, answers: Answers) -> Floats:
        return self.of(log_posteriors(answers), labels(answers)[:, None, None])


@dataclass(frozen=True)
class GradientNorm(Signal):
    """Minus the logarithm of the L2 norm of the loss's gradient by all weights (Nasr et al. 2019): white box."""

    probe: Gradients = Gradients()

    def measure(self, answers: Answers) -> Floats:
        squares = np.square(table(answers["gradient"]).astype(np.float64)).sum(axis=1, keepdims=True)
        return np.asarray(-np.log(np.maximum(np.sqrt(squares), SMALLEST)), dtype=np.float64)


@dataclass(frozen=True)
class WhiteBox(Signal):
    """The log-probability of the true class, then the log-norm of the loss's gradient by each tensor of weights.

    (records, 1 + tensors), for an attack that learns which tell most (Nasr et al. 2019); a norm of 0 counts as 2^-149.
    """

    probe: Gradients = Gradients()

    def measure(self, answers: Answers) -> Floats:
        loss, norms = (table(answers[name]).astype(np.float64) for name in ("loss", "gradient"))
        return np.hstack([0.0 - loss, np.log(np.maximum(norms, SMALLEST))])


def log_posteriors(answers: Answers) -> Floats:
    """Log-probabilities (records, q, C) from whatever was shown.

    Logits give them exactly. Of probabilities, 0 counts as 2^-149. Where the top k are shown, what they leave is spread
    evenly over the other classes, none of which may have more than the least that is shown; what float32 cannot tell
    from nothing counts as 2^-25. Where somebody has worked them out already, they stand in `logp`. ValueError where
    labels alone are shown.
    """
    if "predicted" in answers:
        raise ValueError("labels alone are shown, and no probabilities: set probe.access to logits or probabilities.")
    count = int(table(answers["count"])[0, 0])
    if "logp" in answers:
        return (
            table(answers["logp"]).astype(np.float64, copy=False).reshape(len(answers["label"].offsets) - 1, -1, count)
        )
    name = next(name for name in ("logits", "probabilities", "top") if name in answers)
    found = table(answers[name]).astype(np.float64)
    if name == "top":
        found = _filled(found, table(answers["classes"]).astype(np.int64), _shown(answers), count)
    found = found.reshape(len(found), -1, count)
    return log_softmax(found if name == "logits" else np.log(np.maximum(found, SMALLEST)))


def labels(answers: Answers) -> Integers:
    """The true class of each record (records,)."""
    return table(answers["label"])[:, 0].astype(np.int64)


def predicted(answers: Answers) -> Integers:
    """The class that the model answers each query with (records, q), at any access level."""
    if "predicted" in answers:
        return table(answers["predicted"]).astype(np.int64)
    if "top" in answers:
        return table(answers["classes"])[:, :: _shown(answers)].astype(np.int64)
    found = table(answers["logits" if "logits" in answers else "probabilities"])
    count = int(table(answers["count"])[0, 0])
    return np.asarray(found.reshape(len(found), -1, count).argmax(axis=2), dtype=np.int64)


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities of logits (..., C): what falls short of 0 for a p that rounds to 1 is kept."""
    top = logits.argmax(axis=-1)[..., None]
    below = logits - np.take_along_axis(logits, top, axis=-1)
    others = np.exp(below)
    np.put_along_axis(others, top, 0.0, axis=-1)
    return np.asarray(below - np.log1p(others.sum(axis=-1, keepdims=True)), dtype=np.float64)


def log_others(logp: Floats) -> Floats:
    """log(1 - p) of each class (..., C), C at least 2: of the likeliest from the sum of all others."""
    top = logp.argmax(axis=-1)[..., None]
    rest = logp.copy()
    np.put_along_axis(rest, top, -np.inf, axis=-1)
    second = rest.max(axis=-1, keepdims=True)
    found = np.log1p(-np.exp(rest))
    np.put_along_axis(found, top, second + np.log(np.exp(rest - second).sum(axis=-1, keepdims=True)), axis=-1)
    return np.asarray(found, dtype=np.float64)


def table(answers: Ragged) -> npt.NDArray[np.generic]:
    """Answers as a table (records, width), of their own dtype. ValueError unless every record has as many numbers."""
    sizes = np.diff(answers.offsets)
    if len(sizes) == 0 or sizes.min() == 0 or sizes.min() != sizes.max():
        raise ValueError(f"every record must have one row of answers, but their numbers differ: {np.unique(sizes)}.")
    start, end = answers.offsets[[0, -1]]
    return answers.values[start:end].reshape(len(sizes), -1)


def _shown(answers: Answers) -> int:
    """How many classes are shown of a query."""
    return int(table(answers["shown"])[0, 0]) if "shown" in answers else table(answers["top"]).shape[1]


def _filled(top: Floats, classes: Integers, k: int, count: int) -> Floats:
    """Probabilities (records, q, C) from the k largest of each query (records, q * k) and whose they are."""
    top, where, hidden = top.reshape(len(top), -1, k), classes.reshape(len(top), -1, k), max(1, count - k)
    rest = np.maximum(1 - top.sum(axis=2, keepdims=True), UNSEEN) / hidden
    found = np.repeat(np.minimum(rest, top[:, :, -1:]), count, axis=2)
    np.put_along_axis(found, where, top, axis=2)
    return found
