"""Sixteen small networks trained by `hf_mia.recipes.stacks` against a bare PyTorch loop over them, in one run.

The floor is the bare loop, ratio 1: the same 32-128-10 networks one after another, 1,000 records each, the same batches
of 32 in the same order, cross-entropy and Adam, and no progress, no checkpoint, no device. Both must end with the same
weights, up to the rounding of the steps.
"""

from __future__ import annotations

import sys
import tempfile
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from measured import medians, verdict
from torch.nn.functional import cross_entropy

from hf_mia.architectures.classifiers import Dense
from hf_mia.collate import Batch
from hf_mia.recipes.classifying import ImageClassifier
from hf_mia.recipes.feeds import Feed, Rows
from hf_mia.recipes.stacks import fit_side_by_side

MODELS, RECORDS, INPUTS, HIDDEN, CLASSES, BAR = 16, 1000, 32, 128, 10, 4


@dataclass(frozen=True, kw_only=True)
class Perceptron(ImageClassifier):
    """The recipe of images, for vectors."""

    epochs: int = 3
    optimizer: str = "adam"  # type: ignore[assignment]
    learning_rate: float = 1e-3
    schedule: str = "constant"  # type: ignore[assignment]

    def answer(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return module(batch["inputs"])


@dataclass(frozen=True, eq=False)
class Vectors(Feed):
    """Vectors (models, n, d) and their classes."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def batch(self, rows: Rows, drawn: torch.Tensor) -> Batch:
        return {"inputs": self.inputs[rows], "label": self.labels[rows]}

    def of(self, models: list[int]) -> Vectors:
        return replace(self, inputs=self.inputs[models], labels=self.labels[models])


PLAN = Perceptron()


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(Dense(INPUTS, HIDDEN), torch.nn.ReLU(), Dense(HIDDEN, CLASSES))


def bare(networks: list[torch.nn.Module], feed: Vectors) -> None:
    for seed, (module, inputs, labels) in enumerate(zip(networks, feed.inputs, feed.labels, strict=True)):
        optimizer = torch.optim.Adam(module.parameters(), lr=PLAN.learning_rate)
        for epoch in range(PLAN.epochs):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            for rows in torch.split(torch.randperm(RECORDS, generator=generator), PLAN.batch):
                loss = cross_entropy(module(inputs[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    start: list[torch.nn.Module] = [network() for _ in range(MODELS)]
    feed = Vectors(torch.randn(MODELS, RECORDS, INPUTS), torch.randint(CLASSES, (MODELS, RECORDS)))
    accelerator = Accelerator(cpu=True)
    ends: dict[str, list[torch.nn.Module]] = {}

    def theirs() -> None:
        ends["bare"] = deepcopy(start)
        bare(ends["bare"], feed)

    def ours() -> None:
        ends["ours"] = deepcopy(start)
        with tempfile.TemporaryDirectory() as folder:
            folders = [Path(folder) / str(model) for model in range(MODELS)]
            fit_side_by_side(ends["ours"], feed, PLAN, range(MODELS), folders, accelerator, lambda *_: None)

    bare_s, ours_s = medians(theirs, ours, rounds=5)
    pairs = zip(*(torch.nn.ModuleList(ends[side]).parameters() for side in ("bare", "ours")), strict=True)
    apart = max(float((one - other).detach().abs().max()) for one, other in pairs)
    print(
        f"{MODELS} models, {PLAN.epochs} epochs: bare {bare_s:.3f} s, ours {ours_s:.3f} s; weights within {apart:.1g}"
    )
    if apart > 1e-4:
        print("the two end with different weights")
        return 1
    return verdict("stacked", bare_s / ours_s, BAR, at_least=True)


if __name__ == "__main__":
    sys.exit(main())
