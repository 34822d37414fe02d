"""Asking models about records: the only place with accelerate, device and processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from hf_mia.collate import Collate, Item
from hf_mia.core import Answers, Model, Probe
from hf_mia.launch.processes import agreed, joined, meet, settled, shared
from hf_mia.models.alignment import aligned, repeatable
from hf_mia.models.placing import Room, begins, placed, scarce
from hf_mia.progress import Check, bar, on
from hf_mia.storage.keys import content_key, records_key
from hf_mia.storage.leftovers import sweep, writing
from hf_mia.storage.shards import Shards, answers_in, intact, write

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from accelerate import Accelerator
    from datasets import Dataset

ON_GPU = 8  # times as large a batch: it is halved where it does not fit
PADDING = 0.15  # the share of a batch's positions that may be padding


@dataclass(frozen=True, eq=False)
class Runner:
    """Asks a model about records, chunk by chunk, and keeps every answer on disk under its content key.

    `chunk` records are the unit of work: one process computes a chunk whole, in batches of about `tokens` padded
    positions (on a GPU, eight times as many) sorted by length, so the answers do not depend on the number of processes,
    and a run that was killed goes on with the chunks that are missing or damaged. Where memory does not suffice for a
    batch, it is halved until it fits, and those that follow are made no larger, so `tokens` may be more than fits.
    Before every batch `check` says whether to go on, and raises if not. Calling the runner is `hf_mia.core.Ask`.
    """

    cache: Path
    chunk: int = 1024
    tokens: int = 4096
    check: Check = field(default=on, repr=False, compare=False)
    seen: dict[tuple[str, str, int], tuple[Dataset, Shards]] = field(default_factory=dict, repr=False)

    def __call__(self, model: Model, probe: Probe, records: Dataset) -> Shards:
        question = model.key, repr(probe), id(records)
        if question not in self.seen:  # the records stay alive here, so that no others can have their id
            self.seen[question] = records, self._asked(model, probe, records)
        return self.seen[question][1]

    def _asked(self, model: Model, probe: Probe, records: Dataset) -> Shards:
        state = joined()  # a bare PartialState would not see the processes of a CPU launch
        shared(self.cache)
        content, kind = records_key(records, model.collate.columns), type(model.collate).__name__
        parts = [model.key, kind, content, repr(probe), str(self.chunk), state.device.type]
        parts += [key for key in [probe.through(model.collate).stands_on()] if key]
        folder = self.cache / "answers" / content_key(parts)
        agreed(folder.name, "ask another model, or about other records,")
        folder.mkdir(parents=True, exist_ok=True)
        sweep(self.cache)
        shards = Shards(tuple(folder / f"{i:06d}.parquet" for i in range(-(-len(records) // self.chunk))))
        self._fill(model, probe, records, shards, state)
        return shards

    def _fill(self, model: Model, probe: Probe, records: Dataset, shards: Shards, state: Accelerator) -> None:
        first = [i for i, path in enumerate(shards.paths) if state.is_main_process and not intact(path)]
        missing = cast(list[int], meet(first)[0])  # as the first saw it: another run may be at work
        own = missing[state.process_index :: state.num_processes]
        if own:
            self._ask(model, probe, records, {i: shards.paths[i] for i in own}, state)
        settled(shards.paths)

    def _ask(
        self, model: Model, probe: Probe, records: Dataset, places: Mapping[int, Path], state: Accelerator
    ) -> None:
        """Ask about some chunks, by number, and write each to its place."""
        collate = probe.through(model.collate)
        room = Room(self.tokens * (ON_GPU if state.device.type == "cuda" else 1))
        columns = records.select_columns(list(collate.columns))
        module = aligned(model.load().eval())
        title, at = f"asking {model.name}", state.process_index
        with (
            writing(self.cache) as writer,
            placed(module, state.device, model.name) as device,
            repeatable(),
            bar(title, position=at) as progress,
        ):
            for done, (i, path) in enumerate(places.items()):
                items = collate.encode(columns[i * self.chunk : (i + 1) * self.chunk])
                answers = _answer(module, collate, probe, items, device, room, self.check)
                write(_table(answers, items, min(self.chunk, len(records) - i * self.chunk)), path, writer)
                progress(done + 1, len(places), "chunks")


def answers_of(
    module: torch.nn.Module,
    collate: Collate,
    probe: Probe,
    records: Dataset,
    chunk: int = 1024,
    tokens: int = 4096,
    check: Check = on,
) -> Iterator[Answers]:
    """What a module answers as it is now, on the device that it is on, chunk by chunk: nothing is kept.

    Before every batch `check` says whether to go on.
    """
    device, room = begins(module), Room(tokens)
    collate = probe.through(collate)
    columns = records.select_columns(list(collate.columns))
    for start in range(0, len(records), chunk):
        items = collate.encode(columns[start : start + chunk])
        answers = _answer(module, collate, probe, items, device, room, check)
        yield answers_in(_table(answers, items, min(chunk, len(records) - start)))


def _answer(
    module: torch.nn.Module,
    collate: Collate,
    probe: Probe,
    items: Sequence[Item],
    device: torch.device,
    room: Room,
    check: Check,
) -> dict[str, pa.ListArray]:
    """Each item's answers, in the items' order, asked in batches of items of like length."""
    import pyarrow as pa

    sizes = np.array([item.size for item in items], dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    answers: dict[str, list[pa.ListArray]] = {}
    for rows in _batches(order.tolist(), sizes.tolist(), room):
        check()
        for found in _observed(module, collate, probe, [items[i] for i in rows], device, room):
            for name, lists in found.items():
                answers.setdefault(name, []).append(lists)
    back = np.argsort(order)
    return {name: pa.concat_arrays(lists).take(pa.array(back)) for name, lists in answers.items()}


def _observed(
    module: torch.nn.Module, collate: Collate, probe: Probe, items: Sequence[Item], device: torch.device, room: Room
) -> Iterator[dict[str, pa.ListArray]]:
    """The answers about a batch of items; where memory does not suffice, about one half of it, then about the other."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    try:
        # copies, which begin at round addresses, as the weights do
        batch = {name: tensor.to(device, copy=True) for name, tensor in collate.pad(items).items()}
        found = probe.observe(module, batch)
        scored = found.pop("scored", batch.get("scored"))
        whole = {name: _lists(tensor, scored) for name, tensor in found.items()}
    except (RuntimeError, MemoryError) as error:
        if len(items) == 1 or not (scarce(error) or should_reduce_batch_size(error)):
            raise
        whole = None
    if whole is not None:
        yield whole
        return
    room.shrink(len(items) * max(item.size for item in items))
    clear_device_cache()  # out of the handler, where the error would hold the tensors that did not fit
    for half in (items[: len(items) // 2], items[len(items) // 2 :]):
        yield from _observed(module, collate, probe, half, device, room)


def _batches(order: Sequence[int], sizes: Sequence[int], room: Room) -> Iterator[list[int]]:
    """Consecutive runs of `order`, sizes ascending: positions that there is room for, few of them padding."""
    batch: list[int] = []
    filled = 0
    for i in order:
        positions = (len(batch) + 1) * sizes[i]
        if batch and (positions > room.positions or filled + sizes[i] < (1 - PADDING) * positions):
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
