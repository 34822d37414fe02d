"""Asking in chunks: the same answers however the work is cut or spread, damage repaired, nothing stale or lost."""

from __future__ import annotations

import errno
import os
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from worlds import World, each, pool, tiny_gpt2

from hf_mia.core import Batch, Model, Pool, Probe
from hf_mia.models.language import TextCollate, language_model
from hf_mia.probes.tokens import Tokens
from hf_mia.runner import Runner
from hf_mia.storage.shards import Shards, answers_in, intact, opened, write

Rows = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Counted(Probe):
    """`Tokens`, and how many rows it was asked about."""

    name: str = "counted"
    asked = 0

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        Counted.asked += len(batch["input_ids"])
        return Tokens().observe(module, batch)


@dataclass(frozen=True)
class Scarce(Probe):
    """`Tokens` where memory suffices for `most` rows."""

    said: str = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
    most: int = 1

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        if len(batch["input_ids"]) > self.most:
            raise RuntimeError(self.said)
        return Tokens().observe(module, batch)


@pytest.fixture
def model(gpt2_folder: Path) -> Model:
    return language_model(gpt2_folder)


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    Counted.asked = 0


def rows_of(shards: Shards) -> Rows:
    return list(each(shards))


def same(first: Rows, second: Rows, tolerance: float = 0.0) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=tolerance, err_msg=name)


def test_every_record_has_its_own_answers_in_order(model: Model, small_pool: Pool, tmp_path: Path) -> None:
    """Against asking about one text after the other, without runner, chunk or batch."""
    found = rows_of(Runner(tmp_path, chunk=7, tokens=64)(model, Tokens(), small_pool.records))
    module, collate = model.load(), model.collate
    for text, answers in zip(small_pool.records["text"], found, strict=True):
        batches = [collate.pad([item]) for item in collate.encode({"text": [text]})]
        alone = [Tokens().observe(module, batch) for batch in batches]
        for name in ("token", "rank", "start", "logprob", "mean", "deviation"):
            pieces = [one[name][batch["scored"]].numpy() for one, batch in zip(alone, batches, strict=True)]
            np.testing.assert_allclose(answers[name], np.concatenate(pieces), rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("chunk", "tokens"), [(1, 4096), (13, 16), (60, 1), (1000, 10_000)])
def test_chunks_and_batches_do_not_matter(
    model: Model, small_pool: Pool, tmp_path: Path, chunk: int, tokens: int
) -> None:
    expected = rows_of(Runner(tmp_path / "a", chunk=16)(model, Tokens(), small_pool.records))
    found = rows_of(Runner(tmp_path / "b", chunk=chunk, tokens=tokens)(model, Tokens(), small_pool.records))
    same(found, expected, 1e-5)


def test_order_of_records_does_not_matter(model: Model, small_pool: Pool, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(small_pool.records))
    expected = rows_of(Runner(tmp_path, chunk=16)(model, Tokens(), small_pool.records))
    found = rows_of(Runner(tmp_path, chunk=16)(model, Tokens(), small_pool.records.select(order)))
    same(found, [expected[i] for i in order], 1e-5)


def test_batches_hold_few_padded_positions(model: Model, small_pool: Pool, tmp_path: Path) -> None:
    shapes = []

    @dataclass(frozen=True)
    class Shapes(Probe):
        def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
            shapes.append((*batch["input_ids"].shape, int(batch["attention_mask"].sum())))
            return Tokens().observe(module, batch)

    Runner(tmp_path, tokens=64)(model, Shapes(), small_pool.records)
    assert all(rows * length <= 64 for rows, length, _ in shapes)
    assert sum(real for _, _, real in shapes) > 0.85 * sum(rows * length for rows, length, _ in shapes)


def test_two_processes_answer_as_one(model: Model, small_pool: Pool, two_processes: Path, tmp_path: Path) -> None:
    alone = Runner(tmp_path, chunk=8)(model, Tokens(), small_pool.records)
    together = [two_processes / path.relative_to(tmp_path) for path in alone.paths]
    assert len(together) == 8
    for one, other in zip(alone.paths, together, strict=True):
        assert one.read_bytes() == other.read_bytes()


