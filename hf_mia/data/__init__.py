"""Where records come from, and what only one kind of data knows: how it loads, is asked about blindly, and is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from hf_mia.core import Ask, Booleans, Floats, Game, Integers, Model, Pool, Probe
from hf_mia.data.sources import check_take, load
from hf_mia.models.loading import WHOLE, Loading

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure

    from hf_mia.controls.overlap import Overlap
    from hf_mia.controls.twins import Twins


@dataclass(frozen=True, eq=False)
class Portrait:
    """What a reader should see of a target's answers beside the scores: plain facts, and figures by name."""

    facts: Mapping[str, object] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Data(ABC):
    """A Hub id, a local folder or file, or an embedded default, as `datasets.load_dataset` opens it.

    A kind of data says what a `unit` is called, and, where a config names none, which attacks stand `beside` each
    other, by which `recipe` the target is trained, how many `shadows` there are, and which `controls` are run.
    `useful` is what a report calls the model's utility.

    `take` keeps the first so many records. With `streaming` they are read off a stream, as `load_dataset` opens one,
    once, and written to an Arrow file; of the data's files, those that hold them are fetched, and at most one more. An
    embedded default is not streamed.
    ValueError for `streaming` without a `take`, and for a take below 1.
    """

    columns: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    beside: ClassVar[tuple[str, ...]]
    recipe: ClassVar[str]
    shadows: ClassVar[int] = 1
    controls: ClassVar[tuple[Literal["untrained", "swapped"], ...]] = ()
    useful: ClassVar[str] = "utility"
    path: str
    name: str | None = None
    revision: str | None = None
    split: str = "train"
    take: int | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        check_take(self.take, self.streaming)

    def rows(self) -> Dataset:
        """The records as they come, all columns; ValueError where they cannot be loaded."""
        return load(self.path, self.name, self.revision, self.split, self.take, self.streaming)

    @property
    def record(self) -> str:
        """What a record is called."""
        return self.columns[0]

    @abstractmethod
    def load(self) -> Pool:
        """All records with their units; ValueError for what cannot be read."""

    @abstractmethod
    def marked(self, column: str) -> list[str]:
        """The units that a column of 1 and 0 marks as members; ValueError for other values."""

    @abstractmethod
    def model(
        self, source: str | Path, revision: str | None, records: Dataset | None = None, loading: Loading = WHOLE
    ) -> Model:
        """A model that answers about such records, from a folder or the Hub; a classifier has the records' classes."""

    @abstractmethod
    def takes(self, probe: Probe) -> bool:
        """Whether a probe asks about such records."""

    @abstractmethod
    def blind(self, pool: Pool, member: Booleans) -> Floats:
        """How much each unit looks like a member's by itself, the model never asked: scores (units,)."""

    @abstractmethod
    def portrait(self, target: Game, ask: Ask, probe: Probe) -> Portrait:
        """What to show of a target's answers to a probe, the headline attack's."""

    @abstractmethod
    def check(self, target: Pool, attackers: Pool | None, rest: Pool) -> None:
        """Raise ValueError where a record cannot be used, of the `rest` those that are `judged`, or where the target's
        and the attacker's share some; None where the attacker's are the target's by design."""

    def twins(self, pool: Pool, member: Booleans) -> Twins | None:
        """How many members have an equal or near-equal non-member; None where units hold several records."""
        return None

    def overlap(self, pool: Pool, member: Booleans) -> Overlap | None:
        """How much text the members' and the non-members' records share; None where records are no texts."""
        return None

    def dates(self, pool: Pool) -> Floats | None:
        """The date (units,) of each unit, in days since 1970; None where none is known."""
        return None

    def judged(self, rest: Pool) -> Integers:
        """The rows of the `rest`, units outside of the game, by which `utility` judges a model."""
        return np.empty(0, dtype=np.int64)

    def utility(self, model: Model, rest: Pool, ask: Ask) -> float | None:
        """How good the model is at what it is for; None where unknown."""
        return None
