"""The nouns of membership inference and `audit`, which puts them together. Read this file first.

    Game (model, pool, member) -> Probe -> answers -> Signal -> Evidence -> Attack -> scores -> Report

A target and a shadow are the same type, `Game`. They differ in what the attacker knows of `member`. Everything left of
`Evidence` asks and reads; everything right of it decides, and never sees the target's membership. Throughout, a larger
score means more likely a member, and NaN means unknown.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from hf_mia.report import Report

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Batch = dict[str, "torch.Tensor"]


@dataclass(frozen=True, eq=False)
class Pool:
    """Records, and the unit (example, user, speaker, client) that each belongs to.

    `records` is a `datasets.Dataset` of n rows, `unit` (n,) holds indices into `names`, the units' names.
    """

    records: Dataset
    unit: Integers
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.records) != len(self.unit):
            raise ValueError(f"Pool needs one unit a record, but got {len(self.unit)} for {len(self.records)} records.")
        texts = np.bincount(self.unit, minlength=len(self.names))
        if len(texts) != len(self.names) or (texts == 0).any():
            empty = [name for name, n in zip(self.names, texts, strict=False) if n == 0]
            raise ValueError(f"Pool needs a record for every unit, but {empty[:5]} have none: leave these units out.")


@dataclass(frozen=True)
class Item:
    """One row of a batch before padding: which record of its chunk it comes from, how long it is, and its numbers."""

    record: int
    size: int
    values: Mapping[str, Sequence[int]]


class Collate(ABC):
    """How raw records become the batches that a module takes. The one place that knows text from images from sound."""

    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        """Rows of one chunk of records, in the records' order; a record may give several rows, or none."""

    @abstractmethod
    def pad(self, items: Sequence[Item]) -> Batch:
        """One batch of rows. A boolean tensor `scored` marks where answers count; without it they all do."""


@dataclass(frozen=True, eq=False)
class Model:
    """Anything that answers: `load` gives the module when it is needed, `key` names its weights and processor."""

    name: str
    key: str
    collate: Collate
    load: Callable[[], torch.nn.Module]


@dataclass(frozen=True, eq=False)
class Game:
    """A model and a pool of units of which `member` (units,), 1 or 0, were in its training set.

    The attacker sees `member` only where the game is `known`: everywhere in a shadow, nowhere in a target.
    """

    model: Model
    pool: Pool
    member: Floats
    known: bool = False

    def __post_init__(self) -> None:
        if self.member.shape != (len(self.pool.names),) or not np.isin(self.member, (0.0, 1.0)).all():
            raise ValueError(f"Game needs member = 1 or 0 for each of {len(self.pool.names)} units: {self.member}.")

    def about(self, pool: Pool) -> Game:
        """The same model and other units: whoever trained a model knows that it never saw those of another pool."""
        if pool is self.pool:
            return self
        inside = {name for name, member in zip(self.pool.names, self.member, strict=True) if member}
        return replace(self, pool=pool, member=np.array([float(name in inside) for name in pool.names]))


@dataclass(frozen=True, eq=False)
class Ragged:
    """Records of different lengths in one flat array: record i is `values[offsets[i] : offsets[i + 1]]`."""

    values: npt.NDArray[np.generic]
    offsets: Integers


Answers = Mapping[str, Ragged]  # one chunk of records: the answers' names and, per record, their numbers


class Probe(ABC):
    """How to ask. The only thing that touches a module; frozen, and its `repr` is part of the cache's key."""

    @abstractmethod
    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Compact answers, each (rows, ...), or (rows, length) as the batch's `scored` tells."""


