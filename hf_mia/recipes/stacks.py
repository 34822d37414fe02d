"""Many small models at once: one module whose parameters have a leading dimension of models.

What a small model costs is mostly the calls of its kernels; side by side, as many models take one call where each took
one. Layers must know the leading dimension, as `architectures.classifiers.Dense` does, and share nothing over a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hf_mia.recipes.checkpoint import restore, save
from hf_mia.recipes.feeds import Feed
from hf_mia.recipes.fitting import optimizer_of, steps

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_mia.recipes import Progress
    from hf_mia.recipes.classifier import Classifier


@dataclass(frozen=True, eq=False)
class Learner:
    """One of the models: its module, what its optimizer remembers, its seed, and the folder of its checkpoints."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    seed: int
    folder: Path


def fit_side_by_side(
    modules: Sequence[torch.nn.Module],
    feed: Feed,
    plan: Classifier,
    seeds: Sequence[int],
    folders: Sequence[Path],
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Train the modules in place, alike but for their weights, on a feed (models, n) of each one's records.

    Each goes on from the last checkpoint in its own folder, whoever stood beside it then: those that are equally far go
    on together. A model learns the same in any company, alone too.
    """
    learners = [
        Learner(module, optimizer_of(module.to(accelerator.device).parameters(), plan, fused=False), seed, folder)
        for module, seed, folder in zip(modules, seeds, folders, strict=True)
    ]
    done = [restore(one.folder, one.module, one.optimizer) for one in learners]
    for first in sorted({*done}):
        here = [model for model, epochs in enumerate(done) if epochs == first]
        _go_on([learners[model] for model in here], feed.of(here), plan, first, accelerator, progress)


def _go_on(
    learners: Sequence[Learner], feed: Feed, plan: Classifier, first: int, accelerator: Accelerator, progress: Progress
) -> None:
    stack, optimizer = stacked(learners, plan)

    def keep(epoch: int) -> None:
        unstack(stack, optimizer, learners)
        for one in learners:
            save(one.folder, one.module, one.optimizer, epoch)

    steps(stack, optimizer, feed, plan, [one.seed for one in learners], first, keep, accelerator, progress)
    unstack(stack, optimizer, learners)
    for one in learners:
        one.module.eval()


def stacked(learners: Sequence[Learner], plan: Classifier) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """One module in the place of many, and one optimizer, which remembers what each of theirs does."""
    stack = deepcopy(learners[0].module)
    every = [list(one.module.parameters()) for one in learners]
    for parameter, *own in zip(stack.parameters(), *every, strict=True):
        parameter.data = torch.stack([one.detach() for one in own])
    optimizer = optimizer_of(stack.parameters(), plan, fused=False)
    for parameter, *own in zip(stack.parameters(), *every, strict=True):
        states = [one.optimizer.state[mine] for one, mine in zip(learners, own, strict=True)]
        for name, value in states[0].items():
            scalar = value is None or value.dim() == 0  # such as the number of steps: the same for all
            optimizer.state[parameter][name] = value if scalar else torch.stack([state[name] for state in states])
    return stack, optimizer


def unstack(stack: torch.nn.Module, optimizer: torch.optim.Optimizer, learners: Sequence[Learner]) -> None:
    """Give every model its weights, and its optimizer what it shall remember."""
    with torch.no_grad():
        for model, one in enumerate(learners):
            for parameter, own in zip(stack.parameters(), one.module.parameters(), strict=True):
                own.copy_(parameter[model])
                for name, value in optimizer.state[parameter].items():
                    scalar = value is None or value.dim() == 0
                    one.optimizer.state[own][name] = value if scalar else value[model].clone()