def shard(model: Model, pool: Pool, cache: Path) -> tuple[Path, Rows]:
    shards = Runner(cache, chunk=16)(model, Counted(), pool.records)
    assert Counted.asked == 60
    return shards.paths[1], rows_of(shards)


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "flipped", "deleted"])
def test_a_damaged_shard_is_asked_again_and_named(model: Model, small_pool: Pool, tmp_path: Path, damage: str) -> None:
    path, before = shard(model, small_pool, tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "deleted":
        path.unlink()
    else:
        data[len(data) // 3] ^= 4  # one bit within the data pages
        content = {"empty": b"", "truncated": data[: len(data) // 2], "garbage": bytes(len(data)), "flipped": data}
        path.write_bytes(content[damage])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shards = Runner(tmp_path, chunk=16)(model, Counted(), small_pool.records)
    named = [str(w.message) for w in caught if "damaged" in str(w.message)]
    assert len(named) == (damage != "deleted")
    assert all(path.name in message and path.parent.name in message for message in named)
    assert Counted.asked == 60 + 16  # that chunk and no other
    same(rows_of(shards), before)


def test_a_shard_of_another_version_is_asked_again_and_named(
    model: Model, small_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = shard(model, small_pool, tmp_path)
    table = opened(path)
    with monkeypatch.context() as patch:
        patch.setattr("hf_mia.storage.shards.__version__", "0.0.9")
        write(table, path, "writer")
    with pytest.warns(UserWarning, match=rf"{path.name} of {path.parent.name} is of hf_mia 0\.0\.9 and is asked again"):
        shards = Runner(tmp_path, chunk=16)(model, Counted(), small_pool.records)
    assert Counted.asked == 60 + 16
    same(rows_of(shards), before)


@pytest.mark.parametrize("most", [1, 3])
def test_where_memory_does_not_suffice_batches_are_halved(
    model: Model, small_pool: Pool, tmp_path: Path, most: int
) -> None:
    """The answers are those of whole batches; one record that does not fit is an error, and so is any other."""

    expected = rows_of(Runner(tmp_path / "a", chunk=16)(model, Tokens(), small_pool.records))
    same(rows_of(Runner(tmp_path / "b", chunk=16)(model, Scarce(most=most), small_pool.records)), expected, 1e-5)
    with pytest.raises(RuntimeError, match="can't allocate"):
        Runner(tmp_path / "c")(model, Scarce(most=0), small_pool.records)
    with pytest.raises(RuntimeError, match="another fault"):
        Runner(tmp_path / "c")(model, Scarce("another fault"), small_pool.records)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_memory_that_ends_near_the_end_aborts_nothing(
    model: Model, small_pool: Pool, tmp_path: Path, error: Exception
) -> None:
    """In the second half nothing above one row fits: every answer is there, and few batches are tried in vain."""
    sizes: list[int] = []
    failed: list[int] = []

    @dataclass(frozen=True)
    class Late(Probe):
        def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
            rows = len(batch["input_ids"])
            sizes.append(rows)
            if sum(sizes) > 30 and rows > 1:
                failed.append(rows)
                raise error
            return Tokens().observe(module, batch)

    expected = rows_of(Runner(tmp_path / "a", chunk=16)(model, Tokens(), small_pool.records))
    same(rows_of(Runner(tmp_path / "b", chunk=16)(model, Late(), small_pool.records)), expected, 1e-5)
    assert 0 < len(failed) <= 4  # each halves what the batches behind it may hold
    assert sizes[-16:] == [1] * 16  # the last chunk is asked about as it fits


def test_a_model_leaves_the_device_when_it_is_done(model: Model, small_pool: Pool, tmp_path: Path) -> None:
    """Whatever happens, and one that must not be moved is not."""
    sent: list[str] = []
    module = model.load()
    module.to = lambda device: sent.append(str(device))  # type: ignore[assignment, method-assign]
    kept = replace(model, load=lambda: module)
    Runner(tmp_path / "a")(kept, Tokens(), small_pool.records)
    assert sent == ["cpu", "cpu"]  # to the device, and back
    with pytest.raises(RuntimeError, match="another fault"):
        Runner(tmp_path / "b")(kept, Scarce("another fault"), small_pool.records)
    assert sent == ["cpu"] * 4
    module.hf_device_map = {"": "cpu"}
    Runner(tmp_path / "c")(kept, Tokens(), small_pool.records)
    assert sent == ["cpu"] * 4


def test_no_flipped_bit_is_ever_served(model: Model, tmp_path: Path) -> None:
    """Every byte of a small shard: a flipped bit is found, or does not change what is read."""
    path = Runner(tmp_path, chunk=2)(model, Tokens(), pool(2, 1, 1).records).paths[0]
    data, good = path.read_bytes(), list(each([answers_in(opened(path))]))
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not intact(path):
                continue
        same(list(each([answers_in(opened(path))])), good)


def test_a_second_call_asks_nothing(model: Model, small_pool: Pool, tmp_path: Path) -> None:
    first = rows_of(Runner(tmp_path)(model, Counted(), small_pool.records))
    unloadable = replace(model, load=lambda: pytest.fail("the module was loaded again"))
    copied = Dataset.from_dict({"other": list(range(60)), "text": list(small_pool.records["text"])})
    same(rows_of(Runner(tmp_path)(unloadable, Counted(), copied)), first)
    assert Counted.asked == 60


def test_nothing_stale_is_served(model: Model, small_pool: Pool, tmp_path: Path) -> None:
    """Each thing that decides an answer, changed alone, is asked about anew."""
    runner, records = Runner(tmp_path), small_pool.records
    other = tiny_gpt2(tmp_path / "other", n_head=4)
    retold = Dataset.from_dict({"text": [*records["text"][:-1], "w001 w002"]})
    variants = {
        "as it was": (model, Tokens(), records),
        "weights": (language_model(other), Tokens(), records),
        "probe": (model, Tokens(rows=8), records),
        "a text": (model, Tokens(), retold),
        "order": (model, Tokens(), records.select(range(59, -1, -1))),
        "fewer": (model, Tokens(), records.select(range(59))),
        "chunk": (model, Tokens(), records),
    }
    places = {}
    for name, (of, probe, about) in variants.items():
        asks = Runner(tmp_path, chunk=7) if name == "chunk" else runner
        places[name] = asks(of, probe, about).paths[0].parent
    assert len(set(places.values())) == len(variants)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_models_key_covers_weights_config_and_tokenizer(tmp_path: Path, name: str) -> None:
    folder = tiny_gpt2(tmp_path)
    before = language_model(folder).key
    path = folder / name
    data = path.read_bytes()
    changed = data[:-1] + bytes([data[-1] ^ 1]) if name == "model.safetensors" else data + b"\n"
    path.write_bytes(changed)
    assert language_model(folder).key != before
    path.write_bytes(data)
    assert language_model(folder).key == before


def test_a_full_disk_is_said_and_a_rerun_goes_on(
    model: Model, small_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = pq.write_table, []

    def full(table: object, file: object, **options: object) -> None:
        if len(written) == 2:
            file.write(b"half a shard")  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(real(table, file, **options))

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match=r"free some space.*cache.*run again") as caught:
        Runner(tmp_path, chunk=16)(model, Counted(), small_pool.records)
    assert caught.value.errno == errno.ENOSPC
    assert re.search(re.escape(str(tmp_path)), str(caught.value))
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["000000.parquet", "000001.parquet"]
    monkeypatch.undo()
    Counted.asked = 0
    shards = Runner(tmp_path, chunk=16)(model, Counted(), small_pool.records)
    assert Counted.asked == 60 - 32
    same(rows_of(shards), rows_of(Runner(tmp_path / "fresh", chunk=16)(model, Counted(), small_pool.records)))


def test_an_interrupted_run_keeps_what_is_done(model: Model, small_pool: Pool, tmp_path: Path) -> None:
    class Interrupted(Counted):
        def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
            if Counted.asked >= 32:
                raise KeyboardInterrupt
            return super().observe(module, batch)

    with pytest.raises(KeyboardInterrupt):
        Runner(tmp_path, chunk=16)(model, Interrupted(), small_pool.records)
    Counted.asked = 0
    again = type("Interrupted", (Counted,), {"__qualname__": Interrupted.__qualname__})()
    assert repr(again) == repr(Interrupted())
    Runner(tmp_path, chunk=16)(model, again, small_pool.records)
    assert Counted.asked == 60 - 32


def test_a_chunk_in_which_nothing_is_scored_has_empty_answers(gpt2_folder: Path, tmp_path: Path) -> None:
    """Texts of one token, and a tokenizer that opens none: nothing stands before the token."""
    tokenizer = language_model(gpt2_folder).collate.tokenizer
    tokenizer.eos_token = None
    model = replace(language_model(gpt2_folder), collate=TextCollate(tokenizer, 16))
    records = Dataset.from_dict({"text": ["w001", "w002", "w001 w002", "w003"]})
    rows = rows_of(Runner(tmp_path, chunk=2)(model, Tokens(), records))
    assert [len(row["rank"]) for row in rows] == [0, 0, 1, 0]


def test_records_without_the_models_column_are_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\['text'\].*\['words'\]"):
        Runner(tmp_path)(model, Tokens(), Dataset.from_dict({"words": ["a"]}))


def test_answers_are_parquet_that_datasets_opens(model: Model, small_pool: Pool, tmp_path: Path) -> None:
    paths = Runner(tmp_path, chunk=16)(model, Tokens(), small_pool.records).paths
    opened = Dataset.from_parquet([str(path) for path in paths], cache_dir=str(tmp_path / "hf"))
    assert len(opened) == 60
    assert {"token", "rank", "logprob"} <= set(opened.column_names)


def test_a_world_is_asked_as_its_shards_say(overfitted: World) -> None:
    answers = overfitted.ask(overfitted.target.model, Tokens(), overfitted.target.pool.records)
    assert sum(1 for _ in each(answers)) == len(overfitted.target.pool.records)
    assert len(answers.paths) > 1
