"""Run folders from strangers: damaged, swollen or sly ones are refused by one line, and nothing outside is read."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mia.queries import opened as module
from hf_mia.queries.calibration import LEARNT
from hf_mia.queries.opened import opened
from hf_mia.queries.query import query, user
from hf_mia.storage import foreign

Change = Callable[[Path], object]
OUTSIDE = "leads out of the run folder"


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run_folder, tmp_path / "run")


def use(folder: Path) -> None:
    """Open a run, fit each of its attacks and ask it."""
    run = opened(folder)
    for name in ("auditmi", "auditmi-frequency", "auditmi-relative"):
        query(run, name).ask([user("x", ["w001 w002"])])


def put(path: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def edit(path: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))

    return change


def told(path: str, change_it: Callable[[dict[str, object]], object]) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        change_it(content)
        (folder / path).write_text(json.dumps(content))

    return change


def link(path: str, to: str = "/etc/hostname") -> Change:
    def change(folder: Path) -> None:
        (folder / path).unlink()
        (folder / path).symlink_to(to)

    return change


def table(path: str, **columns: object) -> Change:
    def change(folder: Path) -> None:
        old = pq.read_table(folder / path)
        for name, values in columns.items():
            old = old.set_column(old.schema.names.index(name), name, pa.array(values))
        pq.write_table(old, folder / path)

    return change


FIRST, SHADOW = "calibration/auditmi/records-000001.parquet", "evidence/auditmi/shadow-001.parquet"
REFERENCE = "calibration/auditmi-relative/records-000001.reference-001.parquet"
LEARNED = f"calibration/auditmi-frequency/{LEARNT}"
BOMB = "a: &a [x, x]\n" + "\n".join(f"{chr(i + 1)}: &{chr(i + 1)} [*{chr(i)}, *{chr(i)}]" for i in range(97, 120))

DAMAGED: dict[str, tuple[Change, str]] = {
    "no report": (lambda folder: (folder / "report.json").unlink(), "has no report.json"),
    "no config": (lambda folder: (folder / "config.yaml").unlink(), "has no config.yaml"),
    "older": (lambda folder: (folder / "query.json").unlink(), "written before runs could be asked"),
    "cut report": (put("report.json", '{"attacks": {'), "report.json is damaged"),
    "a list": (put("report.json", "[]"), "report.json is damaged: it must hold fields and values"),
    "no utf-8": (put("report.json", b"\xff\xfe"), "report.json is damaged"),
    "deep": (put("report.json", "[" * 200_000), "report.json is damaged"),
    "deep config": (put("config.yaml", "[" * 20_000), "config.yaml is damaged"),
    "empty report": (put("report.json", "{}"), "report.json is damaged: KeyError 'attacks'"),
    "wrong scores": (told("report.json", lambda c: c["attacks"]["auditmi"]["report"]["scores"].pop()), "is damaged"),
    "aliases": (put("config.yaml", BOMB), "it holds an alias"),
    "code": (put("config.yaml", "data: !!python/object/apply:os.system [ls]"), "config.yaml is damaged"),
    "foreign config": (edit("config.yaml", "name: lstm", "name: lstn"), "did you mean 'lstm'"),
    "huge config": (put("config.yaml", "a" * (module.TEXT + 1)), "at most 1,048,576 are read"),
    "linked config": (link("config.yaml"), OUTSIDE),
    "linked inside": (link("config.yaml", "report.json"), OUTSIDE),
    "other model": (told("query.json", lambda c: c["target"].update(key="0" * 32)), "about other models"),
    "cache path": (told("query.json", lambda c: c["target"].update(cached="../../etc")), "32 hexadecimal digits"),
    "no key": (told("query.json", lambda c: c["shadows"][0].update(key=None)), "32 hexadecimal digits"),
    "more shadows": (told("query.json", lambda c: c["shadows"].append(c["shadows"][0])), "about other models"),
    "no shadow": (lambda folder: (folder / SHADOW).unlink(), "is no file of the run folder"),
    "no parquet": (put(SHADOW, "PAR1 nothing PAR1"), "shadow-001.parquet is damaged"),
    "pickle": (put(FIRST, pickle.dumps([1, 2])), "records-000001.parquet is damaged"),
    "linked evidence": (link(SHADOW), OUTSIDE),
    "linked reference": (link(REFERENCE), OUTSIDE),
    "numbers for names": (table(SHADOW, unit=list(range(32))), "its column 'unit' must hold string"),
    "texts for features": (table(SHADOW, features=["x"] * 32), "its column 'features' must hold"),
    "ragged": (table(SHADOW, features=[[0.0] * (1 + i % 2) for i in range(32)]), "shadow-001.parquet is damaged"),
    "other width": (table(SHADOW, features=[[0.0]] * 32), "features of different sizes, [1, 100]"),
    "infinite": (table(SHADOW, features=[[np.inf] * 100] * 32), "shadow-001.parquet is damaged"),
    "twice": (table(FIRST, unit=["user 001"] * 16), "records-000001.parquet is damaged"),
    "others' names": (table(FIRST, unit=[f"nobody {i}" for i in range(16)]), "others than the report's non-members"),
    "others' references": (table(REFERENCE, unit=[f"x{i}" for i in range(16)]), "references are about other units"),
    "no first": (lambda folder: (folder / FIRST).unlink(), "records-000001.parquet is missing"),
    "learnt pickle": (put(LEARNED, pickle.dumps({"common": 1})), "learnt.safetensors is damaged"),
    "adapter": (put("models/target/adapter_config.json", "{}"), "an adapter names another model"),
    "shards": (
        put("models/target/model.safetensors.index.json", '{"weight_map": {"a": "../../x.safetensors"}}'),
        "it names weights outside of the folder",
    ),
    "linked weights": (link("models/target/model.safetensors"), OUTSIDE),
    "other weights": (
        lambda folder: shutil.copy(
            folder / "models/shadow-001/model.safetensors", folder / "models/target/model.safetensors"
        ),
        "other weights or another processor",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_folder_is_refused(copy: Path, case: str) -> None:
    change, message = DAMAGED[case]
    change(copy)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        use(copy)
    assert len(str(caught.value)) < 2000


def test_a_folder_as_it_was_written_is_taken(copy: Path) -> None:
    use(copy)


def test_a_linked_folder_of_models_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "models").rename(tmp_path / "models")
    (copy / "models").symlink_to(tmp_path / "models")
    with pytest.raises(ValueError, match=OUTSIDE):
        use(copy)


def test_a_file_that_unpacks_to_gigabytes_is_refused_before(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant column of a hundred million numbers packs to almost nothing."""
    monkeypatch.setattr(foreign, "NUMBERS", 1000)
    rows = pa.array([[0.0] * 100] * 32)
    pq.write_table(pq.read_table(copy / SHADOW).set_column(2, "features", rows), copy / SHADOW, compression="zstd")
    assert (copy / SHADOW).stat().st_size < 3000
    monkeypatch.setattr(module, "read_evidence", lambda path: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="it unpacks to more than 1,000 numbers"):
        opened(copy).evidence("auditmi")


@pytest.mark.parametrize("place", ["nothing", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder: name one that `hf-mia audit` wrote"):
        opened(tmp_path / place)
