"""Where records come from: anything that `datasets.load_dataset` opens, and what is said where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

ENCODING = "It is not UTF-8: save it as UTF-8 first."
BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}


def load(path: str, name: str | None = None, revision: str | None = None, split: str = "train") -> Dataset:
    """The rows of a Hub id, a local folder or a local file. ValueError, with the cause, where it cannot be loaded."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    place = Path(path).expanduser()
    kind = BUILDERS.get(place.suffix)
    if place.is_file() and kind is None:
        raise ValueError(f"data.path = {path!r} ends in {place.suffix!r}: files can be {sorted(BUILDERS)}.")
    try:
        if place.is_file():
            return load_dataset(kind, data_files=str(place), split=split)
        return load_dataset(str(place) if place.is_dir() else path, name, split=split, revision=revision)
    except (OSError, RuntimeError, ValueError, DatasetsError) as error:
        cause = error.__cause__ or error
        coded = any(isinstance(e, UnicodeDecodeError) for e in (error, cause)) or "UTF" in str(cause).upper()
        hint = f" {ENCODING}" if coded else ""
        raise ValueError(f"data.path = {path!r} could not be loaded: {str(cause).rstrip('.')}.{hint}") from error


def check_column(field: str, column: str, records: Dataset) -> None:
    """ValueError where a column, named by a field of the configuration, is none of the records'."""
    if column not in records.column_names:
        raise ValueError(f"{field} = {column!r} is no column of the data: it has {records.column_names}.")


def marked_rows(records: Dataset, column: str) -> list[str]:
    """Names of the rows with 1 (or true) in a column; ValueError for other values."""
    check_column("target.members_column", column, records)
    marks = records.select_columns([column])[:][column]
    if strange := {repr(mark) for mark in marks if mark is None or mark not in (0, 1)}:
        raise ValueError(
            f"target.members_column = {column!r} must be 1 or 0 in every row, but holds {sorted(strange)[:3]}."
        )
    return [f"{row:06d}" for row, mark in enumerate(marks) if mark]
