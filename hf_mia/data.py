"""Where records come from, and what only one kind of data knows: how it loads, is asked about blindly, and is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from hf_mia.core import Ask, Booleans, Floats, Game, Model, Pool, Probe

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Portrait:
    """What a reader should see of a target's answers beside the scores: plain facts, and figures by name."""

    facts: Mapping[str, object] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Data(ABC):
    """A Hub id, a local folder or file, or an embedded default, as `datasets.load_dataset` opens it.

    A kind of data says what a `unit` is called, what `access` an audit takes, and, where a config names none, which
    attacks stand `beside` each other, by which `recipe` the target is trained, how many
    `shadows` there are, and which `controls` are run.
    """

    columns: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    access: ClassVar[str]
    beside: ClassVar[tuple[str, ...]]
    recipe: ClassVar[str]
    shadows: ClassVar[int] = 1
    controls: ClassVar[tuple[Literal["untrained", "swapped"], ...]] = ()
    path: str
    name: str | None = None
    revision: str | None = None
    split: str = "train"

    @abstractmethod
    def load(self) -> Pool:
        """All records with their units; ValueError for what cannot be read."""

    @abstractmethod
    def marked(self, column: str) -> list[str]:
        """The units that a column of 1 and 0 marks as members; ValueError for other values."""

    @abstractmethod
    def model(self, source: str | Path, revision: str | None) -> Model:
        """A model that answers about such records, from a folder or the Hub."""

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
    def check(self, target: Pool, attackers: Pool, rest: Pool) -> None:
        """Raise ValueError where a record cannot be used, of the `rest` those that `utility` takes, or where the two
        sides share some."""

    def utility(self, model: Model, pool: Pool, ask: Ask) -> float | None:
        """How good the model is at what it is for, judged on units outside of the game; None where unknown."""
        return None
