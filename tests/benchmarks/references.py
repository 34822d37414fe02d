"""Seconds a unit that LiRA and RMIA take for 1,000,000 units and 64 references, over those for 100,000, in one run.

The floor is 1: time is linear in the units; RMIA sorts besides. Also within bars of their own: 60 s of processor time
and 2 GB of memory beyond the input for 1,000,000 units. Memory is the peak of what numpy allocates while an attack
scores, traced in a run of its own, because tracing takes time.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
from measured import medians, verdict

from hf_mia.attacks.lira import LiRA, OfflineLiRA
from hf_mia.attacks.rmia import BASE, RMIA, OfflineRMIA
from hf_mia.core import Attack, Evidence
from hf_mia.signals.language import MeanRank

FEW, MANY, REFERENCES, ROUNDS = 100_000, 1_000_000, 64, 3
BAR, SECONDS, GIGABYTES = 1.5, 60, 2.0
SIGNAL = MeanRank()
ATTACKS = (LiRA(SIGNAL), LiRA(SIGNAL, "each"), OfflineLiRA(SIGNAL), RMIA(SIGNAL), OfflineRMIA(SIGNAL), BASE(SIGNAL))


def evidence(units: int) -> Evidence:
    """Log-probabilities of `units` units by a target and by references, each trained on half of them."""
    rng, names = np.random.default_rng(0), tuple(map(str, range(units)))

    def one(member: np.ndarray) -> Evidence:
        return Evidence(-rng.standard_exponential((units, 1)) * np.where(member[:, None] == 1, 1, 2), member, names)

    references: list[Evidence] = []
    for _ in range(REFERENCES // 2):
        half = rng.integers(2, size=units).astype(np.float64)
        references += [one(half), one(1 - half)]
    return Evidence(one(half).features, np.full(units, np.nan), names, tuple(references))


def scoring(attack: Attack, given: Evidence) -> Callable[[], object]:
    score = attack.fit([]).score
    return lambda: score(given)


def repeated(score: Callable[[], object], times: int) -> Callable[[], object]:
    """As many units in all, so that the two sides take as long where time is linear."""
    return lambda: [score() for _ in range(times)]


def peak(score: Callable[[], object]) -> float:
    """Gigabytes allocated at once, beyond what there was before."""
    tracemalloc.start()
    score()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found / 1e9


def main() -> int:
    few, many = evidence(FEW), evidence(MANY)
    ratios, failed = [], 0
    for attack in ATTACKS:
        small, large = scoring(attack, few), scoring(attack, many)
        seconds, gigabytes = medians(repeated(small, MANY // FEW), large, rounds=ROUNDS), peak(large)
        ratios.append(seconds[1] / seconds[0])
        failed |= seconds[1] > SECONDS or gigabytes > GIGABYTES
        print(
            f"{attack}: {seconds[1]:.2f} s (bar {SECONDS} s), {gigabytes:.3f} GB beyond the input "
            f"(bar {GIGABYTES:g} GB), {ratios[-1]:.2f} times the seconds a unit for {FEW:,}"
        )
    return verdict("references", max(ratios), BAR) | int(failed)


if __name__ == "__main__":
    sys.exit(main())
