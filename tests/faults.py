"""Faults tried on a tiny audit, and what they cost: `python tests/faults.py --kills 20 --seed 0 --scale`.

Every audit runs in a process of its own, forked from one that has imported the libraries. A fault is survived if the
audit, run again, ends with the report that an undisturbed run gave, byte for byte; what it `lost` are finished shards
and models that were made again though they were whole. Exit status 1 where any was not survived, or anything was lost.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lost import launches
from trials import Place, Tried, again, ended, finished, prepared, start, undisturbed


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
        survived += row * (finished(place, expected) and not list(place.cache.rglob("*.tmp")))
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
    lines = [f"{'fault':60} {'tried':>6} {'survived':>9} {'lost':>5}"]
    total = replace(rows[0], fault="all", **{name: sum(getattr(row, name) for row in rows) for name in COUNTS})
    return "\n".join([*lines, *(f"{r.fault:60} {r.tried:6} {r.survived:9} {r.lost:5}" for r in [*rows, total])])


COUNTS = ("tried", "survived", "lost")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", action="store_true", help="also run tests/scale.py, and show its ratios")
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
        for row in launches(config, folder, expected, takes):
            tell(row)
        for share in (0.2, 0.5, 0.8):
            tell(full_disk(whole, folder, share))
        tell(kills(config, folder, expected, takes, given.kills, random.Random(given.seed)))
    print(table(rows))
    scaled = scale() if given.scale else 0
    return int(scaled != 0 or any(row.survived < row.tried or row.lost for row in rows))


def scale() -> int:
    """Run the program of scale, which prints its own table; its exit status."""
    return subprocess.run([sys.executable, str(Path(__file__).with_name("scale.py"))], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
