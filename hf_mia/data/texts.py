"""Texts and the users who wrote them, from anything that `datasets.load_dataset` opens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_mia.controls.dates import DATE, days, unit_days
from hf_mia.core import Ask, Booleans, Floats, Game, Model, Pool, Probe
from hf_mia.data import Data, Portrait
from hf_mia.data.sources import ENCODING, check_column
from hf_mia.models.loading import WHOLE, Loading

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_mia.controls.overlap import Overlap

logger = logging.getLogger(__name__)
DOCSTRINGS = "docstrings"


@dataclass(frozen=True, kw_only=True)
class Written(Data):
    """Records of one text or several, each in a column named by the field of its name, and the users who wrote them.

    `user` names the column of users; without one, every `texts_per_user` consecutive records are a pseudo-user.
    `least` leaves out users with fewer records. A column within another goes by both names: "translation.en". `date`
    names a column of dates; where there is one, an attack must beat what the date alone tells.
    """

    unit: ClassVar[str] = "user"
    beside: ClassVar[tuple[str, ...]] = (
        "auditmi",
        "auditmi-relative",
        "reference",
        "mean-rank",
        "mean-log-rank",
        "mean-loss",
    )
    shadows: ClassVar[int] = 10
    user: str | None = "user"
    texts_per_user: int | None = None
    least: int = 1
    date: str | None = None

    def opened(self) -> Dataset:
        """The records as they come, all columns."""
        return self.rows()

    @property
    def names(self) -> dict[str, str]:
        """What the data calls the column of each text."""
        return {column: str(getattr(self, column)) for column in self.columns}

    def load(self) -> Pool:
        return load_texts(self)

    def marked(self, column: str) -> list[str]:
        return marked_users(self, column)

    def takes(self, probe: Probe) -> bool:
        from hf_mia.probes.tokens import Tokens

        return isinstance(probe, Tokens)

    def blind(self, pool: Pool, member: Booleans) -> Floats:
        from hf_mia.controls.blind import blind_scores

        order = np.argsort(pool.unit, kind="stable")
        units = np.split(order, np.cumsum(np.bincount(pool.unit))[:-1])
        texts = ((text for column in self.columns for text in pool.records.select(rows)[column]) for rows in units)
        return blind_scores(texts, member)

    def overlap(self, pool: Pool, member: Booleans) -> Overlap | None:
        from hf_mia.controls.overlap import text_overlap

        return text_overlap(pool, member, self.columns)

    def dates(self, pool: Pool) -> Floats | None:
        return None if self.date is None else unit_days(pool)

    def check(self, target: Pool, attackers: Pool | None, rest: Pool) -> None:
        """Nothing to do: empty records are left out when they are loaded, and two users may write the same text."""

    def portrait(self, target: Game, ask: Ask, probe: Probe) -> Portrait:
        from hf_mia.data.portraits import text_portrait

        return text_portrait(target, ask, probe)


@dataclass(frozen=True, kw_only=True)
class Texts(Written):
    """Where texts come from: a Hub id, a local folder or file, or `docstrings`, the embedded default.

    `users` caps how many users the embedded default reads.
    """

    columns: ClassVar[tuple[str, ...]] = ("text",)
    recipe: ClassVar[str] = "lstm"
    path: str = DOCSTRINGS
    text: str = "text"
    users: int = 200

    def opened(self) -> Dataset:
        if self.path != DOCSTRINGS:
            return super().opened()
        from hf_mia.data.docstrings import docstring_sentences

        return docstring_sentences(self.users)

    def model(
        self, source: str | Path, revision: str | None, records: Dataset | None = None, loading: Loading = WHOLE
    ) -> Model:
        from hf_mia.models.language import language_model

        return language_model(source, revision, loading)

    def takes(self, probe: Probe) -> bool:
        from hf_mia.probes.continuations import Continuations
        from hf_mia.probes.versions import Versions

        return super().takes(probe) or isinstance(probe, Versions | Continuations)


def load_texts(data: Written) -> Pool:
    """All records with their users, sorted by name; those with nothing but whitespace are dropped, and said to be.

    Raises ValueError where a column is unknown, a file is not UTF-8, a record lacks one of its texts, or nothing is
    left.
    """
    given, records = data.names, _opened(data)
    for field, column in {**given, "user": data.user, "date": data.date}.items():
        if column is not None:
            check_column(f"data.{field}", column, records)
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
    columns = records.select_columns(list(given.values()))
    columns = columns.rename_columns({column: field for field, column in given.items() if column != field})
    names, unit = np.unique(users[counts[unit] >= data.least], return_inverse=True)
    kept = columns.select(rows)
    if data.date is not None:
        kept = kept.add_column(DATE, days(_column(data, records.select(rows), data.date), data.date))
    return Pool(kept, unit.astype(np.int64), tuple(str(name) for name in names))


def _opened(data: Written) -> Dataset:
    """The records with every column that the data names, those within others too."""
    records = data.opened()
    wanted = {*data.names.values(), *(name for name in (data.user, data.date) if name is not None)}
    return records.flatten() if any("." in name for name in wanted - set(records.column_names)) else records


def _column(data: Written, records: Dataset, column: str) -> Iterator[object]:
    """The values of a column, a batch in memory; a text that is not UTF-8 may show itself only here."""
    try:
        for rows in records.select_columns([column]).iter(batch_size=4096):
            yield from rows[column]
    except UnicodeDecodeError as error:
        raise ValueError(f"data.path = {data.path!r} could not be read: {error}. {ENCODING}") from error


def _filled(data: Written, records: Dataset) -> Booleans:
    """Which rows (n,) have all of their texts, not whitespace alone, and a user. ValueError where some lack a text."""
    wanted = [*data.names.values(), data.user or data.names[data.columns[0]]]
    rows = zip(*(_column(data, records, name) for name in wanted), strict=True)
    there = np.array([(*(bool(t and str(t).strip()) for t in texts), user is not None) for *texts, user in rows])
    there = there.reshape(-1, len(wanted)).astype(bool)
    texts, owned = there[:, :-1], there[:, -1]
    if len(halves := np.flatnonzero(texts.any(axis=1) & ~texts.all(axis=1) & owned)):
        raise ValueError(
            f"{len(halves)} of {len(there)} records have a {' or a '.join(data.columns)} but not both, such as rows "
            f"{halves[:3].tolist()}: leave these rows out of data.path."
        )
    return np.asarray(texts.all(axis=1) & owned)


def _users(data: Written, records: Dataset, filled: Booleans) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """The user of each text that is not empty."""
    if data.user is not None:
        users = zip(_column(data, records, data.user), filled, strict=True)
        return np.array([str(user) for user, f in users if f])
    if data.texts_per_user is None:
        raise ValueError("data.user is null, so data.texts_per_user must say how many texts make a pseudo-user.")
    number = np.arange(int(filled.sum())) // data.texts_per_user
    return np.array([f"pseudo-user {i:06d}" for i in number])


def marked_users(data: Written, column: str) -> list[str]:
    """The users whose texts all have 1 (or true) in a column; ValueError for other values or users with both."""
    if data.user is None:
        raise ValueError("target.members_column marks users, so data.user must name the column of users.")
    records = _opened(data)
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
