"""The training loop of classifiers: records stay in memory, epochs are drawn, and a run can be killed at any time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch.nn.functional import cross_entropy, pad

from hf_mia.collate import Batch, Collate, Item
from hf_mia.recipes.checkpoint import restore, save

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_mia.recipes import Progress
    from hf_mia.recipes.classifying import Classifier

Rows: TypeAlias = "torch.Tensor | tuple[torch.Tensor, torch.Tensor]"

EVERY = 30.0  # seconds between checkpoints
RESIDENT = 2**33  # bytes of images that may stay on a GPU


class Feed(ABC):
    """Records in memory and their classes, `labels` int64: (n,), or (models, n) where models learn side by side.

    An epoch draws `numbers` numbers in [0, 1) for each record.
    """

    labels: torch.Tensor
    numbers: int = 0

    @abstractmethod
    def batch(self, rows: Rows, drawn: torch.Tensor) -> Batch:
        """What the module takes, and `label`: `rows` indexes the records; `drawn` is (..., rows, numbers)."""

    def to(self, device: torch.device) -> Feed:
        """The records where the module is, if they fit there."""
        return self

    def of(self, models: Sequence[int]) -> Feed:
        """The records of some of the models that learn side by side."""
        raise NotImplementedError(f"{type(self).__name__} holds the records of one model.")


@dataclass(frozen=True, eq=False)
class Pixels(Feed):
    """Images (..., n, 3, H, W) uint8; a batch's are `pixel_values`, in [0, 1] less the mean over the deviation.

    With `augment` each is moved by up to an eighth of its size, the edge reflected, and mirrored by a coin.
    """

    images: torch.Tensor
    labels: torch.Tensor
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    augment: bool = False

    @property
    def numbers(self) -> int:  # type: ignore[override]
        return 3 if self.augment else 0

    def batch(self, rows: Rows, drawn: torch.Tensor) -> Batch:
        images, label = self.images[rows].float().div_(255), self.labels[rows]
        if self.augment:
            images = moved(images.flatten(0, -4), drawn.flatten(0, -2)).reshape(images.shape)
        mean, deviation = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.deviation))
        return {"pixel_values": images.sub_(mean).div_(deviation), "label": label}

    def to(self, device: torch.device) -> Pixels:
        fits = device.type == "cuda" and self.images.nbytes <= RESIDENT
        return replace(self, images=self.images.to(device), labels=self.labels.to(device)) if fits else self

    @classmethod
    def stack(cls, feeds: Sequence[Pixels]) -> Pixels:
        """The images of several models side by side, as many of each."""
        images, labels = (torch.stack([getattr(feed, name) for feed in feeds]) for name in ("images", "labels"))
        return replace(feeds[0], images=images, labels=labels)

    def of(self, models: Sequence[int]) -> Pixels:
        every = [*models] == [*range(len(self.labels))]
        return self if every else replace(self, images=self.images[[*models]], labels=self.labels[[*models]])


@dataclass(frozen=True, eq=False)
class Encoded(Feed):
    """Records that a collate has encoded, one item each; a batch is what it makes of some of them."""

    items: Sequence[Item]
    labels: torch.Tensor
    collate: Collate

    def batch(self, rows: Rows, drawn: torch.Tensor) -> Batch:
        assert isinstance(rows, torch.Tensor)
        return {**self.collate.pad([self.items[row] for row in rows.tolist()]), "label": self.labels[rows]}


def moved(images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Images (rows, 3, H, W) moved and mirrored as their numbers (rows, 3) in [0, 1) say."""
    height, width = images.shape[2:]
    down, across = height // 8, width // 8
    padded = pad(images, (across, across, down, down), mode="reflect")
    top, left = ((drawn[:, i, None] * (2 * by + 1)).long() for i, by in ((0, down), (1, across)))
    y, x = top + torch.arange(height, device=top.device), left + torch.arange(width, device=top.device)
    x = torch.where(drawn[:, 2, None] < 0.5, x, x.flip(1))
    rows = torch.arange(len(images), device=top.device)[:, None, None]
    return padded[rows, :, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)


def fit(
    module: torch.nn.Module,
    feed: Feed,
    plan: Classifier,
    seed: int,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Train the module in place, from the last checkpoint in the folder if any."""
    module.to(accelerator.device)
    optimizer = optimizer_of(module.parameters(), plan, fused=True)
    first = restore(folder, module, optimizer)
    steps(
        module, optimizer, feed, plan, [seed], first,
        lambda epoch: save(folder, module, optimizer, epoch), accelerator, progress,
    )  # fmt: skip


def steps(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    feed: Feed,
    plan: Classifier,
    seeds: Sequence[int],
    first: int,
    keep: Callable[[int], None],
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """The epochs from `first` on; `keep` is told, now and then, how many are done.

    Every epoch draws its order, its augmentation and its dropout from (seed, epoch) alone, so a run that was killed and
    resumed ends with the weights of one that was not. The loss is the mean over a batch's records; the last batch may
    be smaller. Models side by side share no weight, so the gradient of their summed losses is each one's own.
    """
    device, on_gpu = accelerator.device, accelerator.device.type == "cuda"
    feed, saved = feed.to(device), monotonic()
    answer = cast("torch.nn.Module", torch.compile(module)) if plan.compile and on_gpu else module
    half = torch.autocast(device.type, torch.bfloat16, enabled=on_gpu and plan.precision == "bf16")
    module.train()
    every = -(-feed.labels.shape[-1] // plan.batch)
    for epoch in range(first, plan.epochs):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(epoch)
        torch.manual_seed(seeds[0] * 1_000_003 + epoch)
        for step, batch in enumerate(batches(feed, plan.batch, [seed * 1_000_003 + epoch for seed in seeds])):
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            label = batch["label"]
            with half:
                logits = plan.answer(answer, batch)
            loss = cross_entropy(logits.flatten(0, -2).float(), label.flatten(), reduction="sum") / label.shape[-1]
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if plan.clip is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), plan.clip)
            optimizer.step()
            if step % 20 == 0 or step + 1 == every:
                progress(epoch * every + step + 1, plan.epochs * every, f"epoch {epoch + 1}/{plan.epochs}")
        if epoch + 1 < plan.epochs and monotonic() - saved > EVERY:
            keep(epoch + 1)
            saved = monotonic()
    module.eval()


def batches(feed: Feed, size: int, seeds: Sequence[int]) -> Iterator[Batch]:
    """One epoch's batches, of every model in the order that its own seed draws."""
    records, device = feed.labels.shape[-1], feed.labels.device
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    order = torch.stack([torch.randperm(records, generator=generator) for generator in generators])
    drawn = torch.stack([torch.rand(records, feed.numbers, generator=generator) for generator in generators])
    models, order, drawn = torch.arange(len(seeds), device=device)[:, None], order.to(device), drawn.to(device)
    for rows in torch.split(order, size, dim=1):
        if feed.labels.dim() == 1:
            yield feed.batch(rows[0], drawn[0, rows[0]])
        else:
            yield feed.batch((models, rows), drawn[models, rows])


def optimizer_of(parameters: Iterable[torch.nn.Parameter], plan: Classifier, fused: bool) -> torch.optim.Optimizer:
    """The recipe's optimizer. Fused is faster, but it rounds the last few of a tensor's numbers by another rule than
    the rest: what a model learns would hang on who stands beside it."""
    own = list(parameters)
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            own, plan.learning_rate, plan.momentum, weight_decay=plan.decay, fused=fused, foreach=False
        )
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(own, plan.learning_rate, weight_decay=plan.decay, fused=fused, foreach=False)
