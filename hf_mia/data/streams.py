"""Streams as records: the first so many of them, written to an Arrow file once and mapped from there.

Membership needs an index, and a stream has none; what was taken has one, and is as fixed as any other data.
"""

from __future__ import annotations

import logging
import os
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)
BATCH = 256  # records in memory at once


def taken(stream: IterableDataset, take: int, folder: Path) -> Dataset:
    """The first `take` records of a stream, or all where it ends before, as records of a `Pool`.

    They are written to an Arrow file in the folder, named by a digest of its content, and mapped: images and sounds as
    the bytes that encode them. ValueError for a `take` below 1, a stream without records, and one whose columns change
    on the way.
    """
    from datasets import Dataset

    temporary = folder / f"{uuid4().hex}.tmp"
    try:
        _write(stream, take, temporary)
        with temporary.open("rb") as file:
            digest = blake2b(digest_size=16)
            while block := file.read(1 << 22):
                digest.update(block)
        path = folder / f"{digest.hexdigest()}.arrow"
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Dataset.from_file(str(path))


def kept(stream: IterableDataset, take: int, path: Path) -> Dataset:
    """As `taken`, in a file that the caller names after the stream's origin: if it is there, nothing is read."""
    from datasets import Dataset

    if not path.exists():
        temporary = path.with_suffix(f".{uuid4().hex}.tmp")
        try:
            _write(stream, take, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return Dataset.from_file(str(path))


def _write(stream: IterableDataset, take: int, path: Path) -> None:
    """The first records as an Arrow file, a few in memory at once."""
    import pyarrow as pa
    from datasets import Features
    from datasets.table import embed_table_storage, table_cast

    if take < 1:
        raise ValueError(f"take must be 1 record of the stream or more, but is {take}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    tables = iter(stream.take(take).with_format("arrow").iter(batch_size=BATCH))
    first = next(tables, None)
    if first is None:
        raise ValueError("the stream has no records: name another split, or other data.")
    schema = (stream.features or Features.from_arrow_schema(first.schema)).arrow_schema
    rows = 0
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for table in chain([first], tables):
            try:
                whole = embed_table_storage(table_cast(table, schema))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"the stream's records from {rows:,} on do not fit its first ones: {error}. Give the stream its "
                    "features, by `stream.cast(features)`, or leave these records out."
                ) from error
            writer.write_table(whole)
            rows += len(whole)
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    if rows < take:
        logger.warning("the stream ended after %d of %d records.", rows, take)
