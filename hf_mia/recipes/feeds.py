"""Records as the training loop of classifiers takes them: in memory, or opened anew for every batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch.nn.functional import pad

from hf_mia.collate import Batch, Collate, Item
from hf_mia.recipes.labels import labels_of

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_mia.models.vision import Channels

Rows: TypeAlias = "torch.Tensor | tuple[torch.Tensor, torch.Tensor]"

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

    @classmethod
    def of_records(cls, records: Dataset, collate: Collate) -> Encoded:
        """Texts, as int32; ValueError where a record has no class."""
        labels, items = torch.from_numpy(labels_of(records)), []
        for rows in records.select_columns(list(collate.columns)).iter(batch_size=4096):
            for item in collate.encode(rows):
                ids = {n: np.asarray(v, dtype=np.int32) for n, v in item.values.items() if not isinstance(v, int)}
                items.append(replace(item, values={**item.values, **ids}))
        return cls(items, labels, collate)


@dataclass(frozen=True, eq=False)
class Streamed(Feed):
    """Records that a collate opens and encodes anew for every batch: images and sounds, which all may not fit at once.

    ValueError, which names a record by its place in the batch, where one cannot be opened.
    """

    records: Dataset
    labels: torch.Tensor
    collate: Collate

    def batch(self, rows: Rows, drawn: torch.Tensor) -> Batch:
        assert isinstance(rows, torch.Tensor)
        return {**self.collate.pad(self.collate.encode(self.records[rows.tolist()])), "label": self.labels[rows]}


@dataclass(frozen=True, eq=False)
class StreamedImages(Streamed):
    """Images of a vision model: `pixel_values` float32 (rows, 3, H, W), as the image processor makes it."""

    channels: Channels

    def batch(self, rows: Rows, drawn: torch.Tensor) -> Batch:
        found, (scale, shift, order) = super().batch(rows, drawn), self.channels
        images = (found["pixels"] / 255)[:, order]
        levels = (torch.tensor(values)[:, None, None] for values in (scale, shift))
        return {"pixel_values": images.mul_(next(levels)).add_(next(levels)), "label": found["label"]}


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
