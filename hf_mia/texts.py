"""Texts and the users who wrote them, from anything that `datasets.load_dataset` opens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_mia.core import Ask, Booleans, Floats, Game, Model, Pool, Probe
from hf_mia.data import Data, Portrait
from hf_mia.sources import ENCODING, check_column, load

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
DOCSTRINGS = "docstrings"


@dataclass(frozen=True, kw_only=True)
class Texts(Data):
    """Where texts come from: a Hub id, a local folder or file, or `docstrings`, the embedded default.

    `user` names the column of users; without one, every `texts_per_user` consecutive texts are a pseudo-user.
    `least` leaves out users with fewer texts. `users` caps how many users the embedded default reads.
    """

    columns: ClassVar[tuple[str, ...]] = ("text",)
    unit: ClassVar[str] = "user"
    beside: ClassVar[tuple[str, ...]] = (
        "auditmi",
        "auditmi-relative",
        "reference",
        "mean-rank",
        "mean-log-rank",
        "mean-loss",
    )
    recipe: ClassVar[str] = "lstm"
    shadows: ClassVar[int] = 10
    path: str = DOCSTRINGS
    text: str = "text"
    user: str | None = "user"
    texts_per_user: int | None = None
    least: int = 1
    users: int = 200

    def load(self) -> Pool:
        return load_texts(self)

    def marked(self, column: str) -> list[str]:
        return marked_users(self, column)

    def model(self, source: str | Path, revision: str | None, records: Dataset | None = None) -> Model:
        from hf_mia.models import language_model

        return language_model(source, revision)

    def takes(self, probe: Probe) -> bool:
        from hf_mia.continuations import Continuations
        from hf_mia.probes import Tokens
        from hf_mia.versions import Versions

        return isinstance(probe, Tokens | Versions | Continuations)

    def blind(self, pool: Pool, member: Booleans) -> Floats:
        from hf_mia.controls import blind_scores

        order = np.argsort(pool.unit, kind="stable")
        units = np.split(order, np.cumsum(np.bincount(pool.unit))[:-1])
        return blind_scores((pool.records.select(rows)["text"] for rows in units), member)

    def check(self, target: Pool, attackers: Pool | None, rest: Pool) -> None:
        """Nothing to do: empty texts are left out when they are loaded, and two users may write the same text."""

    def portrait(self, target: Game, ask: Ask, probe: Probe) -> Portrait:
        from hf_mia.portraits import text_portrait

        return text_portrait(target, ask, probe)


def load_texts(data: Texts) -> Pool:
    """All texts with their users, sorted by name; empty and whitespace texts are dropped, and said to be.

    Raises ValueError where a column is unknown, a file is not UTF-8, or nothing is left.
    """
    records = _load(data)
    check_column("data.text", data.text, records)
    if data.user is not None:
        check_column("data.user", data.user, records)
    filled = _filled(data, records)
    if not filled.all():
        logger.warning("%d of %d texts are empty or have no user, and are left out.", (~filled).sum(), len(filled))
    users = _users(data, records, filled)
    names, unit, counts = np.unique(users, return_inverse=True, return_counts=True)
    if (counts < data.least).any():
        logger.warning(
            "%d of %d users have fewer than data.least = %d texts and are left out.",
            (counts < data.least).sum(),
            len(names),
            data.least,
        )
    rows = np.flatnonzero(filled)[counts[unit] >= data.least]
    if len(rows) == 0:
        raise ValueError(f"data.path = {data.path!r} has no user with {data.least} texts that are not empty.")
    columns = records.select_columns([data.text])
    columns = columns if data.text == "text" else columns.rename_column(data.text, "text")
    names, unit = np.unique(users[counts[unit] >= data.least], return_inverse=True)
    return Pool(columns.select(rows), unit.astype(np.int64), tuple(str(name) for name in names))


def _load(data: Texts) -> Dataset:
    if data.path == DOCSTRINGS:
        from hf_mia.docstrings import docstring_sentences

        return docstring_sentences(data.users)
    return load(data.path, data.name, data.revision, data.split)


def _column(data: Texts, records: Dataset, column: str) -> Iterator[object]:
    """The values of a column, a batch in memory; a text that is not UTF-8 may show itself only here."""
    try:
        for rows in records.select_columns([column]).iter(batch_size=4096):
            yield from rows[column]
    except UnicodeDecodeError as error:
        raise ValueError(f"data.path = {data.path!r} could not be read: {error}. {ENCODING}") from error


def _filled(data: Texts, records: Dataset) -> Booleans:
    """Which rows (n,) have a text that is not whitespace, and a user."""
    pairs = zip(*(_column(data, records, name) for name in (data.text, data.user or data.text)), strict=True)
    return np.array([bool(text and str(text).strip()) and user is not None for text, user in pairs], dtype=bool)


def _users(data: Texts, records: Dataset, filled: Booleans) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """The user of each text that is not empty."""
    if data.user is not None:
        users = zip(_column(data, records, data.user), filled, strict=True)
        return np.array([str(user) for user, f in users if f])
    if data.texts_per_user is None:
        raise ValueError("data.user is null, so data.texts_per_user must say how many texts make a pseudo-user.")
    number = np.arange(int(filled.sum())) // data.texts_per_user
    return np.array([f"pseudo-user {i:06d}" for i in number])


def marked_users(data: Texts, column: str) -> list[str]:
    """The users whose texts all have 1 (or true) in a column; ValueError for other values or users with both."""
    if data.user is None:
        raise ValueError("target.members_column marks users, so data.user must name the column of users.")
    records = _load(data)
    check_column("target.members_column", column, records)
    marks, users = (list(_column(data, records, name)) for name in (column, data.user))
    if strange := {repr(mark) for mark in marks if mark is None or mark not in (0, 1)}:
        raise ValueError(
            f"target.members_column = {column!r} must be 1 or 0 in every row, but holds {sorted(strange)[:3]}."
        )
    inside, outside = ({str(user) for user, mark in zip(users, marks, strict=True) if mark == m} for m in (1, 0))
    if inside & outside:
        raise ValueError(
            f"target.members_column = {column!r} marks some texts of a user 1 and others 0, such as "
            f"{sorted(inside & outside)[:3]}: a user is in or out as a whole."
        )
    return sorted(inside)
