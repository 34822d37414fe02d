"""Asking models about records: the only place with accelerate, device, processes and the cache of answers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.collate import Collate, Item
from hf_mia.core import Answers, Model, Probe, Ragged
from hf_mia.keys import WAY_OUT, content_key, records_key
from hf_mia.progress import bar

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from accelerate import Accelerator
    from datasets import Dataset

DIGEST = b"hf_mia"  # where a shard's metadata holds the digest of its content
PADDING = 0.15  # the share of a batch's positions that may be padding


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
    seen: dict[tuple[str, str, int], tuple[Dataset, Shards]] = field(default_factory=dict, repr=False)

    def __call__(self, model: Model, probe: Probe, records: Dataset) -> Shards:
        question = model.key, repr(probe), id(records)
        if question not in self.seen:  # the records stay alive here, so that no others can have their id
            self.seen[question] = records, self._asked(model, probe, records)
        return self.seen[question][1]

    def _asked(self, model: Model, probe: Probe, records: Dataset) -> Shards:
        from accelerate import Accelerator

        state = Accelerator()  # a bare PartialState would not see the processes of a CPU launch
        content, kind = records_key(records, model.collate.columns), type(model.collate).__name__
        parts = [model.key, kind, content, repr(probe), str(self.chunk), state.device.type]
        folder = self.cache / "answers" / content_key(parts)
        folder.mkdir(parents=True, exist_ok=True)
        shards = Shards(tuple(folder / f"{i:06d}.parquet" for i in range(-(-len(records) // self.chunk))))
        self._fill(model, probe, records, shards, state)
        return shards

    def _fill(self, model: Model, probe: Probe, records: Dataset, shards: Shards, state: Accelerator) -> None:
        missing = [i for i, path in enumerate(shards.paths) if not _intact(path)]
        state.wait_for_everyone()  # all have seen the same files before any appears
        own = missing[state.process_index :: state.num_processes]
        if own:
            collate = probe.through(model.collate)
            columns = records.select_columns(list(collate.columns))
            module = model.load().to(state.device).eval()
            with bar(f"asking {model.name}", position=state.process_index) as progress:
                for done, i in enumerate(own):
                    rows = columns[i * self.chunk : (i + 1) * self.chunk]
                    items = collate.encode(rows)
                    answers = _answer(module, collate, probe, items, state.device, self.tokens)
                    size = min(self.chunk, len(records) - i * self.chunk)
                    _write(_table(answers, items, size), shards.paths[i])
                    progress(done + 1, len(own), "chunks")
        state.wait_for_everyone()


def answers_of(
    module: torch.nn.Module, collate: Collate, probe: Probe, records: Dataset, chunk: int = 1024, tokens: int = 4096
) -> Iterator[Answers]:
    """What a module answers as it is now, on the device that it is on, chunk by chunk: nothing is kept."""
    import torch

    device = next((weights.device for weights in module.parameters()), torch.device("cpu"))
    collate = probe.through(collate)
    columns = records.select_columns(list(collate.columns))
    for start in range(0, len(records), chunk):
        items = collate.encode(columns[start : start + chunk])
        answers = _answer(module, collate, probe, items, device, tokens)
        yield _answers(_table(answers, items, min(chunk, len(records) - start)))


def _answer(
    module: torch.nn.Module,
    collate: Collate,
    probe: Probe,
    items: Sequence[Item],
    device: torch.device,
    tokens: int,
) -> dict[str, pa.ListArray]:
    """Each item's answers, in the items' order, asked in batches of items of like length."""
    import pyarrow as pa

    sizes = np.array([item.size for item in items], dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    answers: dict[str, list[pa.ListArray]] = {}
    for rows in _batches(order.tolist(), sizes.tolist(), tokens):
        batch = {name: tensor.to(device) for name, tensor in collate.pad([items[i] for i in rows]).items()}
        found = probe.observe(module, batch)
        scored = found.pop("scored", batch.get("scored"))
        for name, tensor in found.items():
            answers.setdefault(name, []).append(_lists(tensor, scored))
    back = np.argsort(order)
    return {name: pa.concat_arrays(lists).take(pa.array(back)) for name, lists in answers.items()}


def _batches(order: Sequence[int], sizes: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Consecutive runs of `order`, sizes ascending: at most `tokens` positions, at most `PADDING` of them padding."""
    batch: list[int] = []
    filled = 0
    for i in order:
        positions = (len(batch) + 1) * sizes[i]
        if batch and (positions > tokens or filled + sizes[i] < (1 - PADDING) * positions):
            yield batch
            batch, filled = [], 0
        batch.append(i)
        filled += sizes[i]
    if batch:
        yield batch


def _lists(answers: torch.Tensor, scored: torch.Tensor | None) -> pa.ListArray:
    """One list a row; where the answers stand at positions, those that are scored."""
    import pyarrow as pa

    if scored is None or answers.shape != scored.shape:
        flat = answers.reshape(len(answers), -1)
        lengths = np.full(len(flat), flat.shape[1])
    else:
        flat, lengths = answers[scored], scored.sum(1).cpu().numpy()
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, flat.flatten().cpu().numpy())


def _table(answers: dict[str, pa.ListArray], items: Sequence[Item], size: int) -> pa.Table:
    """One row a record; several items of one record (windows) follow each other in its lists."""
    import pyarrow as pa

    first = np.searchsorted([item.record for item in items], np.arange(size + 1))
    return pa.table(
        {
            name: pa.ListArray.from_arrays(lists.offsets.take(pa.array(first)), lists.values)
            for name, lists in answers.items()
        }
    )


def _write(table: pa.Table, path: Path) -> None:
    """Write under another name, flush to the disk, rename: a shard is whole or absent."""
    import pyarrow.parquet as pq

    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table.replace_schema_metadata({DIGEST: _digest(table)}), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write answers ({error.strerror}): {WAY_OUT}", str(path.parent)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(path, memory_map=True)


def _intact(path: Path) -> bool:
    """Whether a shard is there and holds what was written."""
    import pyarrow as pa

    if not path.exists():
        return False
    try:
        table = _open(path)
        if (table.schema.metadata or {}).get(DIGEST) == _digest(table):
            return True
        error = "its content is not what was written"
    except (OSError, UnicodeDecodeError, pa.ArrowException) as problem:
        error = str(problem)
    warnings.warn(f"shard {path.name} of {path.parent.name} is damaged and is asked again: {error}", stacklevel=2)
    return False


def _digest(table: pa.Table) -> bytes:
    """The content of a table: names, types, values and where each record's begin."""
    parts: list[str | bytes] = []
    for name, ragged in _answers(table).items():
        parts += [name, str(ragged.values.dtype), ragged.values.tobytes(), ragged.offsets.tobytes()]
    return content_key(parts).encode()


def _answers(table: pa.Table) -> Answers:
    import pyarrow as pa

    found = Named()
    for name in table.column_names:
        column = table[name].combine_chunks()
        if not isinstance(column, pa.ListArray):
            raise pa.ArrowInvalid(f"column {name!r} holds {column.type}, not lists")
        found[name] = Ragged(column.values.to_numpy(), column.offsets.to_numpy().astype(np.int64))
    return found
