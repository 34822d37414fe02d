"""Contrastive recipes: MoCo and SimCLR for small images, as EncoderMI's targets and shadows are trained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Literal

from hf_mia.core import Model
from hf_mia.probes.augmentation import Augmentation
from hf_mia.recipes import Progress, Recipe

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import BaseImageProcessor

    from hf_mia.architectures.encoders import EncoderPreTrainedModel

EACH = 2  # steps that are timed for an estimate
DECODED = 256  # images that are decoded at once
LOWEST = {"epochs": 0, "stop": 0, "batch": 2, "width": 1, "size": 1, "splits": 1, "learning_rate": 0, "decay": 0}
LOWEST |= {"queue": 1, "momentum": 0}  # of MoCo


@dataclass(frozen=True, kw_only=True)
class Contrastive(Recipe):
    """An encoder trained to know two views of one image from views of others; batches that are not full are left out.

    `architecture`, `width` (of its first convolution) and `size` (pixels a side) say what is trained. The schedule is
    for `epochs`; training ends after `stop` of them, if given: early stopping, EncoderMI's countermeasure. After each
    of `checkpoints` epochs the encoder is kept too. `splits`: parts of a batch that are normalised by themselves.
    `mean` and `deviation` of the pixels: CIFAR-10's. `precision` and `compile` count on a GPU only.
    """

    columns: ClassVar[tuple[str, ...]] = ("image",)
    together: bool = field(default=False, init=False, repr=False)
    architecture: Literal["resnet18", "vgg11"] = "resnet18"
    width: int = 64
    size: int = 32
    epochs: int = 1600
    stop: int | None = None
    checkpoints: tuple[int, ...] = ()
    batch: int
    learning_rate: float
    decay: float
    temperature: float
    splits: int = 8
    augmentation: Augmentation = Augmentation()
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    deviation: tuple[float, float, float] = (0.2023, 0.1994, 0.2010)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        for name, lowest in LOWEST.items():
            if (value := getattr(self, name, None)) is not None and value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, but is {value}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be greater than 0, but is {self.temperature}.")
        if late := [epoch for epoch in self.checkpoints if not 0 < epoch <= self.last]:
            raise ValueError(
                f"checkpoints must be epochs from 1 to {self.last}, the last that is trained, but hold {late}: "
                "leave these out, or train longer."
            )

    @property
    def last(self) -> int:
        """The epochs that are trained."""
        return self.epochs if self.stop is None else min(self.stop, self.epochs)

    @abstractmethod
    def learner(self, encoder: EncoderPreTrainedModel) -> torch.nn.Module:
        """The objective around the encoder: called with two batches of views, it gives the loss."""

    @abstractmethod
    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """What changes the weights."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        return self.learning_rate

    def module(self) -> EncoderPreTrainedModel:
        """The encoder before training."""
        from hf_mia.architectures.encoders import ENCODERS

        config, model = ENCODERS[self.architecture]
        return model(config(width=self.width, splits=self.splits))

    def processor(self, outside: Iterable[str]) -> BaseImageProcessor:
        from transformers import ViTImageProcessorPil

        return ViTImageProcessorPil(
            size={"height": self.size, "width": self.size}, image_mean=list(self.mean), image_std=list(self.deviation)
        )

    def processor_key(self, processor: BaseImageProcessor) -> str:
        return str(processor.to_json_string())

    def blank(self) -> Contrastive:
        return replace(self, epochs=0, stop=None, checkpoints=())

    def kept(self) -> tuple[int, ...]:
        return tuple(sorted({*self.checkpoints}))

    def train(
        self,
        records: Dataset,
        processor: BaseImageProcessor,
        seed: int,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        import torch

        from hf_mia.recipes.checkpoint import writing
        from hf_mia.recipes.pretraining import pretrain

        self._check(len(records))
        torch.manual_seed(seed)
        encoder = self.module()
        learner = self.learner(encoder)
        encoder.should_save_on_this_rank = lambda _: True  # transformers saves on rank 0 only; this one is ours
        pretrain(learner, encoder, pixels(records, self.size), self, seed, folder, accelerator, progress)
        with writing(folder):
            for place in (folder, *(folder / f"epoch-{epoch:04d}" for epoch in self.checkpoints)):
                processor.save_pretrained(place)
            encoder.to("cpu").save_pretrained(folder)

    def _check(self, images: int) -> None:
        if images < self.batch:
            raise ValueError(
                f"batch = {self.batch} is more than the {images} images to train on: lower it, or add images."
            )

    def steps(self, records: Dataset, processor: BaseImageProcessor) -> int:
        self._check(len(records))
        return self.last * (len(records) // self.batch)

    def time(self, records: Dataset, processor: BaseImageProcessor, folder: Path, accelerator: Accelerator) -> float:
        from hf_mia.recipes.pretraining import pretrain

        self._check(len(records))
        plan, steps = replace(self, epochs=1, stop=None, checkpoints=()), min(EACH, len(records) // self.batch)
        encoder, marks = self.module(), []
        learner, some = self.learner(encoder), pixels(records.select(range(steps * self.batch)), self.size)
        for _ in range(2):  # the first round warms up
            begin = perf_counter()
            pretrain(learner, encoder, some, plan, 0, folder, accelerator, lambda done, total, note: None)
            marks.append(perf_counter() - begin)
        return marks[-1] / steps

    def load(self, folder: Path) -> Model:
        from hf_mia.models.vision import encoder

        return encoder(folder)


@dataclass(frozen=True, kw_only=True)
class MoCo(Contrastive):
    """MoCo, version 1 (He et al. 2020), as EncoderMI's public code trains it: SGD with a cosine schedule."""

    batch: int = 512
    learning_rate: float = 0.06
    decay: float = 5e-4
    temperature: float = 0.1
    queue: int = 4096
    key_momentum: float = 0.99
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.key_momentum <= 1:
            raise ValueError(f"key_momentum must lie in [0, 1], but is {self.key_momentum}.")

    def learner(self, encoder: EncoderPreTrainedModel) -> torch.nn.Module:
        from hf_mia.recipes.learners import MoCoLearner

        return MoCoLearner(encoder, 8 * self.width, self.queue, self.key_momentum, self.temperature)

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        from torch.optim import SGD

        return SGD(parameters, self.learning_rate, self.momentum, weight_decay=self.decay, fused=True)

    def rate(self, epoch: int) -> float:
        """Half a cosine from the learning rate to 0, an epoch at a time."""
        import math

        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


@dataclass(frozen=True, kw_only=True)
class SimCLR(Contrastive):
    """SimCLR (Chen et al. 2020) with the numbers of EncoderMI's authors: Adam at a constant rate, no queue."""

    batch: int = 256
    learning_rate: float = 1e-3
    decay: float = 1e-6
    temperature: float = 0.5

    def learner(self, encoder: EncoderPreTrainedModel) -> torch.nn.Module:
        from hf_mia.recipes.learners import SimCLRLearner

        return SimCLRLearner(encoder, 8 * self.width, self.temperature)

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        from torch.optim import Adam

        return Adam(parameters, self.learning_rate, weight_decay=self.decay, fused=True)


def pixels(records: Dataset, size: int) -> torch.Tensor:
    """All images as one tensor (n, 3, size, size) uint8, resized as the encoder's collate resizes them."""
    import numpy as np
    import torch

    from hf_mia.models.vision import ImageCollate

    collate = ImageCollate(size)
    found = np.empty((len(records), 3, size, size), dtype=np.uint8)
    for start in range(0, len(records), DECODED):
        items = collate.encode(records[start : start + DECODED])
        found[start : start + len(items)] = [item.values["pixels"] for item in items]
    return torch.from_numpy(found)
