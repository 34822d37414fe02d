"""Streams as records: the first so many, the same as without a stream, fetched once and mapped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import hub
import numpy as np
import pytest
from datasets import Dataset, IterableDataset, load_dataset
from worlds import noise, png, write_images

import hf_mia.data.streams as module
from hf_mia.audits.experiment import experiment, mapping
from hf_mia.core import Pool
from hf_mia.data.classified import ClassifiedTexts
from hf_mia.data.images import Images
from hf_mia.data.sources import load
from hf_mia.data.streams import taken
from hf_mia.data.texts import Texts
from hf_mia.storage.keys import records_key


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A folder of JSON lines, in two files."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for part in range(2):
        write(folder / f"{part}.jsonl", [f"text {part} {i}" for i in range(300)])
    return folder


def write(path: Path, texts: list[str]) -> None:
    rows = [json.dumps({"text": text, "user": f"u{i % 7}"}) for i, text in enumerate(texts)]
    path.write_text("\n".join(rows))


@pytest.mark.parametrize("take", [1, 256, 257, 500])
def test_a_stream_gives_the_first_records_of_the_same_data(lines: Path, take: int) -> None:
    whole = load_dataset(str(lines), split="train")
    found = load(str(lines), take=take, streaming=True)
    assert found[:] == whole.select(range(take))[:]
    assert found.cache_files  # mapped from the disk, not in memory
    assert load(str(lines), take=take)[:] == found[:]  # and so does what is not streamed


def test_a_stream_that_ends_before_gives_all(lines: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(load(str(lines / "0.jsonl"), take=1000, streaming=True)) == 300
    assert "ended after 300 of 1000 records" in caplog.text


def test_what_was_taken_is_not_fetched_again_and_never_stale(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = lines / "0.jsonl", []
    real = module._write
    monkeypatch.setattr(module, "_write", lambda *given: (read.append(given), real(*given)))
    first = load(str(path), take=10, streaming=True)["text"][:]
    assert load(str(path), take=10, streaming=True)["text"][:] == first
    assert len(read) == 1
    write(path, ["other"] * 20)
    assert load(str(path), take=10, streaming=True)["text"][:] == ["other"] * 10
    assert load(str(path), take=11, streaming=True)["text"][:] == ["other"] * 11
    assert len(read) == 3


def test_a_stream_cut_short_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, str]]:
        yield from ({"text": "a"} for _ in range(300))
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        taken(IterableDataset.from_generator(broken), 400, tmp_path / "streams")
    assert list((tmp_path / "streams").iterdir()) == []


def test_an_iterable_dataset_becomes_the_records_of_a_pool(tmp_path: Path) -> None:
    """Endless, shuffled and mapped as it may be: nothing behind the last record is asked for."""

    def endless() -> Iterator[dict[str, object]]:
        for i in range(10**9):
            assert i < 1000
            yield {"text": f"text {i}", "number": i}

    stream = IterableDataset.from_generator(endless).map(lambda row: {"text": row["text"].upper()})
    records = taken(stream, 300, tmp_path)
    assert records["text"][:3] == ["TEXT 0", "TEXT 1", "TEXT 2"]
    assert records.features["number"] == datasets.Value("int64")
    pool = Pool(records, np.arange(300), tuple(map(str, range(300))))
    plain = Dataset.from_dict({"text": [f"TEXT {i}" for i in range(300)]})
    assert records_key(pool.records, ["text"]) == records_key(plain, ["text"])
    assert taken(stream, 300, tmp_path).cache_files == records.cache_files  # by content


def test_images_of_a_stream_hold_their_bytes(tmp_path: Path) -> None:
    encoded = noise(6, 0)
    path = write_images(tmp_path / "images.parquet", encoded)
    pool = Images(path=str(path), streaming=True, take=4, label=None).load()
    assert [row["bytes"] for row in pool.records["image"]] == encoded[:4]
    folder = tmp_path / "folder" / "train"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(np.full((4, 4), number * 9, np.uint8)))
    files = load(str(folder.parent), take=2, streaming=True).cast_column("image", datasets.Image(decode=False))
    assert [row["bytes"] for row in files["image"]] == [(folder / f"{i}.png").read_bytes() for i in range(2)]


def test_columns_that_change_on_the_way_are_refused(tmp_path: Path) -> None:
    def changing() -> Iterator[dict[str, object]]:
        yield from ({"text": "a", "number": 1} for _ in range(256))
        yield from ({"text": "a", "number": "one"} for _ in range(256))

    with pytest.raises(ValueError, match=r"from 256 on do not fit.*cast\(features\)"):
        taken(IterableDataset.from_generator(changing), 512, tmp_path)


def test_a_stream_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no records"):
        taken(IterableDataset.from_generator(lambda: iter(())), 5, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"streaming": True}, r"data: streaming = true.*take is null: set it.*take = 100000"),
        ({"streaming": True, "take": 0}, "take must be 1 record or more"),
        ({"take": -1}, "take must be 1 record or more"),
    ],
)
@pytest.mark.parametrize("kind", ["texts", "pairs", "images", "classified-sounds"])
def test_a_stream_without_a_bound_says_what_to_set(kind: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment({"data": {"kind": kind, "path": "x", **fields}})


def test_the_fields_survive_the_round_trip() -> None:
    made = experiment({"data": {"path": "org/texts", "streaming": True, "take": 1000}})
    assert experiment(mapping(made)) == made
    assert made.data.take == 1000


def test_errors_of_a_stream_name_the_path(lines: Path) -> None:
    with pytest.raises(ValueError, match=r"data.path = .*texts' could not be loaded.*nope"):
        Texts(path=str(lines), split="nope", streaming=True, take=5).load()
    (lines / "0.jsonl").write_bytes(b'{"text": "\xff\xfe", "user": "a"}')
    with pytest.raises(ValueError, match=r"data.path = .*could not be (read|loaded).*UTF-8"):
        Texts(path=str(lines / "0.jsonl"), streaming=True, take=5).load()


def test_classes_of_a_stream(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": ["b", "a"][i % 2]} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = ClassifiedTexts(path=str(tmp_path / "rows.jsonl"), streaming=True, take=6).load()
    assert found.names == tuple(f"{i:06d}" for i in range(6))
    assert list(found.group) == [1, 0, 1, 0, 1, 0]


def test_of_a_dataset_on_the_hub_no_more_is_fetched(tmp_path: Path) -> None:
    folder = tmp_path / "org"
    (folder / "data").mkdir(parents=True)
    for part in range(4):
        write(folder / "data" / f"train-{part}.jsonl", [f"text {part} {i}" for i in range(40)])
    code = """
from hf_mia.data.texts import Texts
data = Texts(path="org/texts", streaming=True, take=30)
pool, again = data.load(), data.load()
print(len(pool.records), pool.records["text"][29], again.records["text"][:] == pool.records["text"][:])
"""
    (tmp_path / "home").mkdir()
    with hub.serving() as served:
        served.add("datasets/org/texts", folder)
        assert served.python(code, tmp_path / "home").splitlines()[-1] == "30 text 0 29 True"
    asked = [request for request in served.requests if "jsonl" in request and request.startswith("GET")]
    assert any("train-0" in request for request in asked)
    assert not any(f"train-{part}" in request for request in asked for part in (2, 3)), asked


@pytest.mark.parametrize("name", ["nothere.csv", "some/folder/nothere.parquet"])
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *given, **more: pytest.fail("it was looked for elsewhere"))
    with pytest.raises(ValueError, match=rf"^data\.path = '{name}' is no file here: "):
        load(name)
