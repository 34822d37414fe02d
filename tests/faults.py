"""Faults tried on a tiny audit, and what they cost: `python tests/faults.py --kills 20 --seed 0`.

Every audit runs in a process of its own, forked from one that has imported the libraries. A fault is survived if the
audit, run again, ends with the report that an undisturbed run gave, byte for byte; what it `lost` are finished shards
and models that were made again though they were whole. Exit status 1 where any was not survived, or anything was lost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

TOKEN = "hf_" + "PlantedInTheEnvironment"  # in the environment of every audit
LIMIT = 600.0  # seconds that an audit may take on a busy machine
PRELOADED = [
    "hf_mia.cli.main",
    "hf_mia.audits.run",
    "hf_mia.queries.calibration",
    "hf_mia.audits.folder",
    "hf_mia.queries.keeping",
    "hf_mia.audits.table",
]
PRELOADED += ["hf_mia.cli.gate", "hf_mia.recipes.loop", "hf_mia.architectures.recurrent", "hf_mia.recipes.vocabulary"]
PRELOADED += ["accelerate", "datasets", "transformers", "sklearn.svm", "torch.distributed", "pyarrow.parquet"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Place:
    """Where an audit runs: its config, its cache, its run folder, and a log of all that it said."""

    config: Path
    folder: Path
    log_file: Path

    @classmethod
    def at(cls, config: Path, folder: Path) -> Place:
        """The log is beside the folder, on another disk where the folder is one."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        return cls(config, folder, config.parent / "logs" / f"{folder.name}.log")

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def report(self) -> bytes:
        path = self.folder / "run" / "report.json"
        return path.read_bytes() if path.exists() else b""

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def whole(self) -> dict[Path, int]:
        """The finished shards and models, and when each was written."""
        found = [*self.cache.glob("answers/*/*.parquet"), *self.cache.glob("models/*/model.safetensors")]
        return {path: path.stat().st_mtime_ns for path in found if ".unfinished" not in str(path)}


@dataclass(frozen=True)
class Tried:
    """One kind of fault: how often it was tried and survived, and how many whole things were made again."""

    fault: str
    tried: int
    survived: int
    lost: int = 0


def _audit(place: Place, environment: Mapping[str, str]) -> None:
    """What a process does: `hf-mia audit`, all it says into the log."""
    os.environ.update({"HF_TOKEN": TOKEN, **environment})
    with place.log_file.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import torch

    from hf_mia.cli.main import app

    torch.set_num_threads(1)
    app(["audit", str(place.config), "--cache", str(place.cache), "--out", str(place.folder / "run")])


def start(place: Place, environment: Mapping[str, str] | None = None) -> ForkServerProcess:
    for folder in (place.folder, place.log_file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    process = FORKS.Process(target=_audit, args=(place, dict(environment or {})), daemon=True)
    process.start()
    return process


def ended(process: ForkServerProcess, limit: float = LIMIT) -> int | None:
    """The exit status of an audit; None where it hung, and was killed."""
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def finished(place: Place, expected: bytes) -> bool:
    """Whether a run, or a rerun, ends well and with the expected report."""
    return ended(start(place)) == 0 and place.report == expected


def again(before: Mapping[Path, int], after: Mapping[Path, int]) -> int:
    """How many of what was whole was made again, or is gone."""
    return sum(after.get(path) != written for path, written in before.items())


def prepared(folder: Path) -> Path:
    """The config of an audit of a few seconds: a target and two shadows of 16 users, two attacks, one that compares."""
    import worlds
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    content = worlds.config(worlds.write(folder / "texts.parquet", 16), 16, epochs=8, shadows=2)
    content |= {"attacks": ["mean-loss", "reference"], "controls": [], "fprs": [0.1]}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder / "config.yaml"


def undisturbed(config: Path, folder: Path) -> tuple[Place, bytes, float]:
    """A whole run, its report, and how long it took when all was imported."""
    place = Place.at(config, folder)
    begin = time.monotonic()
    if ended(start(place)) != 0:
        raise RuntimeError(f"the undisturbed audit failed:\n{place.log[-2000:]}")
    first = time.monotonic() - begin
    begin = time.monotonic()
    other = Place.at(config, folder.with_name(f"{folder.name}-again"))
    if not finished(other, place.report):
        raise RuntimeError("two undisturbed audits differ")
    return place, place.report, min(first, time.monotonic() - begin)


def kills(config: Path, folder: Path, expected: bytes, takes: float, count: int, rng: random.Random) -> Tried:
    """SIGKILL at random moments of a run, up to four in a row on one cache, and a rerun that ends."""
    survived = lost = done = 0
    while done < count:
        place, row = Place.at(config, folder / f"kills-{done}"), min(4, count - done)
        for _ in range(row):
            before = place.whole()
            process = start(place)
            time.sleep(rng.uniform(0.1, takes))
            process.kill()
            process.join()
            lost += again(before, place.whole())
        before = place.whole()
        survived += row * finished(place, expected)
        lost += again(before, place.whole())
        done += row
    return Tried("SIGKILL at a random moment", count, survived, lost)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_version(path: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"hf_mia.version": b"0.0.1"}), path)


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a shard with a flipped bit": ("answers/*/*.parquet", flipped),
    "a truncated shard": ("answers/*/*.parquet", truncated),
    "a shard of another version": ("answers/*/*.parquet", of_another_version),
    "a model with a flipped bit": ("models/*/model.safetensors", flipped),
    "a truncated model": ("models/*/model.safetensors", truncated),
}


