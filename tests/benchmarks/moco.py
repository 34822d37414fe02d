"""MoCo's steps through `hf_mia.recipes.pretraining.pretrain` against their passes alone, in one run.

The floor is the same passes of ResNet18 (width 64, 32 x 32, batches of 64) on views that are ready, ratio 1: query
forward and backward, key forward without gradient, a fused SGD step. Drawing and augmenting two views an image comes on
top. Both must end with the same weights.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from measured import medians, verdict

from hf_mia.recipes.contrastive import MoCo
from hf_mia.recipes.learners import MoCoLearner
from hf_mia.recipes.pretraining import pairs, pretrain

STEPS, SEED, BAR = 2, 3, 1.15
PLAN = MoCo(batch=64, epochs=1)


def bare(learner: MoCoLearner, ready: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    learner.to(memory_format=torch.channels_last).train()
    learned = list(learner.queries.parameters())
    optimizer = torch.optim.SGD(learned, PLAN.learning_rate, PLAN.momentum, weight_decay=PLAN.decay, fused=True)
    for one, other in ready:
        loss = learner(one, other)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    start = PLAN.learner(PLAN.module())
    images = torch.randint(256, (STEPS * PLAN.batch, 3, 32, 32), dtype=torch.uint8)
    accelerator = Accelerator(cpu=True)
    ready = list(pairs(images, PLAN, SEED * 1_000_003, accelerator.device))
    ends: dict[str, MoCoLearner] = {}

    def theirs() -> None:
        ends["bare"] = deepcopy(start)
        bare(ends["bare"], ready)

    def ours() -> None:
        ends["ours"] = deepcopy(start)
        encoder = ends["ours"].queries.encoder
        with tempfile.TemporaryDirectory() as folder:
            pretrain(ends["ours"], encoder, images, PLAN, SEED, Path(folder), accelerator, lambda *_: None)

    def views() -> None:
        list(pairs(images, PLAN, SEED * 1_000_003, accelerator.device))

    bare_s, ours_s, views_s = medians(theirs, ours, views, rounds=3)
    states = ends["bare"].state_dict(), ends["ours"].state_dict()
    if any(not torch.equal(states[0][name], states[1][name]) for name in states[0]):
        print("the two end with different weights")
        return 1
    print(f"{STEPS} steps of {PLAN.batch}: bare {bare_s:.3f} s, ours {ours_s:.3f} s; views alone {views_s:.3f} s")
    return verdict("moco", ours_s / bare_s, BAR)


if __name__ == "__main__":
    sys.exit(main())
