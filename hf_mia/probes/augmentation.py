"""The random views of an image: SimCLR's augmentations, batched on the device, drawn from numbers that are given.

Chen et al. 2020, with the values of MoCo on CIFAR-10: a random crop resized to the whole, a flip, colour jitter, gray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

ORDERS = tuple(permutations(range(4)))  # of brightness, contrast, saturation and hue
TRIES = 10  # crops that are drawn until one fits into the image


@dataclass(frozen=True)
class Augmentation:
    """How a view is drawn: crops of a `scale` of the area and a `ratio` of width to height, a flip with probability
    `flip`; `jitter` of brightness, contrast, saturation and hue, in random order, with probability `jittered`; `gray`.

    Calling it with images (rows, 3, H, W) in [0, 1] and uniform `numbers` (rows, 29) on the CPU gives as many views.
    A row's view depends on its own image and numbers alone. Raises ValueError for a range that is empty.
    """

    numbers: ClassVar[int] = 2 * TRIES + 9
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jittered: float = 0.8
    gray: float = 0.2

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high or (name == "scale" and high > 1):
                raise ValueError(f"{name} must be an ascending range of positive numbers, but is {low, high}.")
        if (
            not all(0 <= p <= 1 for p in (self.flip, self.jittered, self.gray, *self.jitter[:3]))
            or self.jitter[3] > 0.5
        ):
            raise ValueError(f"probabilities and jitter must lie in [0, 1], jitter of the hue in [0, .5]: {self}.")

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        import torch
        from kornia.color import rgb_to_grayscale

        boxes = self.boxes(numbers, images.shape[-2], images.shape[-1])
        views = cropped(images, boxes, numbers[:, 2 * TRIES + 2] < self.flip)
        views = self._jittered(views, numbers[:, 2 * TRIES + 3 :])
        gray = torch.nonzero(numbers[:, 2 * TRIES + 8] < self.gray)[:, 0].to(images.device, non_blocking=True)
        views[gray] = rgb_to_grayscale(views[gray]).expand(-1, 3, -1, -1)
        return views

    def boxes(self, numbers: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Left, top, width, height (rows, 4) of each crop in pixels: the first of ten draws that fits, else the centre.

        As torchvision's RandomResizedCrop: area uniform, ratio uniform in its logarithm, position uniform in pixels.
        """
        import torch

        area, shape = numbers[:, :TRIES], numbers[:, TRIES : 2 * TRIES]
        area = height * width * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(low + shape * (high - low))
        w, h = torch.round(torch.sqrt(area * ratio)), torch.round(torch.sqrt(area / ratio))
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.int().argmax(1, keepdim=True)
        none = ~fits.any(1)
        w = torch.where(none, max(1, min(width, round(height * self.ratio[1]))), w.gather(1, first)[:, 0])
        h = torch.where(none, max(1, min(height, round(width / self.ratio[0]))), h.gather(1, first)[:, 0])
        spot = torch.where(none[:, None], 0.5, numbers[:, 2 * TRIES : 2 * TRIES + 2])
        left, top = torch.floor(spot[:, 0] * (width - w + 1)), torch.floor(spot[:, 1] * (height - h + 1))
        return torch.stack([left, top, w, h], dim=1)

    def _jittered(self, views: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Colour jitter in place, by numbers (rows, 6): whether, four factors, and in which order."""
        import torch
        from kornia.enhance import (
            adjust_brightness_accumulative,
            adjust_contrast_with_mean_subtraction,
            adjust_hue,
            adjust_saturation_with_gray_subtraction,
        )

        steps = (
            adjust_brightness_accumulative,
            adjust_contrast_with_mean_subtraction,
            adjust_saturation_with_gray_subtraction,
            adjust_hue,
        )
        size = torch.tensor(self.jitter)
        factors = (2 * numbers[:, 1:5] - 1) * size + torch.tensor([1.0, 1.0, 1.0, 0.0])
        factors[:, 3] *= 2 * math.pi  # kornia's hue is an angle
        order = torch.tensor(ORDERS)[(numbers[:, 5] * len(ORDERS)).long()]
        order[numbers[:, 0] >= self.jittered] = -1
        for turn in range(4):
            for kind, step in enumerate(steps):
                rows = torch.nonzero(order[:, turn] == kind)[:, 0]
                if self.jitter[kind] and len(rows):
                    here, by = (some.to(views.device, non_blocking=True) for some in (rows, factors[rows, kind]))
                    views[here] = step(views[here], by)
        return views


def cropped(images: torch.Tensor, boxes: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
    """The boxes (rows, 4), left, top, width, height, of images (rows, 3, H, W), each resized to the whole, bilinear."""
    import torch
    from torch.nn.functional import grid_sample

    size = images.shape[-1], images.shape[-2]
    boxes, flipped = (some.to(images.device, non_blocking=True) for some in (boxes, flipped))
    axes = []
    for axis in (0, 1):
        middle = (torch.arange(size[axis], device=boxes.device) + 0.5) / size[axis]
        first, length = boxes[:, axis, None], boxes[:, axis + 2, None]
        spot = first + torch.minimum((middle * length).clamp_min(0.5), length - 0.5)  # no pixel from outside of the box
        axes.append(2 * spot / size[axis] - 1)
    x = torch.where(flipped[:, None], axes[0].flip(1), axes[0])[:, None, :].expand(-1, size[1], -1)
    y = axes[1][:, :, None].expand(-1, -1, size[0])
    grid = torch.stack([x, y], dim=-1).to(images.dtype)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
