"""What the recipes of classifiers share: how they are trained, resumed, timed and saved."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from hf_mia.collate import Batch
from hf_mia.recipes import Progress, Recipe
from hf_mia.recipes.labels import classes

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_mia.recipes import Processor
    from hf_mia.recipes.feeds import Feed

EACH = 5  # steps that are timed for an estimate
LOWEST = {"epochs": 0, "batch": 1, "learning_rate": 0, "momentum": 0, "decay": 0}
LOWEST |= {"width": 1, "size": 1, "hidden": 1, "embedding": 1}  # of the small ones


@dataclass(frozen=True, kw_only=True)
class Classifier(Recipe):
    """A classifier trained by the mean cross-entropy of a batch's records; the last batch may be smaller.

    `learning_rate` falls by half a cosine to 0, an epoch at a time, or is `constant`. `clip` is the largest norm of a
    step's gradient. `precision` and `compile` count on a GPU and are ignored on a CPU. The classes are those of the
    records' column `label`, a `datasets.ClassLabel`; ValueError where it is not, or where a record has no class.
    """

    together: bool = field(default=False, init=False, repr=False)
    epochs: int
    batch: int
    learning_rate: float
    optimizer: Literal["adam", "adamw", "sgd"] = "sgd"
    momentum: float = 0.9
    decay: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        for name, lowest in LOWEST.items():
            if not getattr(self, name, lowest) >= lowest:
                raise ValueError(f"{name} must be at least {lowest}, but is {getattr(self, name)}.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be greater than 0, or none, but is {self.clip}.")

    @abstractmethod
    def module(self, names: Sequence[str], processor: Processor) -> PreTrainedModel:
        """The model before training; `names` of its classes."""

    @abstractmethod
    def feed(self, records: Dataset, processor: Processor) -> Feed:
        """The records as training takes them."""

    @abstractmethod
    def answer(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Logits (rows, C)."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        share = 0.5 * (1 + math.cos(math.pi * epoch / self.epochs)) if self.schedule == "cosine" else 1.0
        return self.learning_rate * share

    def blank(self) -> Classifier:
        return replace(self, epochs=0)

    def train(
        self,
        records: Dataset,
        processor: Processor,
        seed: int,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        module = self.started(records, processor, seed)
        self.fit(module, self.feed(records, processor), seed, folder, accelerator, progress)
        keep(module, processor, folder)

    def started(self, records: Dataset, processor: Processor, seed: int) -> PreTrainedModel:
        """The model before training, for the records' classes, as the seed draws it."""
        import torch

        names = classes(records)
        torch.manual_seed(seed)
        return self.module(names, processor)

    def fit(
        self,
        module: PreTrainedModel,
        feed: Feed,
        seed: int,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        """Train one model in place, from the last checkpoint in the folder if any."""
        from hf_mia.recipes.fitting import fit

        fit(module, feed, self, seed, folder, accelerator, progress)

    def steps(self, records: Dataset, processor: Processor) -> int:
        return self.epochs * -(-len(records) // self.batch)

    def time(self, records: Dataset, processor: Processor, folder: Path, accelerator: Accelerator) -> float:
        """Seconds a step of one model by itself takes here; side by side, each takes less."""
        some, marks = records.select(range(min(len(records), EACH * self.batch))), []
        module, feed, short = self.started(some, processor, 0), self.feed(some, processor), replace(self, epochs=1)
        for _ in range(2):  # the first round warms up
            begin = perf_counter()
            short.fit(module, feed, 0, folder, accelerator, lambda done, total, note: None)
            marks.append(perf_counter() - begin)
        return marks[-1] / -(-len(some) // self.batch)


def keep(module: PreTrainedModel, processor: Processor, folder: Path) -> None:
    """Save a trained model and its processor."""
    from hf_mia.recipes.checkpoint import writing

    module.should_save_on_this_rank = lambda _: True  # transformers saves on rank 0 only; this one is ours
    with writing(folder):
        module.to("cpu").save_pretrained(folder)
        processor.save_pretrained(folder)
