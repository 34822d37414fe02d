"""The runs that the page can ask, each with its fitted attacks and its models in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from threading import Lock

import torch

from hf_mia.config import check_name
from hf_mia.core import Model
from hf_mia.progress import Check, on
from hf_mia.queries.askable import obstacles
from hf_mia.queries.opened import Run, opened
from hf_mia.queries.query import Query, query


@dataclass
class Shelf:
    """Runs by the title that a visitor chooses them by; `cache` is where models are that a folder does not keep.

    An attack is fitted and a model is loaded once, when it is asked first, by one visitor at a time.
    """

    cache: Path
    runs: dict[str, Run] = field(default_factory=dict)
    _fitted: dict[tuple[str, str], Query] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def add(self, title: str, folder: Path) -> None:
        """Open a run folder; ValueError where it is none."""
        self.runs[title] = opened(folder)

    def titles(self, column: str) -> list[str]:
        """The runs about records of a kind, `text` or `image`."""
        return [title for title, run in self.runs.items() if run.experiment.data.columns == (column,)]

    def attacks(self, title: str) -> list[str]:
        """The attacks of a run that can be asked."""
        return [name for name, why in obstacles(self._run(title), self.cache).items() if not why]

    def query(self, title: str, attack: str | None, column: str, check: Check = on) -> Query:
        """A run's fitted attack, or its first, that asks by `check` whether to go on.

        ValueError for a run or attack that is not there, or of another kind.
        """
        check_name(title, {name: None for name in self.titles(column)}, f"audit of {column}s")
        with self._lock:
            check()
            name = attack or self.attacks(title)[0]
            if (title, name) not in self._fitted:
                self._fitted[title, name] = _resident(query(self._run(title), name, cache=self.cache))
            return replace(self._fitted[title, name], check=check)

    def _run(self, title: str) -> Run:
        check_name(title, self.runs, "audit")
        return self.runs[title]


def _resident(made: Query) -> Query:
    """The same query, whose models are loaded once and stay in memory."""
    return replace(made, target=_loaded(made.target), references=tuple(map(_loaded, made.references)))


def _loaded(model: Model) -> Model:
    module = model.load().eval()
    load: Callable[[], torch.nn.Module] = cache(lambda: module)
    return replace(model, load=load)
