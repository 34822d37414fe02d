"""Locks between processes: all or none, waited for, and free again when their holder is killed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from waiting import waiting

from hf_mia.storage.locks import locked

HOLDER = """
import sys
from pathlib import Path
from hf_mia.storage.locks import locked
with locked(Path(sys.argv[1]), ["b"], wait=False, doing="") as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_all_are_held_or_none(tmp_path: Path) -> None:
    with waiting(HOLDER, tmp_path, "True"):
        with locked(tmp_path, ["a", "b", "c"], wait=False, doing="") as held:
            assert not held
        with locked(tmp_path, ["c", "a"], wait=False, doing="") as held:
            assert held
    with locked(tmp_path, ["a", "b", "c"], wait=False, doing="") as held:
        assert held


def test_who_waits_says_so_and_takes_over_from_the_dead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with waiting(HOLDER, tmp_path, "True") as process:
        later = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"])
        with locked(tmp_path, ["b"], wait=True, doing="training the target") as held:
            assert held
            assert process.wait() == -9
        later.wait()
    assert capsys.readouterr().err == "Another run is training the target: waiting for it to end.\n"