def damage(whole: Place, folder: Path, fault: str) -> Tried:
    """A copy of a finished run's cache with one damaged file: only that is made again, and a warning names it."""
    place = Place.at(whole.config, folder / fault.replace(" ", "-"))
    shutil.copytree(whole.cache, place.cache)
    pattern, harm = DAMAGES[fault]
    victim = sorted(place.cache.glob(pattern))[0]
    harm(victim)
    before = {path: written for path, written in place.whole().items() if path != victim}
    good = finished(place, whole.report) and victim.parent.name in place.log
    same = victim.read_bytes() == (whole.cache / victim.relative_to(place.cache)).read_bytes()
    return Tried(fault, 1, int(good and same), again(before, place.whole()))


def two_at_once(config: Path, folder: Path, expected: bytes) -> Tried:
    """Two runs of one audit on one cache and one run folder, both to the end."""
    place = Place.at(config, folder / "two")
    both = [start(place), start(place)]
    good = [ended(process) == 0 for process in both]
    return Tried("two runs on one cache", 1, int(all(good) and place.report == expected))


def one_of_two_killed(config: Path, folder: Path, expected: bytes, takes: float) -> Tried:
    """Two runs on one cache, the first killed under way: the second takes over."""
    place = Place.at(config, folder / "taken-over")
    first = start(place)
    time.sleep(takes / 4)
    second = start(place)
    time.sleep(takes / 4)
    first.kill()
    first.join()
    return Tried("one of two runs killed", 1, int(ended(second) == 0 and place.report == expected))


def ranks(place: Place) -> list[ForkServerProcess]:
    """Two processes of one launch, as `torchrun --nproc_per_node 2` starts them, without its agent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"ACCELERATE_USE_CPU": "1"}
    return [start(place, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]


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
    status = ended(both[1 - dying], 60.0)
    stopped = status is not None and (status != 0 or place.report == expected)
    before = place.whole()
    good = [ended(process) == 0 for process in ranks(place)]
    survived = stopped and all(good) and place.report == expected
    return Tried(f"rank {dying} of two killed", 1, int(survived), again(before, place.whole()))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[], None]]:
    """A disk of `size` bytes; what is given makes it large. PermissionError where nothing may be mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        raise PermissionError("no disk can be mounted here")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(whole: Place, folder: Path, share: float) -> Tried:
    """A disk that holds a share of what the audit writes: one line says so, no torn file stays; with room it ends."""
    needed = sum(path.stat().st_size for path in whole.folder.rglob("*") if path.is_file())
    fault = f"a disk full at {share:.0%}"
    try:
        with small_disk(folder / f"disk-{share}", int(needed * share)) as enlarge:
            place = Place.at(whole.config, folder / f"disk-{share}" / f"audit-{share}")
            said = ended(start(place)) == 2 and "run again" in place.log and not place.report
            enlarge()
            before = place.whole()
            return Tried(fault, 1, int(said and finished(place, whole.report)), again(before, place.whole()))
    except PermissionError:
        return Tried(f"{fault}: not tried, it takes the right to mount", 0, 0)


def table(rows: list[Tried]) -> str:
    lines = [f"{'fault':50} {'tried':>6} {'survived':>9} {'lost':>5}"]
    total = replace(rows[0], fault="all", **{name: sum(getattr(row, name) for row in rows) for name in COUNTS})
    return "\n".join([*lines, *(f"{r.fault:50} {r.tried:6} {r.survived:9} {r.lost:5}" for r in [*rows, total])])


COUNTS = ("tried", "survived", "lost")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows: list[Tried] = []

    def tell(row: Tried) -> None:
        rows.append(row)
        print(f"{row.fault}: {row.survived} of {row.tried} survived, {row.lost} lost", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        config = prepared(folder)
        whole, expected, takes = undisturbed(config, folder / "whole")
        print(f"undisturbed: {takes:.1f} s", file=sys.stderr, flush=True)
        for fault in DAMAGES:
            tell(damage(whole, folder, fault))
        tell(two_at_once(config, folder, expected))
        tell(one_of_two_killed(config, folder, expected, takes))
        tell(two_ranks(config, folder, expected))
        for rank in range(2):
            tell(dead_rank(config, folder, expected, takes, rank))
        for share in (0.2, 0.5, 0.8):
            tell(full_disk(whole, folder, share))
        tell(kills(config, folder, expected, takes, given.kills, random.Random(given.seed)))
    print(table(rows))
    return int(any(row.survived < row.tried or row.lost for row in rows))


if __name__ == "__main__":
    sys.exit(main())
