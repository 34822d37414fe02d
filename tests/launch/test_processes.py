"""Many processes in one audit: they end as one does, and where one fails, all stop with its error and can go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import launchers
import pytest
import torch
import yaml
from trials import SAID, Place, ended, ranks

from hf_mia.launch.processes import _equipped, joined

Whole = tuple[Place, bytes, float]
MINUTE = 60.0
LIMIT = 280.0
WORDS = {"raises": rf"failed: RuntimeError: {SAID}", "killed": "ended without a word: it was killed"}


@pytest.mark.parametrize(("fault", "failing"), [("raises-training", 1), ("killed-inference", 0)])
def test_where_one_fails_the_other_stops_with_its_error_and_the_rerun_ends(
    whole: Whole, tmp_path: Path, fault: str, failing: int
) -> None:
    """No launcher watches over them, and the other one is busy; within a minute of the end of the first it ends."""
    place = Place.at(whole[0].config, tmp_path / "failing")
    both = ranks(place, fault, failing)
    assert ended(both[failing]) == {"raises": 1, "killed": -9}[fault.partition("-")[0]]
    assert ended(both[1 - failing], MINUTE) == 3, place.log
    assert re.search(rf"hf-mia: process {failing} of 2 .*{WORDS[fault.partition('-')[0]]}", place.log)
    assert [ended(process) for process in ranks(place)] == [0, 0], place.log
    assert place.report == whole[1]


def test_bad_input_on_one_machine_is_heard_on_the_other(whole: Whole, tmp_path: Path) -> None:
    """Before any model is trained, where the data is there on one machine only, for instance."""
    place = Place.at(whole[0].config, tmp_path / "bad")
    config = tmp_path / "other.yaml"
    config.write_text(place.config.read_text().replace("texts.parquet", "nowhere.parquet"))
    other = replace(place, config=config, log_file=tmp_path / "other.log")
    assert [ended(process, 2 * MINUTE) for process in ranks(place, other=other)] == [3, 2]
    assert "process 1 of 2" in place.log
    assert "nowhere.parquet" in place.log


def test_machines_that_share_no_cache_are_told_so(whole: Whole, tmp_path: Path) -> None:
    here, there = (Place.at(whole[0].config, tmp_path / name) for name in ("here", "there"))
    assert [ended(process, 2 * MINUTE) for process in ranks(here, other=there)] == [2, 2]
    for place in (here, there):
        assert re.search(r"hf-mia: the cache .*here/cache of process 0 .* processes \[1\].* set --cache", place.log)
        assert not place.whole()


def test_processes_with_other_configs_are_told_so(whole: Whole, tmp_path: Path) -> None:
    place = Place.at(whole[0].config, tmp_path / "two-configs")
    config = yaml.safe_load(place.config.read_text())
    config["target"]["epochs"] += 1
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    other = replace(place, config=tmp_path / "other.yaml", log_file=tmp_path / "other.log")
    assert [ended(process, 2 * MINUTE) for process in ranks(place, other=other)] == [2, 2]
    assert all("processes [1] train other models than process 0" in one.log for one in (place, other))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "failing"), [("raises-training", 1), ("raises-inference", 0), ("killed-training", 1)]
)
def test_torchrun_stops_with_the_error_of_who_failed(whole: Whole, tmp_path: Path, fault: str, failing: int) -> None:
    place = Place.at(whole[0].config, tmp_path / "torchrun")
    assert launchers.ended(launchers.torchrun(place, (fault, str(failing))), LIMIT) == 1
    cause = place.log.rpartition("Root Cause")[2]
    assert re.search(rf"rank +: {failing} ", cause)
    assert (SAID if fault.startswith("raises") else "exitcode  : -9") in cause, place.log
    assert launchers.ended(launchers.torchrun(place), LIMIT) == 0, place.log
    assert place.report == whole[1]


@pytest.mark.slow
@pytest.mark.parametrize("launch", [launchers.torchrun, launchers.accelerate])
def test_a_launchers_two_processes_end_as_one(whole: Whole, tmp_path: Path, launch: Callable[[Place], object]) -> None:
    place = Place.at(whole[0].config, tmp_path / "launched")
    assert launchers.ended(launch(place), LIMIT) == 0, place.log  # type: ignore[arg-type]
    assert re.search(r"\(1 of 1 here\)", place.log)  # of three models a process has two, and another one
    assert place.report == whole[1]


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["namespaces", "loopback"])
def test_two_machines_end_as_one_and_stop_together(whole: Whole, tmp_path: Path, wire: str) -> None:
    """One torchrun a machine, which meet at the first: first one process is killed, then nothing."""
    here = Place.at(whole[0].config, tmp_path / "machines")
    places = [here, launchers.logged(here, "other")]
    try:
        with getattr(launchers, wire)() as machines:
            first, second = launchers.nodes(machines, places, ("killed-training", "1"))
            assert {launchers.ended(second, LIMIT), launchers.ended(first, LIMIT)} == {1}
            assert any("process 1 of 2 ended without a word" in place.log for place in places)
            assert [launchers.ended(node, LIMIT) for node in launchers.nodes(machines, places)] == [0, 0], here.log
    except PermissionError as error:
        pytest.skip(str(error))
    assert here.report == whole[1]


def test_more_processes_than_gpus_are_told_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything asks for a GPU that is not there; where processors are chosen, GPUs do not count."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    with pytest.raises(ValueError, match=r"has 2 GPUs, and none is left for its process 2: start 2 processes.*--cache"):
        joined()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    _equipped()
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setenv("LOCAL_RANK", "1")
    _equipped()
