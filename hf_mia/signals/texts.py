"""Signals side by side, and which of a user's texts to read: wrappers around any signal."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import pairwise

import numpy as np

from hf_mia.core import Answers, Booleans, Floats, Integers, Pool, Probe, Signal
from hf_mia.signals.language import frequencies
from hf_mia.units import places


@dataclass(frozen=True)
class Beside(Signal):
    """The features of several signals side by side, all read off one probe's answers."""

    signals: tuple[Signal, ...]

    def __post_init__(self) -> None:
        if len({repr(signal.probe) for signal in self.signals}) != 1:
            raise ValueError(f"signals must share one probe, but have {[signal.probe for signal in self.signals]}.")

    @property
    def probe(self) -> Probe:  # type: ignore[override]
        return self.signals[0].probe

    def measure(self, answers: Answers) -> Floats:
        return np.hstack([signal.measure(answers) for signal in self.signals])

    def learn(self, pools: Sequence[Iterable[Answers]]) -> Beside:
        return Beside(tuple(signal.learn(pools) for signal in self.signals))

    def read(self, answers: Iterable[Answers], pool: Pool, keep: Booleans | None = None) -> Floats:
        return np.hstack([signal.read(answers, pool, keep) for signal in self.signals])


@dataclass(frozen=True)
class FewTexts(Signal):
    """A signal read from only `texts` texts of each user, those of highest `priority`; users with fewer give all."""

    signal: Signal
    texts: int

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise ValueError(f"texts must be at least 1 a user, but is {self.texts}.")

    @property
    def probe(self) -> Probe:  # type: ignore[override]
        return self.signal.probe

    @abstractmethod
    def priority(self, answers: Answers) -> Floats:
        """A number for each text (records,); the highest are read."""

    def measure(self, answers: Answers) -> Floats:
        return self.signal.measure(answers)

    def learn(self, pools: Sequence[Iterable[Answers]]) -> Signal:
        return replace(self, signal=self.signal.learn(pools))

    def read(self, answers: Iterable[Answers], pool: Pool, keep: Booleans | None = None) -> Floats:
        priority = np.concatenate([self.priority(chunk) for chunk in answers])
        if keep is not None:
            priority[~keep] = -np.inf  # the few are chosen among those that count
        chosen = places(pool.unit, -priority) < self.texts
        return self.signal.read(answers, pool, chosen if keep is None else chosen & keep)


@dataclass(frozen=True)
class RandomTexts(FewTexts):
    """A signal read from `texts` random texts of each user; the draw hangs on the texts' words and the seed alone."""

    seed: int = 0

    def priority(self, answers: Answers) -> Floats:
        tokens, offsets = answers["token"].values.astype(np.int64), answers["token"].offsets
        pieces = (tokens[a:b].tobytes() for a, b in pairwise(offsets))
        key = str(self.seed).encode()  # a CRC's seeds only flip bits: some of a user's texts would win over and over
        draws = (blake2b(piece, digest_size=6, key=key).digest() for piece in pieces)
        return np.array([int.from_bytes(draw, "big") for draw in draws], dtype=np.float64)


@dataclass(frozen=True)
class RarestTexts(FewTexts):
    """A signal read from the `texts` texts of each user whose words are rarest in the attacker's own texts.

    A text's rarity is the mean over its words of -log((1 + count) / (1 + all)), with counts from the shadows' texts.
    """

    rarity: Floats | None = field(default=None, repr=False, compare=False)

    def learn(self, pools: Sequence[Iterable[Answers]]) -> Signal:
        counts: Integers = frequencies(pools)
        return replace(self, signal=self.signal.learn(pools), rarity=-np.log((1 + counts) / (1 + counts.sum())))

    def priority(self, answers: Answers) -> Floats:
        if self.rarity is None or len(self.rarity) == 0:
            raise ValueError(
                "RarestTexts counts words in the shadows' texts, and there are no shadows: set "
                "shadows.count to 1 or more, or take RandomTexts."
            )
        tokens, offsets = answers["token"].values.astype(np.int64), answers["token"].offsets
        sizes = np.diff(offsets)  # text by text: differences of a running sum would decide ties by their rounding
        sums = np.bincount(np.repeat(np.arange(len(sizes)), sizes), self.rarity[tokens], len(sizes))
        return np.asarray(sums / np.maximum(sizes, 1), dtype=np.float64)
