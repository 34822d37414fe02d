"""Content keys: short names for what went into a result, so that the cache can never serve a stale one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

WAY_OUT = "free some space, or set --cache to a larger disk, and run again; what is done stays"


def content_key(parts: Iterable[str | bytes]) -> str:
    """A 32-digit hexadecimal digest of a sequence of strings, each set off from the next."""
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def records_key(records: Dataset, columns: Sequence[str]) -> str:
    """The content of some columns of a dataset, in order, however the rows came together."""
    missing = [column for column in columns if column not in records.column_names]
    if missing:
        raise ValueError(f"records need the columns {list(columns)}, but have {records.column_names}.")
    digest = blake2b(digest_size=16)
    for rows in records.select_columns(list(columns)).iter(batch_size=4096):
        for column in columns:
            digest.update(content_key(str(value) for value in rows[column]).encode())
    return digest.hexdigest()


def folder_key(folder: Path) -> str:
    """The content of the files that decide what a saved model answers: weights, configurations, processor."""
    digest = blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".json", ".txt", ".model", ".jinja"} and path.name != "training.json":
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()
