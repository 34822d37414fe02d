"""Locks between processes: all or none, waited for, and free again when their holder is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hf_mia.storage.locks import locked

HOLDER = """
import sys
from pathlib import Path
from hf_mia.storage.locks import locked
with locked(Path(sys.argv[1]), ["b"], wait=False, doing="") as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(cache: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `b` until it is killed, or its standard input ends."""
    command = [sys.executable, "-c", HOLDER, str(cache)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        try:
            yield process
        finally:
            process.kill()


def test_all_are_held_or_none(tmp_path: Path) -> None:
    with holder(tmp_path):
        with locked(tmp_path, ["a", "b", "c"], wait=False, doing="") as held:
            assert not held
        with locked(tmp_path, ["c", "a"], wait=False, doing="") as held:
            assert held
    with locked(tmp_path, ["a", "b", "c"], wait=False, doing="") as held:
        assert held


def test_who_waits_says_so_and_takes_over_from_the_dead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holder(tmp_path) as process:
        later = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"])
        with locked(tmp_path, ["b"], wait=True, doing="training the target") as held:
            assert held
            assert process.wait() == -9
        later.wait()
    assert capsys.readouterr().err == "Another run is training the target: waiting for it to end.\n"
