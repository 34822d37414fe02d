"""The classes of records, and how a model's configuration names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from hf_mia.core import Integers

if TYPE_CHECKING:
    from datasets import Dataset


class Labelled(TypedDict):
    """What a configuration says of classes."""

    id2label: dict[int, str]
    label2id: dict[str, int]


def labelled(names: Sequence[str]) -> Labelled:
    """The names of classes as a configuration takes them."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def classes(records: Dataset) -> list[str]:
    """Names of the classes of the column `label`. ValueError where it is no column of two classes or more."""
    from datasets import ClassLabel

    feature = records.features.get("label")
    if not isinstance(feature, ClassLabel) or feature.num_classes < 2:
        raise ValueError(
            f"records need a column `label` of two classes or more, but have {feature}: "
            "`records.cast_column('label', datasets.ClassLabel(names=[...]))` names them."
        )
    return list(feature.names)


def labels_of(records: Dataset) -> Integers:
    """The class of each record (n,). ValueError where there is no record, or one of no class."""
    if len(records) == 0:
        raise ValueError("training needs at least one record, but has none.")
    names, column = classes(records), records.select_columns(["label"]).with_format("arrow")[:]["label"]
    found = np.array(column.fill_null(-1).to_numpy(), dtype=np.int64)
    if len(rows := np.flatnonzero((found < 0) | (found >= len(names)))):
        raise ValueError(
            f"label must be 0 to {len(names) - 1}, for there are {len(names)} classes, but is {found[rows[0]]} in "
            f"{len(rows)} of {len(found)} records: leave out records without a class."
        )
    return found
