"""The classes of records: a column of names or whole numbers as one `datasets.ClassLabel`, and records that repeat."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.core import Booleans, Integers
from hf_mia.data.sources import check_column

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)


def classes_of(records: Dataset, column: str) -> tuple[Integers, list[str]]:
    """The class of each record (n,), -1 for none, and the classes' names: those of a ClassLabel, else as they sort.

    Whole numbers count from 0 and name themselves; a negative one is no class. ValueError where there is no such
    column, or it holds anything but names, whole numbers or booleans, and where there are fewer than two classes.
    """
    import pyarrow.types as kinds
    from datasets import ClassLabel

    check_column("data.label", column, records)
    feature = records.features[column]
    values = records.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    if isinstance(feature, ClassLabel):
        found, names = _numbers(values), list(feature.names)
    elif kinds.is_integer(values.type) or kinds.is_boolean(values.type):
        found = _numbers(values.cast("int64"))
        names = [str(number) for number in range(int(found.max(initial=-1)) + 1)]
    elif kinds.is_string(values.type) or kinds.is_large_string(values.type):
        names = sorted(set(values.drop_null().to_pylist()))
        place = {name: number for number, name in enumerate(names)}
        found = np.array([place.get(value, -1) for value in values.to_pylist()], dtype=np.int64)
    else:
        raise ValueError(
            f"data.label = {column!r} holds {values.type}, and classes must be names or whole numbers: name another "
            "column."
        )
    if len(np.unique(found[found >= 0])) < 2:
        raise ValueError(f"data.label = {column!r} has fewer than two classes, and a classifier tells classes apart.")
    return found, names


def with_classes(records: Dataset, labels: Integers, names: list[str]) -> Dataset:
    """Records beside a column `label`, a ClassLabel."""
    from datasets import ClassLabel

    return records.add_column("label", labels).cast_column("label", ClassLabel(names=names))


def frequent(labels: Integers, count: int) -> Booleans:
    """Which records (n,) are of the `count` most frequent classes; of equally frequent ones the first."""
    sizes = np.bincount(labels[labels >= 0])
    kept = np.argsort(-sizes, kind="stable")[:count]
    return np.isin(labels, kept)


def once(contents: Iterable[bytes | None], wanted: Booleans, what: str) -> Integers:
    """The rows that are wanted, have `what` a record is, and repeat no earlier one; how many are left out is logged."""
    seen: set[bytes] = set()
    rows, repeated, empty = [], 0, 0
    for row, content in enumerate(contents):
        if not wanted[row]:
            continue
        if content is None:
            empty += 1
        elif content in seen:
            repeated += 1
        else:
            seen.add(content)
            rows.append(row)
    if empty:
        logger.warning("%d of %d rows have no %s, and are left out.", empty, int(wanted.sum()), what)
    if repeated:
        logger.warning("%d of %d %ss repeat an earlier one, and are left out.", repeated, int(wanted.sum()), what)
    return np.array(rows, dtype=np.int64)


def refuse_shared(shared: int, what: str) -> None:
    """Raise ValueError where the attacker has some of the target's records."""
    if shared:
        raise ValueError(
            f"{shared} {what}s of the target's members and non-members are among the attacker's: a shadow must not "
            f"know the answer. Name other data in shadows.data, or leave these {what}s out."
        )


def _numbers(values: pa.Array) -> Integers:
    found = np.array(values.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    return np.maximum(found, -1)