class Signal(ABC):
    """What to read off the answers, in float64, without the secret. `measure` is the one method to write."""

    probe: Probe

    @abstractmethod
    def measure(self, answers: Answers) -> Floats:
        """One row of numbers (records, d) for each record of a chunk."""

    def fold(self, total: Floats, count: Floats) -> Floats:
        """Features (units, f) from the sums (units, d) over a unit's records and their number (units, 1)."""
        return total / count

    def learn(self, answers: Iterable[Answers]) -> Signal:
        """The signal with what it takes from the attacker's own records, such as the words' frequencies."""
        return self

    def read(self, answers: Iterable[Answers], pool: Pool, keep: Booleans | None = None) -> Floats:
        """Features (units, f) of a pool, chunk by chunk in constant memory; `keep` (n,) says which records count."""
        count = np.bincount(pool.unit, weights=keep, minlength=len(pool.names))[:, None]
        total, start = np.zeros((len(pool.names), 0)), 0
        for chunk in answers:
            rows = self.measure(chunk)
            here = slice(start, start := start + len(rows))
            if total.shape[1] == 0:
                total = np.zeros((len(pool.names), rows.shape[1]))
            np.add.at(total, pool.unit[here], rows if keep is None else rows * keep[here, None])
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.fold(total, count)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that an attack sees: features (units, f), member (units,) as 1, 0 or NaN for unknown, the units' names.

    `references` hold what the (other) shadows say of the same units, for attacks that compare.
    """

    features: Floats
    member: Floats
    names: tuple[str, ...]
    references: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        bad = ~np.isfinite(self.features).all(axis=1)
        if bad.any():
            who = [name for name, b in zip(self.names, bad, strict=True) if b]
            raise ValueError(
                f"Evidence must be finite, but {len(who)} units give none ({who[:5]}): they have no word "
                "that the model scores. Leave them out, or give them longer texts."
            )


@dataclass(frozen=True)
class Scorer:
    """A fitted attack: `score` (Evidence -> (units,)), and the threshold for a member chosen on shadows, if any."""

    score: Callable[[Evidence], Floats]
    threshold: float | None = None


class Attack(ABC):
    """How to decide. `fit` is the one method to write; `compares` asks every shadow about every game's units."""

    compares: ClassVar[bool] = False
    signal: Signal

    @abstractmethod
    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        """What is learnt from games whose membership is known."""


Ask = Callable[[Model, Probe, "Dataset"], Iterable[Answers]]


def read(signal: Signal, game: Game, ask: Ask) -> Evidence:
    """What a signal reads off a game's answers, beside as much of its membership as the attacker knows."""
    features = signal.read(ask(game.model, signal.probe, game.pool.records), game.pool)
    return Evidence(features, game.member if game.known else np.full(len(game.member), np.nan), game.pool.names)


@dataclass(frozen=True)
class Chain:
    """Several sequences of answers as one, which may be read many times."""

    parts: Sequence[Iterable[Answers]]

    def __iter__(self) -> Iterator[Answers]:
        return (chunk for part in self.parts for chunk in part)


def gather(attack: Attack, target: Game, shadows: Sequence[Game], ask: Ask) -> tuple[Evidence, list[Evidence]]:
    """Ask every model what the attack needs: the target's evidence, membership unknown, and the shadows', known."""
    pools = {id(shadow.pool): shadow for shadow in shadows}.values()
    answers = [ask(game.model, attack.signal.probe, game.pool.records) for game in pools]
    signal = attack.signal.learn(Chain(answers))
    seen: dict[tuple[int, int], Evidence] = {}

    def about(game: Game, pool: Pool) -> Evidence:
        key = id(game), id(pool)
        if key not in seen:
            seen[key] = read(signal, game.about(pool), ask)
        return seen[key]

    def compared(game: Game) -> Evidence:
        others = [shadow for shadow in shadows if shadow is not game and attack.compares]
        return replace(about(game, game.pool), references=tuple(about(other, game.pool) for other in others))

    return compared(target), [compared(shadow) for shadow in shadows]


def decide(attack: Attack, target: Evidence, shadows: Sequence[Evidence], member: Floats, name: str = "") -> Report:
    """Fit the attack on the shadows, score the target's units, and only then set the scores beside the secret."""
    scorer = attack.fit(shadows)
    return Report(name or repr(attack), scorer.score(target), member == 1, target.names, scorer.threshold)


def audit(attack: Attack, target: Game, shadows: Sequence[Game], ask: Ask, name: str = "") -> Report:
    """Run one attack on a target."""
    return decide(attack, *gather(attack, target, shadows, ask), target.member, name)
