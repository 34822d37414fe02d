"""What a killed process left half written goes with the next run; what a living one is writing stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from waiting import waiting

from hf_mia.core import Pool
from hf_mia.models.language import language_model
from hf_mia.probes.tokens import Tokens
from hf_mia.runner import Runner
from hf_mia.storage.leftovers import sweep, writing

WRITER = """
import sys
from pathlib import Path
from hf_mia.storage.leftovers import writing
with writing(Path(sys.argv[1])) as name:
    for folder in (Path(sys.argv[1]) / "answers" / "key", Path(sys.argv[1]) / "replies" / "key" / "ab"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"000000.{name}.tmp").write_text("half")
    print("at it", flush=True)
    sys.stdin.read()
"""


def test_only_what_the_dead_left_is_taken_away(tmp_path: Path) -> None:
    with waiting(WRITER, tmp_path, "at it") as dead, waiting(WRITER, tmp_path, "at it"):
        dead.kill()
        dead.wait()
        assert len(list(tmp_path.rglob("*.tmp"))) == 2 * len(list(tmp_path.rglob("*.lock"))) == 4
        sweep(tmp_path)
        (lock,) = tmp_path.rglob("*.lock")
        left = list(tmp_path.rglob("*.tmp"))
        assert len(left) == 2
        assert all(lock.stem in path.name for path in left)
    sweep(tmp_path)
    assert not [*tmp_path.rglob("*.tmp"), *tmp_path.rglob("*.lock")]


def test_who_ends_well_leaves_no_lock(tmp_path: Path) -> None:
    with writing(tmp_path) as one, writing(tmp_path) as other:
        assert one != other
    assert not list(tmp_path.rglob("*.lock"))


def test_asking_takes_leftovers_away(gpt2_folder: Path, small_pool: Pool, tmp_path: Path) -> None:
    with waiting(WRITER, tmp_path, "at it"):
        pass
    assert list(tmp_path.rglob("*.tmp"))
    Runner(tmp_path)(language_model(gpt2_folder), Tokens(), small_pool.records)
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_fails_to_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), writing(tmp_path):
        raise OSError("full")
    assert not list(tmp_path.rglob("*.lock"))
