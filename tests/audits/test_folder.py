"""A run folder is put in place whole: a run that cannot be written leaves the one before it as it was."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hf_mia.audits.folder import replaced


def run(folder: Path, content: str) -> None:
    with replaced(folder) as place:
        (place / "evidence").mkdir()
        (place / "evidence" / f"{content}.parquet").write_text(content)
        (place / "report.json").write_text(content)


def full(path: Path) -> None:
    path.write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_run_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path: Path) -> None:
    run(tmp_path / "run", "first")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run(tmp_path / "run", "second")
    expected = {"evidence/second.parquet": "second", "report.json": "second", "notes.txt": "mine"}
    assert contents(tmp_path / "run") == expected


def test_a_full_disk_leaves_the_earlier_run_as_it_was(tmp_path: Path) -> None:
    run(tmp_path / "run", "first")
    before = contents(tmp_path / "run")
    message = r"cannot write the run to .*run .*No space left.*free some space.*run again"
    with pytest.raises(OSError, match=message), replaced(tmp_path / "run") as place:
        full(place / "evidence.parquet")
    assert contents(tmp_path / "run") == before


def test_what_a_killed_run_left_is_gone_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "run" / ".unfinished" / "evidence").mkdir(parents=True)
    (tmp_path / "run" / ".unfinished" / "stale.parquet").write_text("stale")
    run(tmp_path / "run", "whole")
    assert set(contents(tmp_path / "run")) == {"evidence/whole.parquet", "report.json"}
