"""What to read off a language model about one text: the scores that are used on large ones, and their mean over texts.

A unit's score is the mean over its texts, so each text counts alike, however long; where a unit is one text, it is the
published score. All are float64, larger = more likely a member.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_mia.core import Answers, Floats, Integers, Signal
from hf_mia.probes.tokens import Tokens
from hf_mia.probes.versions import Lowercase, Prefixed, Versions
from hf_mia.units import places

FLAT = 2.0**-20  # nats: float32 tells no smaller deviation of log p from none
CERTAIN = 2.0**-24  # nats: float32 tells no smaller mean loss from none


@dataclass(frozen=True)
class TextMean(Signal):
    """The mean over a unit's texts of one number a text."""

    @abstractmethod
    def texts(self, answers: Answers) -> Floats:
        """The number of each text (records,); NaN leaves a text out, as one without a token."""

    def measure(self, answers: Answers) -> Floats:
        found = self.texts(answers)
        known = ~np.isnan(found)
        return np.stack([np.where(known, found, 0.0), known.astype(np.float64)], axis=1)

    def fold(self, total: Floats, count: Floats) -> Floats:
        return total[:, :1] / total[:, 1:]


@dataclass(frozen=True)
class TextLoss(TextMean):
    """The mean negative log-probability of a text's tokens in nats, negated: the loss (Yeom et al. 2018)."""

    probe: ClassVar[Tokens] = Tokens()

    def texts(self, answers: Answers) -> Floats:
        return means(answers["logprob"].values.astype(np.float64), text_of(answers), sizes(answers))


@dataclass(frozen=True)
class ZlibLoss(TextLoss):
    """The loss of a text over its bytes once compressed by zlib, negated (Carlini et al. 2021, section 5.2).

    Raises ValueError where the answers do not tell `compressed`.
    """

    def texts(self, answers: Answers) -> Floats:
        if "compressed" not in answers:
            raise ValueError(
                "ZlibLoss divides by each text's compressed bytes, and this model's collate does not tell them: add "
                "`compressed` (rows, 1) to its batches."
            )
        values, offsets = answers["compressed"].values.astype(np.float64), answers["compressed"].offsets
        asked = np.diff(offsets) > 0
        size = np.full(len(asked), np.nan)
        size[asked] = values[offsets[:-1][asked]]  # every window of a text tells the same
        return np.asarray(super().texts(answers) / size, dtype=np.float64)


@dataclass(frozen=True)
class MinK(TextMean):
    """Min-K%: the mean log-probability of the `k` share of a text's tokens that are least likely (Shi et al. 2024).

    Of n tokens these are the floor of k * n, and at least one. Raises ValueError for a k outside (0, 1].
    """

    probe: ClassVar[Tokens] = Tokens()
    k: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.k <= 1:
            raise ValueError(f"k must be in (0, 1], such as 0.2 for the lowest 20 percent, but is {self.k}.")

    def tokens(self, answers: Answers) -> Floats:
        """The number of each token (tokens,)."""
        return answers["logprob"].values.astype(np.float64)

    def texts(self, answers: Answers) -> Floats:
        values, text = self.tokens(answers), text_of(answers)
        kept = np.maximum(np.floor(self.k * sizes(answers) + 1e-9), 1).astype(np.int64)  # 0.29 * 100 < 29 in floats
        low = places(text, values) < kept[text]
        return means(values[low], text[low], np.where(sizes(answers) == 0, 0, kept))


@dataclass(frozen=True)
class MinKPlusPlus(MinK):
    """Min-K%++: as `MinK`, of (log p - mean) / deviation, those of log p under p (Zhang et al. 2024, eq. 3).

    A deviation below 2^-20 nats, which float32 cannot tell from none, counts as that.
    """

    def tokens(self, answers: Answers) -> Floats:
        own, mean, deviation = (answers[n].values.astype(np.float64) for n in ("logprob", "mean", "deviation"))
        return np.asarray((own - mean) / np.maximum(deviation, FLAT), dtype=np.float64)


@dataclass(frozen=True)
class LossGap(TextMean):
    """How much likelier a text is than other versions of it: minus its loss, plus the mean loss of the others.

    With `Lowercase`, the logarithm of the ratio of perplexities of Carlini et al. 2021; with `Neighbours`, the
    neighbourhood score of Mattern et al. 2023.
    """

    probe: Versions = Lowercase()

    def texts(self, answers: Answers) -> Floats:
        losses = -log_likelihoods(answers)
        with np.errstate(invalid="ignore"):
            return np.asarray(losses[:, 1:].mean(axis=1) - losses[:, 0], dtype=np.float64)


@dataclass(frozen=True)
class LossRatio(TextMean):
    """ReCaLL: a text's loss after texts that the model never saw over its loss alone (Xie et al. 2024, eq. 1).

    Texts that the model saw lose more by such a prefix. A mean loss below 2^-24 nats counts as that.
    """

    probe: Prefixed = Prefixed()

    def texts(self, answers: Answers) -> Floats:
        losses = np.maximum(-log_likelihoods(answers), CERTAIN)
        return np.asarray(losses[:, 1] / losses[:, 0], dtype=np.float64)


def sizes(answers: Answers) -> Integers:
    """The number of tokens that are scored of each text (records,)."""
    return np.diff(answers["logprob"].offsets)


def text_of(answers: Answers) -> Integers:
    """The text that each token belongs to (tokens,)."""
    return np.repeat(np.arange(len(sizes(answers))), sizes(answers))


def means(values: Floats, text: Integers, counts: Integers) -> Floats:
    """The sum of each text's values over its count (records,); NaN where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.bincount(text, values, len(counts)) / counts, dtype=np.float64)


def log_likelihoods(answers: Answers) -> Floats:
    """The mean log-probability (records, versions) of each version of a text; NaN for one without a token."""
    version, text = answers["version"].values.astype(np.int64), text_of(answers)
    width = int(version.max(initial=0)) + 1
    total, tokens = (
        np.bincount(text * width + version, answers[name].values.astype(np.float64), len(sizes(answers)) * width)
        for name in ("logprob", "tokens")
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((total / tokens).reshape(-1, width), dtype=np.float64)
