"""What befalls several processes of one audit, each kind of fault a row of the table that `tests/faults.py` prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import launchers
from trials import Place, Tried, again, ended, ranks

MINUTE = 60.0
LIMIT = 600.0
FAILING = {"training": 1, "inference": 0}  # who fails where: there is one chunk to ask about, which the first one has


def launches(config: Path, folder: Path, expected: bytes, takes: float) -> Iterator[Tried]:
    """Every fault of this kind, one after the other."""
    yield two_ranks(config, folder, expected)
    for rank in range(2):
        yield dead_rank(config, folder, expected, takes, rank)
    for fault in ("raises-training", "raises-inference", "killed-inference"):
        yield failing_rank(config, folder, expected, fault)
    yield unshared(config, folder)
    for name, launch in {"torchrun": launchers.torchrun, "accelerate launch": launchers.accelerate}.items():
        yield launched(config, folder, expected, name, launch)
    yield two_machines(config, folder, expected)


def two_ranks(config: Path, folder: Path, expected: bytes) -> Tried:
    place = Place.at(config, folder / "ranks")
    good = [ended(process) == 0 for process in ranks(place)]
    return Tried("two ranks of one launch", 1, int(all(good) and place.report == expected))


def dead_rank(config: Path, folder: Path, expected: bytes, takes: float, dying: int) -> Tried:
    """One rank is killed: the other stops within a minute, with an error; the rerun goes on from there."""
    place = Place.at(config, folder / f"dead-rank-{dying}")
    both = ranks(place)
    time.sleep(takes / 2)
    both[dying].kill()
    both[dying].join()
    status = ended(both[1 - dying], MINUTE)
    stopped = status is not None and (status != 0 or place.report == expected)
    return _rerun(f"rank {dying} of two killed", place, expected, stopped)


def failing_rank(config: Path, folder: Path, expected: bytes, fault: str) -> Tried:
    """One rank fails, while the other trains or waits: that one stops within a minute with its error."""
    place, failing = Place.at(config, folder / fault), FAILING[fault.partition("-")[2]]
    both = ranks(place, fault, failing)
    ended(both[failing])
    stopped = ended(both[1 - failing], MINUTE) == 3 and f"hf-mia: process {failing} of 2 " in place.log
    how = {"raises": "raises", "killed": "is killed"}[fault.partition("-")[0]]
    return _rerun(f"one of two ranks {how} in {fault.partition('-')[2]}", place, expected, stopped)


def _rerun(fault: str, place: Place, expected: bytes, stopped: bool) -> Tried:
    before = place.whole()
    good = [ended(process) == 0 for process in ranks(place)]
    return Tried(fault, 1, int(stopped and all(good) and place.report == expected), again(before, place.whole()))


def unshared(config: Path, folder: Path) -> Tried:
    """Two ranks with caches of their own: both say so, and neither makes anything."""
    here = Place.at(config, folder / "unshared")
    there = Place.at(config, folder / "unshared-other")
    said = [ended(process, 2 * MINUTE) == 2 for process in ranks(here, other=there)]
    clear = all("set --cache" in place.log and not place.whole() for place in (here, there))
    return Tried("two machines that share no cache: an error", 1, int(all(said) and clear))


def launched(config: Path, folder: Path, expected: bytes, name: str, launch: Callable[..., launchers.Started]) -> Tried:
    """A rank is killed under a launcher: the launch ends, and the next one with the report of one process."""
    place = Place.at(config, folder / name.replace(" ", "-"))
    stopped = launchers.ended(launch(place, ("killed-training", "1")), LIMIT) not in (0, None)
    before = place.whole()
    good = stopped and launchers.ended(launch(place), LIMIT) == 0 and place.report == expected
    return Tried(f"a rank killed under {name}", 1, int(good), again(before, place.whole()))


def two_machines(config: Path, folder: Path, expected: bytes) -> Tried:
    """Two network namespaces, or where none can be made two launchers on one machine; a rank of one is killed."""
    here = Place.at(config, folder / "machines")
    places = [here, launchers.logged(here, "other")]
    with launchers.wired() as (wire, machines):
        started = launchers.nodes(machines, places, ("killed-training", "1"))
        stopped = all(launchers.ended(node, LIMIT) not in (0, None) for node in started)
        before = here.whole()
        good = [launchers.ended(node, LIMIT) == 0 for node in launchers.nodes(machines, places)]
    survived = stopped and all(good) and here.report == expected
    return Tried(f"a rank killed on one of two machines ({wire})", 1, int(survived), again(before, here.whole()))
