"""What the programs of this folder share: both sides in one run, interleaved, one thread, and one last line."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def medians(*sides: Callable[[], object], rounds: int = 7) -> list[float]:
    """Median seconds of processor time of each side, taken in turns (A B A B ...) after one round to warm up.

    Processor time, because other programs may hold the cores: they slow it far less than the clock on the wall.
    """
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 1):
        for side, found in zip(sides, times, strict=True):
            start = time.process_time()
            side()
            found.append(time.process_time() - start)
    return [float(np.median(found[1:])) for found in times]


def verdict(name: str, ratio: float, bar: float, at_least: bool = False) -> int:
    """Print `NAME: RATIO (bar BAR)`; 1, the exit status, where the ratio falls short of the bar."""
    print(f"{name}: {ratio:.3g} (bar {bar:g})")
    return int(ratio < bar if at_least else ratio > bar)


def memory(name: str, what: str, few: int, many: int, bar: float, ask: Callable[[int, Path], None]) -> int:
    """The verdict on the peak memory of `ask` about `many` over `few`, each in a process that starts without the rest.

    A program calls this in its `main`: started with a number as its argument, it asks about so many and says its peak.
    """
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder:
            ask(int(sys.argv[1]), Path(folder))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return 0
    peaks = []
    for count in (few, many):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        command = [sys.executable, sys.argv[0], str(count)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        peaks.append(int(answer.stdout.split()[-1]))
        print(f"{count:,} {what}: {peaks[-1] / 1024:,.0f} MiB")
    return verdict(name, peaks[1] / peaks[0], bar)
