"""A run folder is put in place whole: a run that cannot be written leaves the one before it as it was."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mia.audits.folder import read_evidence, replaced, write_evidence
from hf_mia.core import Evidence


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


def test_evidence_comes_back_to_the_bit_with_its_references(tmp_path: Path) -> None:
    rng, names = np.random.default_rng(0), ("a", "b", "c")
    member = np.array([1.0, 0.0, np.nan])
    reference = Evidence(rng.normal(size=(3, 2)), member, names)
    given = Evidence(rng.normal(size=(3, 4))[:, ::-1], member, names, (reference,), np.array([2, 0, 2]))
    write_evidence(given, tmp_path / "target.parquet")
    found = read_evidence(tmp_path / "target.parquet")
    for one, other in ((found, given), (found.references[0], reference)):
        assert one.features.tobytes() == other.features.tobytes()
        np.testing.assert_array_equal(one.member, other.member)
        assert one.names == names
    np.testing.assert_array_equal(found.group, given.group)
    rows = pq.read_table(tmp_path / "target.parquet")["features"].to_pylist()  # as any other reader has it
    assert rows == given.features.tolist()


@pytest.mark.parametrize("rows", [[[1.0], [1.0, 2.0]], [[1.0], None], []], ids=["ragged", "null", "none"])
def test_evidence_of_different_widths_is_refused(tmp_path: Path, rows: list[list[float] | None]) -> None:
    columns = {"unit": pa.array([str(i) for i in range(len(rows))], pa.string())}
    columns["member"] = pa.array([0.0] * len(rows), pa.float64())
    columns["features"] = pa.array(rows, pa.list_(pa.float64()))
    pq.write_table(pa.table(columns), tmp_path / "target.parquet")
    with pytest.raises(ValueError, match="as many features of each unit"):
        read_evidence(tmp_path / "target.parquet")
