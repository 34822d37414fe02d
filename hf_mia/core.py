"""The nouns of membership inference and `audit`, which puts them together. Read this file first.

    Game (model, pool, member) -> Probe -> answers -> Signal -> Evidence -> Attack -> scores -> Report

A target and a shadow are both a `Game`; they differ in what is known of `member`. What stands left of `Evidence` asks
and reads; what stands right of it decides, and never sees the secret. Larger = more likely a member; NaN = unknown.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from hf_mia.collate import Batch, Collate
from hf_mia.reports.report import Report

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pool:
    """Records (n rows) and the unit (example, user, client) of each: `unit` (n,) indexes `names`; units' `group`."""

    records: Dataset
    unit: Integers
    names: tuple[str, ...]
    group: Integers | None = None

    def __post_init__(self) -> None:
        if self.unit.shape != (len(self.records),) or not np.isin(self.unit, np.arange(len(self.names))).all():
            raise ValueError(f"Pool needs an index into names for each of {len(self.records)} records: {self.unit}.")
        if empty := [self.names[i] for i in np.flatnonzero(np.bincount(self.unit, minlength=len(self.names)) == 0)]:
            raise ValueError(f"Pool needs a record for every unit, but {empty[:5]} have none: leave these units out.")


@dataclass(frozen=True, eq=False)
class Model:
    """Anything that answers: `load` gives the module when it is needed, `key` names its weights and processor."""

    name: str
    key: str
    collate: Collate
    load: Callable[[], torch.nn.Module]


@dataclass(frozen=True, eq=False)
class Game:
    """A model and a pool: units whose `member` (units,) is 1, not 0, were trained on; in a shadow that is `known`."""

    model: Model
    pool: Pool
    member: Floats
    known: bool = False

    def __post_init__(self) -> None:
        if self.member.shape != (len(self.pool.names),) or not np.isin(self.member, (0.0, 1.0)).all():
            raise ValueError(f"Game needs member = 1 or 0 for each of {len(self.pool.names)} units: {self.member}.")

    def about(self, pool: Pool) -> Game:
        """The same model and other units: whoever trained a model knows that it never saw those of another pool."""
        inside = {name for name, member in zip(self.pool.names, self.member, strict=True) if member}
        return replace(self, pool=pool, member=np.array([float(name in inside) for name in pool.names]))


@dataclass(frozen=True, eq=False)
class Ragged:
    """Records of different lengths in one flat array: record i is `values[offsets[i] : offsets[i + 1]]`."""

    values: npt.NDArray[np.generic]
    offsets: Integers


Answers = Mapping[str, Ragged]  # one chunk of records: the answers' names and, per record, their numbers
Ask = Callable[["Model", "Probe", "Dataset"], Iterable[Answers]]


class Probe(ABC):
    """How to ask, and what that `shows` an attacker. The only thing that touches a module; its `repr` is a key."""

    shows: ClassVar[str]

    def through(self, collate: Collate) -> Collate:
        return collate  # what makes this probe's batches: the model's own, or a wrapper that adds rows to ask about

    @abstractmethod
    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Compact answers, each (rows, ...), or (rows, length) as `scored` tells, the batch's or the answers' own."""


class Signal(ABC):
    """What to read off the answers, in float64, without the secret. `measure` is the one method to write."""

    @property
    @abstractmethod
    def probe(self) -> Probe: ...
    @abstractmethod
    def measure(self, answers: Answers) -> Floats:
        """One row of numbers (records, d) for each record of a chunk."""

    def fold(self, total: Floats, count: Floats) -> Floats:
        """Features (units, f) from the sums (units, d) over a unit's records and their number (units, 1)."""
        return total / count

    def learn(self, pools: Sequence[Iterable[Answers]]) -> Signal:
        """The signal with what it takes from the attacker's own pools, such as the words' frequencies."""
        return self

    def read(self, answers: Iterable[Answers], pool: Pool, keep: Booleans | None = None) -> Floats:
        """Features (units, f) of a pool, chunk by chunk in constant memory; `keep` (n,) says which records count."""
        from scipy.sparse import csr_array  # a unit's sum is a sparse product: 5 times faster than np.add.at

        count = np.bincount(pool.unit, weights=keep, minlength=len(pool.names)).astype(np.float64)[:, None]
        total, start = np.zeros((len(pool.names), 0)), 0
        for rows in map(self.measure, answers):
            here, start = slice(start, start + len(rows)), start + len(rows)
            weight = np.ones(len(rows)) if keep is None else keep[here].astype(np.float64)
            units, place = np.unique(pool.unit[here], return_inverse=True)
            total = total if total.size else np.zeros((len(total), rows.shape[1]))
            total[units] += csr_array((weight, place, np.arange(len(rows) + 1)), (len(rows), len(units))).T @ rows
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.fold(total, count)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that an attack sees: features (units, f), member (units,): 1, 0 or NaN; `references`: what others say."""

    features: Floats
    member: Floats
    names: tuple[str, ...]
    references: tuple[Evidence, ...] = ()
    group: Integers | None = None

    def __post_init__(self) -> None:
        if silent := [self.names[i] for i in np.flatnonzero(~np.isfinite(self.features).all(axis=1))]:
            raise ValueError(f"the model scores nothing of {len(silent)} units, such as {silent[:5]}: leave them out.")


@dataclass(frozen=True)
class Scorer:
    """A fitted attack: `score` (Evidence -> (units,)), and the threshold for a member chosen on shadows, if any."""

    score: Callable[[Evidence], Floats]
    threshold: float | None = None


class Attack(ABC):
    """How to decide: write `fit`. Takes `least` shadows; if it `compares`, each is asked about every game's units."""

    least: ClassVar[int] = 0
    compares: ClassVar[bool] = False
    signal: Signal

    @abstractmethod
    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        """What is learnt from games whose membership is known."""


def read(signal: Signal, game: Game, ask: Ask) -> Evidence:
    """What a signal reads off a game's answers, beside as much of its membership as the attacker knows."""
    features = signal.read(ask(game.model, signal.probe, game.pool.records), game.pool)
    return Evidence(features, np.where(game.known, game.member, np.nan), game.pool.names, group=game.pool.group)


def gather(attack: Attack, target: Game, shadows: Sequence[Game], ask: Ask) -> tuple[Evidence, list[Evidence]]:
    """Ask every model what the attack needs: the target's evidence, membership unknown, and the shadows', known."""
    pools = {id(shadow.pool): shadow for shadow in shadows}.values()
    signal = attack.signal.learn([ask(game.model, attack.signal.probe, game.pool.records) for game in pools])
    about = cache(lambda game, pool: read(signal, game.about(pool), ask))

    def compared(game: Game) -> Evidence:
        others = (shadow for shadow in shadows if shadow is not game and attack.compares)
        return replace(about(game, game.pool), references=tuple(about(other, game.pool) for other in others))

    return compared(target), [compared(shadow) for shadow in shadows]


def decide(attack: Attack, target: Evidence, shadows: Sequence[Evidence], member: Floats, name: str = "") -> Report:
    """Fit the attack on the shadows, score the target's units, and only then set the scores beside the secret."""
    scorer = attack.fit(shadows)
    return Report(name or repr(attack), scorer.score(target), member == 1, target.names, scorer.threshold)


def audit(attack: Attack, target: Game, shadows: Sequence[Game], ask: Ask, name: str = "") -> Report:
    """Run one attack on a target."""
    return decide(attack, *gather(attack, target, shadows, ask), target.member, name)
