"""Faults on a whole audit: what is tried at length by `python tests/faults.py`, a few times over."""

from __future__ import annotations

import io
import json
import pickle
import random
from pathlib import Path

import faults
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from safetensors.torch import load
from trials import TOKEN, Place

Whole = tuple[Place, bytes, float]


def test_an_audit_killed_thrice_ends_as_one_that_was_not(whole: Whole, tmp_path: Path) -> None:
    """SIGKILL at random moments: the same report byte for byte, and nothing that was whole is made again."""
    place, expected, takes = whole
    tried = faults.kills(place.config, tmp_path, expected, takes, 3, random.Random(1))
    assert (tried.survived, tried.lost) == (3, 0)


@pytest.mark.parametrize("fault", ["a shard with a flipped bit"])
def test_what_is_damaged_is_named_and_made_again_and_nothing_else(whole: Whole, tmp_path: Path, fault: str) -> None:
    tried = faults.damage(whole[0], tmp_path, fault)
    assert (tried.survived, tried.lost) == (1, 0), whole[0].log


def test_two_runs_on_one_cache_end_alike(whole: Whole, tmp_path: Path) -> None:
    place, expected, _ = whole
    assert faults.two_at_once(place.config, tmp_path, expected).survived


def test_the_hubs_token_is_written_nowhere(whole: Whole) -> None:
    """In no log, output or file of a whole audit, of the cache either, though the environment held it."""
    place, token = whole[0], TOKEN.encode()
    files = [path for path in [place.log_file, *place.folder.rglob("*")] if path.is_file()]
    assert len(files) > 30
    assert not [path for path in files if token in path.read_bytes()]


def test_all_that_an_audit_wrote_is_read_without_pickle(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("pickle")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    readers = {".json": json.loads, ".yaml": yaml.safe_load, ".png": lambda content: Image.open(io.BytesIO(content))}
    readers |= {".parquet": lambda content: pq.read_table(io.BytesIO(content)), ".safetensors": load}
    files = [path for path in whole[0].folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert {path.suffix for path in files} == set(readers)
    for path in files:
        readers[path.suffix](path.read_bytes())


def test_the_table_adds_up() -> None:
    """A fault that was not survived is seen."""
    rows = [faults.Tried("one", 2, 1, 3), faults.Tried("other", 1, 1)]
    assert faults.table(rows).splitlines()[-1].split() == ["all", "3", "2", "3"]
