"""What to read off generated text: how much of a text's true rest is in what is written after its beginning.

All larger = more likely a member. Only generated text is needed, which any service gives.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.core import Answers, Floats, Ragged, Signal
from hf_mia.probes.continuations import Continuations
from hf_mia.signals.language import RankHistogram, WordMean

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF


@dataclass(frozen=True)
class Likeness(Signal):
    """How alike continuations and a text's true rest are, 0 to 1: the mean over samples, then over a unit's texts.

    Texts too short to be cut do not count.
    """

    probe: Continuations = Continuations()  # type: ignore[assignment]

    @abstractmethod
    def alike(self, written: str, rest: str) -> float:
        """How alike a continuation is to the true rest, which is not empty."""

    def measure(self, answers: Answers) -> Floats:
        rows = []
        for rest, written in told(answers):
            likenesses = [self.alike(one, rest) for one in written] if rest else [0.0]
            rows.append((float(np.mean(likenesses)), float(bool(rest))))
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def fold(self, total: Floats, count: Floats) -> Floats:
        return total[:, :1] / total[:, 1:]


@dataclass(frozen=True)
class Chrf(Likeness):
    """chrF, the F-score of common character 6-grams, by sacrebleu (Popović 2015); what is too long is cut."""

    def alike(self, written: str, rest: str) -> float:
        return float(_chrf().sentence_score(written[: len(rest)], [rest]).score) / 100


@dataclass(frozen=True)
class Bleu(Likeness):
    """Sentence BLEU with effective order, by sacrebleu; words beyond the rest's number are cut."""

    def alike(self, written: str, rest: str) -> float:
        cut = " ".join(written.split()[: len(rest.split())])
        return float(_bleu().sentence_score(cut, [rest]).score) / 100


@dataclass(frozen=True)
class RougeL(Likeness):
    """ROUGE-L's F1 (Lin 2004): the longest common subsequence of words; words beyond the rest's number are cut."""

    def alike(self, written: str, rest: str) -> float:
        from rapidfuzz.distance import LCSseq

        true = rest.split()
        given = written.split()[: len(true)]
        return 2 * LCSseq.similarity(given, true) / (len(given) + len(true))


@dataclass(frozen=True)
class Rouge1Recall(Likeness):
    """The share of the rest's words that are in a continuation, each as often as there: SaMIA with n = 1.

    Kaneko et al. 2024 (arXiv 2404.11262), there after half of a text too; the number of samples is a field here.
    """

    probe: Continuations = Continuations(samples=10, temperature=1.0)

    def alike(self, written: str, rest: str) -> float:
        true = Counter(rest.split())
        return (true & Counter(written.split())).total() / true.total()


@dataclass(frozen=True)
class ExactMatch(Likeness):
    """1 where a continuation begins with the true rest to the letter, spaces apart, else 0."""

    def alike(self, written: str, rest: str) -> float:
        true = rest.split()
        return float(written.split()[: len(true)] == true)


@dataclass(frozen=True)
class EditSimilarity(Likeness):
    """1 - Levenshtein distance / length of the longer, in characters, by rapidfuzz; what is too long is cut."""

    def alike(self, written: str, rest: str) -> float:
        from rapidfuzz.distance import Levenshtein

        return float(Levenshtein.normalized_similarity(written[: len(rest)], rest))


@dataclass(frozen=True)
class Sampled(Signal):
    """A signal of ranks where only text is shown: AuditMI's ranking of words, by position, from repeated samples.

    At each position of a text's rest, the rank of the true word is the number of words that more samples have there; a
    word that no sample has there is not in the list, and has the rank `samples`. Continuations run freely: unlike
    AuditMI's, positions after the first do not have the true words before them. The signal's `top` must say that the
    list is cut, and may be at most `samples`.
    """

    signal: WordMean | RankHistogram = RankHistogram(top=8)
    probe: Continuations = Continuations(samples=8, temperature=1.0)  # type: ignore[assignment]

    def measure(self, answers: Answers) -> Floats:
        ranks = [ranked(rest, written) for rest, written in told(answers)]
        offsets = np.cumsum([0, *map(len, ranks)]).astype(np.int64)
        values = np.concatenate([np.zeros(0, dtype=np.int64), *ranks])
        every = np.arange(len(offsets), dtype=np.int64)
        shown = Ragged(np.full(len(ranks), self.probe.samples, dtype=np.int64), every)
        starts = Ragged(np.ones_like(values), offsets)
        return self.signal.measure({"rank": Ragged(values, offsets), "start": starts, "shown": shown})

    def fold(self, total: Floats, count: Floats) -> Floats:
        return self.signal.fold(total, count)


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


@cache
def _bleu() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)


def ranked(rest: str, written: list[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The rank of each word of a text's rest (words,) among those that the samples have at its place."""
    samples = [text.split() for text in written]
    ranks = []
    for place, word in enumerate(rest.split()):
        counts = Counter(words[place] for words in samples if place < len(words))
        ranks.append(sum(n > counts[word] for n in counts.values()) if counts[word] else len(samples))
    return np.array(ranks, dtype=np.int64)


def told(answers: Answers) -> Iterator[tuple[str, list[str]]]:
    """Each text's true rest, and what was written in its place, without spaces around it."""
    codes, offsets = answers["texts"].values, answers["texts"].offsets
    for start, stop in pairwise(offsets):
        ends = np.flatnonzero(codes[start:stop] == -1)[:-1] + 1
        pieces = np.split(codes[start:stop], ends)
        texts = [piece[:-1].astype(np.uint8).tobytes().decode("utf-8", "replace").strip() for piece in pieces]
        yield texts[0], texts[1:]
