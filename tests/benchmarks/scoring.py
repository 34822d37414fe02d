"""Seconds that the slowest attack takes to score saved logits: 2,000 units, 10 classes, 16 references; over 0.1 s.

From arrays to scores, one thread, processor time; each attack by itself. All attacks are those of PAPERS that read a
classifier's outputs and train none of their own. The floor, in the same run: numpy's exponentials of the 17 x 2,000 x
10 logits, without which nothing can be read. Told beside: all attacks together in one pass, and all reports, for which
every attack that compares also plays each reference against the others to choose a threshold, without the intervals.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from measured import medians, verdict

from hf_mia.core import Attack
from hf_mia.saved.arrays import Reference, heard

UNITS, CLASSES, PAIRS, SECONDS, BAR = 2000, 10, 8, 0.1, 1.0


def main() -> int:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=UNITS)

    def said(member: np.ndarray) -> np.ndarray:
        logits = rng.normal(size=(UNITS, CLASSES)).astype(np.float32)
        logits[np.arange(UNITS), labels] += 1 + 2 * member
        return logits

    halves = [rng.permutation(UNITS) < UNITS // 2 for _ in range(PAIRS)]
    references = [Reference(logits=said(side), member=side) for half in halves for side in (half, ~half)]
    member = rng.permutation(UNITS) < UNITS // 2
    target = said(member)
    every = np.array([target, *(one.logits for one in references)], dtype=np.float64)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        given = heard(logits=target, labels=labels, references=references)
        attacks = given.by_default()
        given.hear(attacks.values())
        found.update({name: given.scores(attack) for name, attack in attacks.items()})

    def reports() -> None:
        given = heard(logits=target, labels=labels, references=references)
        attacks = given.by_default()
        given.hear(attacks.values())
        for name, attack in attacks.items():
            given.report(attack, member, name)

    def alone(attack: Attack) -> Callable[[], object]:
        return lambda: heard(logits=target, labels=labels, references=references).scores(attack)

    floor, together, full = medians(lambda: np.exp(every), ours, reports)
    attacks = heard(logits=target, labels=labels, references=references).by_default()
    seconds = dict(zip(attacks, medians(*map(alone, attacks.values())), strict=True))
    for name, took in seconds.items():
        print(f"{name:28} {took:.4f} s")
    print(f"all {len(found)}: {together:.3f} s, their reports {full:.3f} s; exponentials alone {floor:.4f} s")
    return verdict("scoring", max(seconds.values()) / SECONDS, BAR)


if __name__ == "__main__":
    sys.exit(main())
