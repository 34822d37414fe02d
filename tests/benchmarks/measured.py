"""What the programs of this folder share: both sides in one run, interleaved, one thread, and one last line."""

from __future__ import annotations

import time
from collections.abc import Callable

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
