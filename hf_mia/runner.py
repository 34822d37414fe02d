"""Asking models about records: the only place with accelerate, device and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.collate import Collate, Item
from hf_mia.core import Answers, Model, Probe
from hf_mia.progress import Check, bar, on
from hf_mia.storage.keys import content_key, records_key
from hf_mia.storage.shards import Shards, answers_in, intact, write

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from accelerate import Accelerator
    from datasets import Dataset

PADDING = 0.15  # the share of a batch's positions that may be padding


@dataclass(frozen=True, eq=False)
class Runner:
    """Asks a model about records, chunk by chunk, and keeps every answer on disk under its content key.

    `chunk` records are the unit of work: one process computes a chunk whole, in batches of about `tokens` padded
    positions sorted by length, so the answers do not depend on the number of processes, and a run that was killed
    goes on with the chunks that are missing or damaged. Calling the runner is `hf_mia.core.Ask`. Before every batch
    `check` says whether to go on, and raises if not.
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
        from accelerate import Accelerator

        state = Accelerator()  # a bare PartialState would not see the processes of a CPU launch
        content, kind = records_key(records, model.collate.columns), type(model.collate).__name__
        parts = [model.key, kind, content, repr(probe), str(self.chunk), state.device.type]
        parts += [key for key in [probe.through(model.collate).stands_on()] if key]
        folder = self.cache / "answers" / content_key(parts)
        folder.mkdir(parents=True, exist_ok=True)
        shards = Shards(tuple(folder / f"{i:06d}.parquet" for i in range(-(-len(records) // self.chunk))))
        self._fill(model, probe, records, shards, state)
        return shards

    def _fill(self, model: Model, probe: Probe, records: Dataset, shards: Shards, state: Accelerator) -> None:
        from accelerate.utils import broadcast_object_list

        whole = broadcast_object_list([state.is_main_process and intact(path) for path in shards.paths])
        missing = [i for i, there in enumerate(whole) if not there]  # as the first saw it: another run may be at work
        own = missing[state.process_index :: state.num_processes]
        if own:
            collate = probe.through(model.collate)
            columns = records.select_columns(list(collate.columns))
            module = model.load().to(state.device).eval()
            with bar(f"asking {model.name}", position=state.process_index) as progress:
                for done, i in enumerate(own):
                    rows = columns[i * self.chunk : (i + 1) * self.chunk]
                    items = collate.encode(rows)
                    answers = _answer(module, collate, probe, items, state.device, self.tokens, self.check)
                    size = min(self.chunk, len(records) - i * self.chunk)
                    write(_table(answers, items, size), shards.paths[i])
                    progress(done + 1, len(own), "chunks")
        state.wait_for_everyone()


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
    import torch

    device = next((weights.device for weights in module.parameters()), torch.device("cpu"))
    collate = probe.through(collate)
    columns = records.select_columns(list(collate.columns))
    for start in range(0, len(records), chunk):
        items = collate.encode(columns[start : start + chunk])
        answers = _answer(module, collate, probe, items, device, tokens, check)
        yield answers_in(_table(answers, items, min(chunk, len(records) - start)))


def _answer(
    module: torch.nn.Module,
    collate: Collate,
    probe: Probe,
    items: Sequence[Item],
    device: torch.device,
    tokens: int,
    check: Check,
) -> dict[str, pa.ListArray]:
    """Each item's answers, in the items' order, asked in batches of items of like length."""
    import pyarrow as pa

    sizes = np.array([item.size for item in items], dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    answers: dict[str, list[pa.ListArray]] = {}
    for rows in _batches(order.tolist(), sizes.tolist(), tokens):
        check()
        for found in _observed(module, collate, probe, [items[i] for i in rows], device):
            for name, lists in found.items():
                answers.setdefault(name, []).append(lists)
    back = np.argsort(order)
    return {name: pa.concat_arrays(lists).take(pa.array(back)) for name, lists in answers.items()}


def _observed(
    module: torch.nn.Module, collate: Collate, probe: Probe, items: Sequence[Item], device: torch.device
) -> Iterator[dict[str, pa.ListArray]]:
    """The answers about a batch of items; where memory does not suffice, about one half of it, then about the other."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    try:
        batch = {name: tensor.to(device) for name, tensor in collate.pad(items).items()}
        found = probe.observe(module, batch)
        scored = found.pop("scored", batch.get("scored"))
        whole = {name: _lists(tensor, scored) for name, tensor in found.items()}
    except RuntimeError as error:
        if len(items) == 1 or not should_reduce_batch_size(error):
            raise
        whole = None
    if whole is not None:
        yield whole
        return
    clear_device_cache()  # out of the handler, where the error would hold the tensors that did not fit
    for half in (items[: len(items) // 2], items[len(items) // 2 :]):
        yield from _observed(module, collate, probe, half, device)


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
