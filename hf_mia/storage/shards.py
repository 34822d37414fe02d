"""Answers on disk: shards that are whole or absent, and never served where they are not what was written."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_mia import __version__
from hf_mia.core import Answers, Ragged
from hf_mia.storage.keys import WAY_OUT, content_key

if TYPE_CHECKING:
    import pyarrow as pa

DIGEST, VERSION = b"hf_mia", b"hf_mia.version"  # where a shard's metadata holds its content's digest, and who wrote it


class Named(dict[str, Ragged]):
    """Answers by name; one that is not there is said to be lacking, with those that are."""

    def __missing__(self, name: str) -> Ragged:
        raise ValueError(
            f"the model shows {sorted(self)}, and not {name!r}, which this signal reads: take a signal that reads what "
            "is shown, or ask a model that shows more."
        )


@dataclass(frozen=True)
class Shards:
    """The answers about a sequence of records, one Parquet file a chunk; iterating reads them one at a time."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[Answers]:
        for path in self.paths:
            yield answers_in(opened(path))


def write(table: pa.Table, path: Path, writer: str) -> None:
    """Write under a name of the writer's, flush to the disk, rename: whole or absent. OSError where that fails."""
    import pyarrow.parquet as pq

    temporary = path.with_suffix(f".{writer}.tmp")
    try:
        with temporary.open("wb") as file:
            about = {DIGEST: _digest(table), VERSION: __version__}
            pq.write_table(table.replace_schema_metadata(about), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write answers ({error.strerror}): {WAY_OUT}", str(path.parent)) from error
    finally:
        temporary.unlink(missing_ok=True)


def opened(path: Path) -> pa.Table:
    """A shard's table, mapped and not read."""
    import pyarrow.parquet as pq

    return pq.read_table(path, memory_map=True)


def intact(path: Path) -> bool:
    """Whether a shard is there, holds what was written, and is of this version; if not, a warning names it."""
    import pyarrow as pa

    if not path.exists():
        return False
    try:
        table = opened(path)
        about = table.schema.metadata or {}
        if about.get(DIGEST) != _digest(table):
            fault = "is damaged and is asked again: its content is not what was written"
        elif (version := about.get(VERSION, b"unknown")) != __version__.encode():
            fault = f"is of hf_mia {version.decode(errors='replace')} and is asked again by {__version__}"
        else:
            return True
    except (OSError, UnicodeDecodeError, pa.ArrowException) as problem:
        fault = f"is damaged and is asked again: {problem}"
    warnings.warn(f"shard {path.name} of {path.parent.name} {fault}", stacklevel=2)
    return False


def _digest(table: pa.Table) -> bytes:
    """The content of a table: names, types, values and where each record's begin."""
    parts: list[str | bytes] = []
    for name, ragged in answers_in(table).items():
        parts += [name, str(ragged.values.dtype), ragged.values.tobytes(), ragged.offsets.tobytes()]
    return content_key(parts).encode()


def answers_in(table: pa.Table) -> Answers:
    """A shard's answers by name, one list a record; ArrowInvalid where a column holds no lists."""
    import pyarrow as pa

    found = Named()
    for name in table.column_names:
        column = table[name].combine_chunks()
        if not isinstance(column, pa.ListArray):
            raise pa.ArrowInvalid(f"column {name!r} holds {column.type}, not lists")
        found[name] = Ragged(column.values.to_numpy(), column.offsets.to_numpy().astype(np.int64))
    return found
