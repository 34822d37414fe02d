"""What to read off a language model's answers about a user's words. All are float64, larger = more likely a member."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import ClassVar

import numpy as np

from hf_mia.core import Answers, Floats, Integers, Signal
from hf_mia.probes.tokens import Tokens


@dataclass(frozen=True)
class WordMean(Signal):
    """The mean of one number over all words of a unit: its texts are pooled, so long texts count for more.

    `first_subword` keeps only the tokens that begin a word, for models with subword tokens.
    """

    probe: ClassVar[Tokens] = Tokens()
    first_subword: bool = False

    @abstractmethod
    def words(self, answers: Answers) -> Floats:
        """The number of each word (words,)."""

    def measure(self, answers: Answers) -> Floats:
        offsets, keep = answers["start"].offsets, kept(answers, self.first_subword)
        return np.stack([_sums(self.words(answers) * keep, offsets), _sums(keep.astype(np.float64), offsets)], axis=1)

    def fold(self, total: Floats, count: Floats) -> Floats:
        return total[:, :1] / total[:, 1:]


@dataclass(frozen=True)
class MeanRank(WordMean):
    """The mean rank of a user's words, negated: the shadow-free baseline that must stand beside AuditMI.

    `top` cuts the list of words that the model shows: any further rank counts as `top`.
    """

    top: int | None = None

    def words(self, answers: Answers) -> Floats:
        return -cut(answers, self.top).astype(np.float64)


@dataclass(frozen=True)
class MeanLogRank(WordMean):
    """The mean of log(1 + rank), negated; `top` as in `MeanRank`."""

    top: int | None = None

    def words(self, answers: Answers) -> Floats:
        return -np.log1p(cut(answers, self.top).astype(np.float64))


@dataclass(frozen=True)
class MeanLoss(WordMean):
    """The mean negative log-probability of a user's words in nats, negated (Yeom et al. 2018)."""

    def words(self, answers: Answers) -> Floats:
        return answers["logprob"].values.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class TokenShare(WordMean):
    """The share of a user's words that are one token, such as `<unk>`: no attack, but a check that a game is fair."""

    token: int

    def words(self, answers: Answers) -> Floats:
        return np.asarray(answers["token"].values == self.token, dtype=np.float64)


@dataclass(frozen=True)
class RankHistogram(Signal):
    """AuditMI's feature: all ranks of a user's words in `bins` equal bins over [0, V], with L2 norm 1.

    A list cut to the `top` w words clips ranks to w and takes min(bins, w) bins over [0, w + 1), or w + 1 bins where
    the two are equal; the last says "not in the list" (Song and Shmatikov 2019; public code).
    """

    probe: ClassVar[Tokens] = Tokens()
    bins: int = 100
    top: int | None = None
    first_subword: bool = False

    def __post_init__(self) -> None:
        for name in ("bins", "top"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, but is {value}.")

    def measure(self, answers: Answers) -> Floats:
        ranks = cut(answers, self.top)
        if self.top is None:
            upper, bins = vocabulary(answers), self.bins
        else:
            upper, bins = self.top + 1, min(self.bins, self.top)
            bins += bins == self.top
        return histogram(ranks * bins // upper, answers, bins, self.first_subword)

    def fold(self, total: Floats, count: Floats) -> Floats:
        return unit_norm(total)


@dataclass(frozen=True)
class LogRankHistogram(RankHistogram):
    """Ranks in bins of equal width in log(1 + rank): fine where the words are, coarse in the tail."""

    bins: int = 20

    def measure(self, answers: Answers) -> Floats:
        ranks = cut(answers, self.top)
        upper = np.log1p(vocabulary(answers) if self.top is None else self.top + 1)
        where = np.log1p(ranks) / upper * self.bins
        return histogram(where.astype(np.int64), answers, self.bins, self.first_subword)


@dataclass(frozen=True)
class ProbabilityHistogram(RankHistogram):
    """Log-probabilities of a user's words in `bins` equal bins over [-`lowest` nats, 0], with L2 norm 1."""

    bins: int = 50
    lowest: float = 20.0

    def measure(self, answers: Answers) -> Floats:
        share = np.clip(1 + answers["logprob"].values.astype(np.float64) / self.lowest, 0, 1 - 1e-12)
        return histogram((share * self.bins).astype(np.int64), answers, self.bins, self.first_subword)


@dataclass(frozen=True)
class FrequencyRankHistogram(RankHistogram):
    """Each word's rank less its rank by frequency in the attacker's own texts, in `bins` bins over [-V, V].

    A rare word that a model ranks high tells more than a frequent one (Song and Shmatikov 2019).
    """

    common: Integers | None = field(default=None, repr=False, compare=False)

    def learn(self, pools: Sequence[Iterable[Answers]]) -> FrequencyRankHistogram:
        counts = frequencies(pools)
        ranks = np.empty(len(counts), dtype=np.int64)
        ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
        return replace(self, common=ranks)

    def measure(self, answers: Answers) -> Floats:
        if self.common is None or len(self.common) == 0:
            raise ValueError(
                "FrequencyRankHistogram counts words in the shadows' texts, and there are no shadows: "
                "set shadows.count to 1 or more."
            )
        size = vocabulary(answers)
        shift = cut(answers, self.top) - self.common[answers["token"].values] + size
        return histogram(shift * self.bins // (2 * size), answers, self.bins, self.first_subword)


def cut(answers: Answers, top: int | None) -> Integers:
    """Ranks (words,), those beyond the `top` words of the list all equal to `top`.

    ValueError where the model shows a list that is shorter than that.
    """
    shown = int(answers["shown"].values[0]) if "shown" in answers else None
    if shown is not None and (top is None or top > shown):
        raise ValueError(f"top must be 1 to {shown}, for the model lists {shown} words, but is {top}.")
    ranks = answers["rank"].values.astype(np.int64)
    return ranks if top is None else np.minimum(ranks, top)


def kept(answers: Answers, first_subword: bool) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which tokens count (words,)."""
    starts = answers["start"].values.astype(bool)
    return starts if first_subword else np.ones_like(starts)


def vocabulary(answers: Answers) -> int:
    """The number of words that the model ranks."""
    return int(answers["vocabulary"].values[0])


def histogram(where: Integers, answers: Answers, bins: int, first_subword: bool) -> Floats:
    """Counts (records, bins) of the bin that each word falls in."""
    offsets, keep = answers["start"].offsets, kept(answers, first_subword)
    record = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    flat = np.bincount((record * bins + where)[keep], minlength=(len(offsets) - 1) * bins)
    return flat.reshape(-1, bins).astype(np.float64)


def frequencies(pools: Sequence[Iterable[Answers]]) -> Integers:
    """How often each token (V,) stands in the texts; those that stand nowhere come last in any ranking."""
    counts = np.zeros(0, dtype=np.int64)
    for chunk in chain.from_iterable(pools):
        if len(counts) == 0:
            counts = np.zeros(vocabulary(chunk), dtype=np.int64)
        counts += np.bincount(chunk["token"].values.astype(np.int64), minlength=len(counts))
    return counts


def unit_norm(counts: Floats) -> Floats:
    """Rows divided by their L2 norm; a row of zeros becomes NaN, which says that there is nothing to go by."""
    return np.asarray(counts / np.linalg.norm(counts, axis=1, keepdims=True), dtype=np.float64)


def _sums(values: Floats, offsets: Integers) -> Floats:
    """Sums over each record; np.add.reduceat would repeat a value for an empty one."""
    return np.asarray(np.diff(np.concatenate([[0.0], np.cumsum(values)])[offsets]), dtype=np.float64)
