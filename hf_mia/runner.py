"""Asking models about records: the only place with accelerate, device, processes and the cache of answers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.collate import Item
from hf_mia.core import Answers, Model, Probe, Ragged
from hf_mia.keys import content_key, records_key
from hf_mia.progress import bar

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from datasets import Dataset


@dataclass(frozen=True)
class Shards:
    """The answers about a sequence of records, one Parquet file a chunk; iterating reads them one at a time."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[Answers]:
        for path in self.paths:
            yield _answers(_open(path))


@dataclass(frozen=True, eq=False)
class Runner:
    """Asks a model about records, chunk by chunk, and keeps every answer on disk under its content key.

    `chunk` records are the unit of work: one process computes a chunk whole, in batches of about `tokens` padded
    positions sorted by length, so the answers do not depend on the number of processes, and a run that was killed
    goes on with the chunks that are missing or damaged. Calling the runner is `hf_mia.core.Ask`.
    """

    cache: Path
    chunk: int = 1024
    tokens: int = 4096
    checked: dict[str, Shards] = field(default_factory=dict, repr=False)

    def __call__(self, model: Model, probe: Probe, records: Dataset) -> Shards:
        content = records_key(records, model.collate.columns)
        key = content_key([model.key, type(model.collate).__name__, content, repr(probe), str(self.chunk)])
        if key not in self.checked:
            folder = self.cache / "answers" / key
            folder.mkdir(parents=True, exist_ok=True)
            count = -(-len(records) // self.chunk)
            shards = Shards(tuple(folder / f"{i:06d}.parquet" for i in range(count)))
            self._fill(model, probe, records, shards)
            self.checked[key] = shards
        return self.checked[key]

    def _fill(self, model: Model, probe: Probe, records: Dataset, shards: Shards) -> None:
        from accelerate import PartialState

        state = PartialState()
        missing = [i for i, path in enumerate(shards.paths) if not _intact(path)]
        state.wait_for_everyone()  # all have seen the same files before any appears
        own = missing[state.process_index :: state.num_processes]
        if own:
            module = model.load().to(state.device).eval()
            with bar(f"asking {model.name}", position=state.process_index) as progress:
                for done, i in enumerate(own):
                    rows = records[i * self.chunk : (i + 1) * self.chunk]
                    items = model.collate.encode(rows)
                    answers = self._answer(module, model, probe, items, state.device)
                    size = min(self.chunk, len(records) - i * self.chunk)
                    _write(_table(answers, items, size), shards.paths[i])
                    progress(done + 1, len(own), "chunks")
        state.wait_for_everyone()

    def _answer(
        self, module: torch.nn.Module, model: Model, probe: Probe, items: Sequence[Item], device: torch.device
    ) -> dict[str, list[np.ndarray]]:
        """Each item's answers, in the items' order, asked in batches of items of like length."""
        order = sorted(range(len(items)), key=lambda i: (items[i].size, i))
        answers: dict[str, list[np.ndarray]] = {}
        for rows in _batches(order, [item.size for item in items], self.tokens):
            batch = {name: tensor.to(device) for name, tensor in model.collate.pad([items[i] for i in rows]).items()}
            scored = batch.get("scored")
            for name, tensor in probe.observe(module, batch).items():
                column = answers.setdefault(name, [np.empty(0)] * len(items))
                for i, value in zip(rows, _split(tensor, scored), strict=True):
                    column[i] = value
        return answers


def _batches(order: Sequence[int], sizes: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Consecutive runs of `order` of at most `tokens` padded positions, and at least one item."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * max(sizes[i], sizes[batch[-1]]) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _split(answers: torch.Tensor, scored: torch.Tensor | None) -> list[np.ndarray]:
    """One array a row; where the answers stand at positions, those that are scored."""
    if scored is None or answers.shape != scored.shape:
        return list(answers.cpu().numpy())
    lengths = scored.sum(1).cumsum(0)[:-1].cpu().numpy()
    return np.split(answers[scored].cpu().numpy(), lengths)


def _table(answers: dict[str, list[np.ndarray]], items: Sequence[Item], size: int) -> pa.Table:
    """One row a record; several items of one record (windows) follow each other in its lists."""
    import pyarrow as pa

    owner = np.array([item.record for item in items], dtype=np.int64)
    columns = {}
    for name, values in answers.items():
        lengths = np.bincount(owner, weights=[len(value) for value in values], minlength=size).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns[name] = pa.ListArray.from_arrays(offsets, np.concatenate(values))
    return pa.table(columns)


def _write(table: pa.Table, path: Path) -> None:
    """Write under another name, flush to the disk, rename: a shard is whole or absent."""
    import pyarrow.parquet as pq

    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd", compression_level=1, write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"cannot write answers ({error.strerror}): free some space, or set `cache` to a "
            "larger disk, and run again; what is done stays",
            str(path.parent),
        ) from error


def _open(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(path, page_checksum_verification=True)


def _intact(path: Path) -> bool:
    """Whether a shard is there and its checksums hold."""
    import pyarrow as pa

    if not path.exists():
        return False
    try:
        _open(path)
    except (OSError, pa.ArrowException) as error:
        warnings.warn(f"shard {path.name} of {path.parent.name} is damaged and is asked again: {error}", stacklevel=2)
        return False
    return True


def _answers(table: pa.Table) -> Answers:
    found = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        found[name] = Ragged(column.values.to_numpy(), column.offsets.to_numpy().astype(np.int64))
    return found
