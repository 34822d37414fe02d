"""Where records come from: anything that `datasets.load_dataset` opens, and what is said where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_mia.data.streams import kept
from hf_mia.storage.keys import content_key

if TYPE_CHECKING:
    from datasets import Dataset

ENCODING = "It is not UTF-8: save it as UTF-8 first."
BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}


def load(
    path: str,
    name: str | None = None,
    revision: str | None = None,
    split: str = "train",
    take: int | None = None,
    streaming: bool = False,
) -> Dataset:
    """The rows of a Hub id, a local folder or a local file, or the first `take` of them, which `streaming` needs.

    ValueError, with the cause, where it cannot be loaded.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    place = Path(path).expanduser()
    kind = BUILDERS.get(place.suffix)
    if place.is_file() and kind is None:
        raise ValueError(f"data.path = {path!r} ends in {place.suffix!r}: files can be {sorted(BUILDERS)}.")
    if kind is not None and not place.exists():
        raise ValueError(
            f"data.path = {path!r} is no file here: give its place, a folder, or a dataset's id on the Hub."
        )
    source = str(kind) if place.is_file() else str(place) if place.is_dir() else path
    files, name, revision = (str(place), None, None) if place.is_file() else (None, name, revision)
    try:
        if streaming and take is not None:
            return _streamed(source, name, files, revision, split, take)
        rows = load_dataset(source, name, data_files=files, split=split, revision=revision)
        return rows if take is None else rows.select(range(min(take, len(rows))))
    except (OSError, RuntimeError, ValueError, DatasetsError) as error:
        cause = error.__cause__ or error
        coded = any(isinstance(e, UnicodeDecodeError) for e in (error, cause)) or "UTF" in str(cause).upper()
        hint = f" {ENCODING}" if coded else ""
        raise ValueError(f"data.path = {path!r} could not be loaded: {str(cause).rstrip('.')}.{hint}") from error


def check_take(take: int | None, streaming: bool) -> None:
    """ValueError for a stream without a bound, and for one that takes nothing."""
    if streaming and take is None:
        raise ValueError(
            "streaming = true reads a stream up to its `take`-th record, for who is a member needs a fixed list, but "
            "take is null: set it to a number of records, such as take = 100000, or set streaming to false."
        )
    if take is not None and take < 1:
        raise ValueError(f"take must be 1 record or more, or null for all, but is {take}.")


def _streamed(source: str, name: str | None, files: str | None, revision: str | None, split: str, take: int) -> Dataset:
    """The first rows of a stream, kept where `datasets` keeps its own, by the same key."""
    from datasets import config, load_dataset_builder

    builder = load_dataset_builder(source, name, data_files=files, revision=revision)
    key = content_key([builder.cache_dir, split, str(take)])  # the Hub's commit, or the files and when they changed
    stream = builder.as_streaming_dataset(split=split)
    return kept(stream, take, Path(config.HF_DATASETS_CACHE) / "hf_mia" / f"{key}.arrow")


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
