"""Classifiers of images, texts and sounds: small ones from nothing, and any checkpoint fine-tuned."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Literal, TypedDict, cast

import numpy as np

from hf_mia.collate import Batch
from hf_mia.core import Integers, Model
from hf_mia.recipes import Progress, Recipe

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import BaseImageProcessor, PreTrainedModel

    from hf_mia.recipes import Processor
    from hf_mia.recipes.fitting import Feed, Pixels

EACH = 5  # steps that are timed for an estimate
SMALL = 2**16  # parameters up to which models are faster side by side than one after another on a CPU
LARGEST = 2**30  # bytes that the models side by side may take, their optimizer and their records included
MOST = 64  # models side by side
LOWEST = {"epochs": 0, "batch": 1, "learning_rate": 0, "momentum": 0, "decay": 0, "width": 1, "size": 1, "hidden": 1}


@dataclass(frozen=True, kw_only=True)
class Classifier(Recipe):
    """A classifier trained by the mean cross-entropy of a batch's records; the last batch may be smaller.

    `learning_rate` falls by half a cosine to 0, an epoch at a time, or is `constant`. `precision` and `compile` count
    on a GPU and are ignored on a CPU.
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
            if getattr(self, name, lowest) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, but is {getattr(self, name)}.")

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
        from hf_mia.recipes.fitting import fit

        module = self.started(records, processor, seed)
        fit(module, self.feed(records, processor), self, seed, folder, accelerator, progress)
        keep(module, processor, folder)

    def started(self, records: Dataset, processor: Processor, seed: int) -> PreTrainedModel:
        """The model before training, for the records' classes, as the seed draws it."""
        import torch

        names = classes(records)
        torch.manual_seed(seed)
        return self.module(names, processor)

    def steps(self, records: Dataset, processor: Processor) -> int:
        return self.epochs * -(-len(records) // self.batch)

    def time(self, records: Dataset, processor: Processor, folder: Path, accelerator: Accelerator) -> float:
        from hf_mia.recipes.fitting import fit

        some, marks = records.select(range(min(len(records), EACH * self.batch))), []
        module, feed = self.started(some, processor, 0), self.feed(some, processor)
        for _ in range(2):  # the first round warms up
            begin = perf_counter()
            fit(module, feed, replace(self, epochs=1), 0, folder, accelerator, lambda done, total, note: None)
            marks.append(perf_counter() - begin)
        return marks[-1] / -(-len(some) // self.batch)


def keep(module: PreTrainedModel, processor: Processor, folder: Path) -> None:
    """Save a trained model and its processor."""
    from hf_mia.recipes.checkpoint import writing

    module.should_save_on_this_rank = lambda _: True  # transformers saves on rank 0 only; this one is ours
    with writing(folder):
        module.to("cpu").save_pretrained(folder)
        processor.save_pretrained(folder)


@dataclass(frozen=True, kw_only=True)
class ImageClassifier(Classifier):
    """A classifier of small images, from nothing; without augmentation, for what is of interest is what it overfits to.

    `cnn`: three 3x3 convolutions from `width` to four times as many channels, normalised by group (Wu and He 2018);
    `mlp`: one layer of `hidden` units; `resnet18`: with batch normalisation, for a GPU. Images are `size` pixels wide.
    `augment` moves them by up to an eighth and mirrors some. `mean` and `deviation` of the pixels: CIFAR-10's.
    """

    columns: ClassVar[tuple[str, ...]] = ("image", "label")
    architecture: Literal["cnn", "mlp", "resnet18"] = "cnn"
    width: int = 16
    size: int = 32
    hidden: int = 128
    epochs: int = 40
    batch: int = 32
    learning_rate: float = 0.01
    augment: bool = False
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    deviation: tuple[float, float, float] = (0.2023, 0.1994, 0.2010)

    def processor(self, outside: Iterable[str]) -> BaseImageProcessor:
        from transformers import ViTImageProcessorPil

        return ViTImageProcessorPil(
            size={"height": self.size, "width": self.size}, image_mean=list(self.mean), image_std=list(self.deviation)
        )

    def processor_key(self, processor: BaseImageProcessor) -> str:
        return str(processor.to_json_string())

    def module(self, names: Sequence[str], processor: BaseImageProcessor) -> PreTrainedModel:
        import torch

        from hf_mia.recipes.classifying_models import SmallImagesConfig, SmallImagesForImageClassification

        config = SmallImagesConfig(
            architecture=self.architecture, width=self.width, size=self.size, hidden=self.hidden, **labelled(names)
        )
        layout = torch.contiguous_format if self.architecture == "mlp" else torch.channels_last  # 1.7 times faster
        return SmallImagesForImageClassification(config).to(memory_format=layout)

    def feed(self, records: Dataset, processor: BaseImageProcessor) -> Pixels:
        import torch

        from hf_mia.recipes.contrastive import pixels
        from hf_mia.recipes.fitting import Pixels

        labels = torch.from_numpy(labels_of(records))
        return Pixels(pixels(records, self.size), labels, self.mean, self.deviation, self.augment)

    def answer(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return cast("torch.Tensor", module(pixel_values=batch["pixel_values"]).logits)

    def train(
        self,
        records: Dataset,
        processor: BaseImageProcessor,
        seed: int,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        if self._stacks(records, processor, accelerator):
            self.train_side_by_side([records], processor, [seed], [folder], accelerator, progress)
        else:
            super().train(records, processor, seed, folder, accelerator, progress)

    def side_by_side(self, records: Dataset, processor: BaseImageProcessor, accelerator: Accelerator) -> int:
        if not self._stacks(records, processor, accelerator):
            return 1
        each = 16 * self._parameters(records, processor) + 3 * self.size**2 * len(records)
        return max(1, min(MOST, LARGEST // each))

    def train_side_by_side(
        self,
        records: Sequence[Dataset],
        processor: BaseImageProcessor,
        seeds: Sequence[int],
        folders: Sequence[Path],
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        from hf_mia.recipes.fitting import Pixels
        from hf_mia.recipes.stacks import fit_side_by_side

        if self.side_by_side(records[0], processor, accelerator) == 1 < len(records):
            return super().train_side_by_side(records, processor, seeds, folders, accelerator, progress)
        feed = Pixels.stack([self.feed(some, processor) for some in records])
        modules = [self.started(some, processor, seed) for some, seed in zip(records, seeds, strict=True)]
        fit_side_by_side(modules, feed, self, seeds, folders, accelerator, progress)
        for module, folder in zip(modules, folders, strict=True):
            keep(module, processor, folder)

    def _stacks(self, records: Dataset, processor: BaseImageProcessor, accelerator: Accelerator) -> bool:
        """Whether models go side by side here: those of which a step is mostly calls, not arithmetic."""
        small = accelerator.device.type == "cuda" or self._parameters(records, processor) <= SMALL
        return self.architecture == "mlp" and self.clip is None and small

    def _parameters(self, records: Dataset, processor: BaseImageProcessor) -> int:
        import torch

        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.module(classes(records), processor).parameters())

    def load(self, folder: Path) -> Model:
        from hf_mia.classifiers import image_classifier

        return image_classifier(folder)


def classes(records: Dataset) -> list[str]:
    """Names of the classes of the column `label`. ValueError where it is no column of two classes or more."""
    from datasets import ClassLabel

    feature = records.features.get("label")
    if not isinstance(feature, ClassLabel) or feature.num_classes < 2:
        raise ValueError(
            f"records need a column `label` of two classes or more, but have {feature}: "
            "`records.cast_column('label', datasets.ClassLabel(names=[...]))` names them."
        )
    return list(feature.names)


def labels_of(records: Dataset) -> Integers:
    """The class of each record (n,). ValueError where there is no record, or one of no class."""
    if len(records) == 0:
        raise ValueError("training needs at least one record, but has none.")
    names, column = classes(records), records.with_format("arrow")[:]["label"]
    found = np.array(column.fill_null(-1).to_numpy(), dtype=np.int64)
    if len(rows := np.flatnonzero((found < 0) | (found >= len(names)))):
        raise ValueError(
            f"label must be 0 to {len(names) - 1}, for there are {len(names)} classes, but is {found[rows[0]]} in "
            f"{len(rows)} of {len(found)} records: leave out records without a class."
        )
    return found


class Labelled(TypedDict):
    """What a configuration says of classes."""

    id2label: dict[int, str]
    label2id: dict[str, int]


def labelled(names: Sequence[str]) -> Labelled:
    """The names of classes as a configuration takes them."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
