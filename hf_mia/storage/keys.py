"""Content keys: short names for what went into a result, so that the cache can never serve a stale one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

IMAGES = 32  # encoded images, or sounds, in memory at once
WAY_OUT = "free some space, or set --cache to a larger disk, and run again; what is done stays"


def cache_folder(given: Path | None = None) -> Path:
    """Where models and answers are kept: the folder given, or `hf_mia` in the Hugging Face home."""
    from huggingface_hub.constants import HF_HOME

    return given or Path(HF_HOME) / "hf_mia"


def content_key(parts: Iterable[str | bytes]) -> str:
    """A 32-digit hexadecimal digest of a sequence of strings, each set off from the next."""
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def records_key(records: Dataset, columns: Sequence[str]) -> str:
    """The content of some columns of a dataset, in order, however the rows came together; labels with their names."""
    from datasets import ClassLabel

    missing = [column for column in columns if column not in records.column_names]
    if missing:
        raise ValueError(f"records need the columns {list(columns)}, but have {records.column_names}.")
    digest = blake2b(digest_size=16)
    for column in columns:
        if isinstance(feature := records.features[column], ClassLabel):  # numbers of other classes are other labels
            digest.update(content_key(feature.names).encode())
    for start in range(0, len(records), 4096):
        for column in columns:
            digest.update(content_key(_parts(records, column, start, min(start + 4096, len(records)))).encode())
    return digest.hexdigest()


def encoded_content(value: Mapping[str, object]) -> bytes:
    """The bytes of an encoded image or sound, {"bytes", "path"} as `datasets` gives it undecoded, or its file's."""
    content, path = value.get("bytes"), value.get("path")
    if isinstance(content, bytes):
        return content
    if path is None:
        raise ValueError("it has neither bytes nor a path")
    return Path(str(path)).read_bytes()


def _parts(records: Dataset, column: str, start: int, stop: int) -> Iterator[str | bytes]:
    """A column's values in some rows: texts as they are, images and sounds as the bytes that encode them, a few."""
    from datasets import Audio, Image

    feature = records.features[column]
    if isinstance(feature, (Audio, Image)) and feature.decode:
        records = records.cast_column(column, type(feature)(decode=False))
    encoded = isinstance(feature, (Audio, Image)) or (isinstance(feature, dict) and "bytes" in feature)
    step = IMAGES if encoded else stop - start
    for first in range(start, stop, step):
        for value in records.select_columns([column])[first : min(first + step, stop)][column]:
            yield encoded_content(value) if isinstance(value, Mapping) and "bytes" in value else str(value)


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
