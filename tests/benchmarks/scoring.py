"""Seconds that all attacks take to score the saved logits of 2,000 units of 10 classes with 16 references, over 0.1 s.

From arrays to scores, one thread, processor time. All attacks are those of PAPERS that read a classifier's outputs and
train none of their own. The floor, in the same run: numpy's exponentials of the 17 x 2,000 x 10 logits, without which
nothing can be read. Reports, for which every attack that compares also plays each reference against the others to
choose a threshold, take longer: their seconds are told beside, without the bootstrap of intervals.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from measured import medians, verdict

from hf_mia.arrays import Reference, heard

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

    floor, seconds, full = medians(lambda: np.exp(every), ours, reports)
    print(f"{len(found)} attacks: {seconds:.3f} s, reports {full:.3f} s; exponentials alone {floor:.4f} s")
    return verdict("scoring", seconds / SECONDS, BAR)


if __name__ == "__main__":
    sys.exit(main())
