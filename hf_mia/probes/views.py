"""How to ask a vision encoder: by random views of an image, by the plain image, or by both.

A batch is `pixels` uint8 (b, 3, S, S) and `seed` int64 (b,), a digest of each image's own content; the module takes
float images (rows, 3, S, S) in [0, 1] and gives features (rows, d). An image's draws depend on the probe's seed and its
content alone, so every model sees the same views of it, in whatever order, batch or process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_mia.collate import Batch
from hf_mia.core import Integers, Probe
from hf_mia.probes.augmentation import Augmentation

if TYPE_CHECKING:
    import torch

FEATURES = "the feature vector of any image that is sent, pooled, before any projection head"
MOST = 50  # views of an image
LARGEST = 1e15  # what a feature may be, so that sums of squares are float32
TINY = 1e-30  # what a length of zero is divided by


@dataclass(frozen=True)
class Plain(Probe):
    """What the encoder says of the image itself, without augmentation.

    Answers `feature` (b, d), float32. At most `rows` images are on their way through the encoder at once. Raises
    ValueError where a feature is NaN, infinite or beyond 1e15.
    """

    shows: ClassVar[str] = FEATURES
    rows: int = field(default=256, repr=False, compare=False)

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        with torch.inference_mode():
            return {"feature": plain(module, batch["pixels"], self.rows)}


@dataclass(frozen=True)
class Drawn(Probe):
    """What the probes share that ask about `n` views of an image, drawn by `augmentation` from `seed`.

    View j of an image is the same whatever `n`. At most `rows` views are on the device at once, as floats; more would
    change no answer but by rounding. Raises ValueError for an `n` below `least`, what the answers take, or above
    `most`, and where a feature is NaN, infinite or beyond 1e15.
    """

    shows: ClassVar[str] = FEATURES
    least: ClassVar[int] = 1
    most: ClassVar[int] = MOST
    n: int = 10
    augmentation: Augmentation = Augmentation()
    seed: int = 0
    rows: int = field(default=256, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.least <= self.n <= self.most:
            why = ", because similarities need two views" if self.least == 2 else ""
            raise ValueError(f"n must be {self.least} to {self.most} views of an image{why}, but is {self.n}.")

    @property
    def images(self) -> int:
        """How many images are asked about at once: as many as have `rows` views together, and at least one."""
        return max(1, self.rows // self.n)

    def features(self, module: torch.nn.Module, batch: Batch) -> Iterator[torch.Tensor]:
        """The views' features (images, n, d) of some images after the other, in the caller's inference mode."""
        import torch

        draws = torch.split(torch.from_numpy(self.draws(batch["seed"].cpu().numpy())), self.images)
        for pixels, numbers in zip(torch.split(batch["pixels"], self.images), draws, strict=True):
            repeated = torch.split(pixels.repeat_interleave(self.n, 0), self.rows)
            pieces = zip(repeated, torch.split(numbers.flatten(0, 1), self.rows), strict=True)
            found = [encoded(module, self.augmentation(piece / 255, own)) for piece, own in pieces]
            yield torch.cat(found).reshape(len(pixels), self.n, -1)

    def draws(self, seeds: Integers) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Uniform numbers (b, n, numbers) in [0, 1), from each image's own generator, view after view."""
        found = np.empty((len(seeds), self.n, self.augmentation.numbers), dtype=np.float32)
        for own, content in zip(found, seeds, strict=True):
            key = np.array([self.seed % 2**64, int(content) % 2**64], dtype=np.uint64)
            np.random.Generator(np.random.Philox(key=key)).random(dtype=np.float32, out=own)
        return found


@dataclass(frozen=True)
class Views(Drawn):
    """How alike the encoder finds the views of an image, pair by pair (Liu et al. 2021, EncoderMI).

    Answers, each (b, n(n-1)/2), float32, from one pass over the b * n views: `cosine` and `correlation` (Pearson, over
    the d features) in [-1, 1], and `euclidean`, a distance. Pairs stand by the later view, then the earlier, so those
    of the first m views come first. What has no direction is 0: the cosine with a feature of zeros, the correlation
    with one that is constant.
    """

    least: ClassVar[int] = 2

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        with torch.inference_mode():
            found = [similarities(features) for features in self.features(module, batch)]
            return {name: torch.cat([some[name] for some in found]) for name in found[0]}


@dataclass(frozen=True)
class ViewFeatures(Drawn):
    """The features of an image's views themselves, those that `Views` compares.

    Answers `features` (b, n * d), float32, view after view.
    """

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        with torch.inference_mode():
            return {"features": torch.cat([features.flatten(1) for features in self.features(module, batch)])}


@dataclass(frozen=True)
class Anchored(Drawn):
    """How alike the encoder finds the plain image and each of its views, those that `Views` compares.

    Answers `cosine` (b, n), float32, in [-1, 1]; 0 where a feature is all zeros.
    """

    n: int = 1

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        with torch.inference_mode():
            anchors = torch.split(unit(plain(module, batch["pixels"], self.rows)), self.images)
            pairs = zip(anchors, self.features(module, batch), strict=True)
            found = [torch.linalg.vecdot(unit(views), anchor[:, None]) for anchor, views in pairs]
            return {"cosine": torch.cat(found).clamp_(-1, 1)}


def plain(module: torch.nn.Module, pixels: torch.Tensor, rows: int) -> torch.Tensor:
    """The features (b, d) of images uint8 (b, 3, S, S), `rows` of them at once."""
    import torch

    return torch.cat([encoded(module, some / 255) for some in torch.split(pixels, rows)])


def encoded(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The features (rows, d), float32, of images in [0, 1]."""
    features: torch.Tensor = module(images).float()
    if features.ndim != 2:
        raise ValueError(f"an encoder must answer with features (rows, d), but answers {tuple(features.shape)}.")
    return bounded(features)


def bounded(features: torch.Tensor) -> torch.Tensor:
    """The features as they are; ValueError where one is NaN, infinite or beyond 1e15."""
    if not (features.abs() <= LARGEST).all():
        raise ValueError(
            f"the encoder answers with NaN, infinity or features beyond {LARGEST:g}: its weights are broken, or its "
            "dtype overflows."
        )
    return features


def unit(features: torch.Tensor) -> torch.Tensor:
    """Features (..., d) at length 1; zeros stay zeros."""
    import torch

    length: torch.Tensor = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / length.clamp_min(TINY)


def similarities(features: torch.Tensor) -> dict[str, torch.Tensor]:
    """The pairs' `cosine`, `correlation` and `euclidean` (images, n(n-1)/2) from features (images, n, d).

    With s the length of a feature once it is centred, u its direction then, and m its mean times the root of d, all
    three follow from |u - u'|^2 without a difference of large numbers: the correlation is 1 - |u - u'|^2 / 2, the
    features' product s s' correlation + m m', and their squared distance (s - s')^2 + s s' |u - u'|^2 + (m - m')^2.
    """
    import torch

    n, d = features.shape[1:]
    away = features - features[:, :, :1]  # from the first feature: exactly 0 where all are equal
    shift = away.mean(2, keepdim=True)
    m = (features[:, :, :1] + shift)[:, :, 0] * math.sqrt(d)
    s = torch.linalg.vector_norm(away.sub_(shift), dim=2)
    apart = squared_distances(away.div_(s.clamp_min(TINY)[:, :, None]))
    length = (m.square() + s.square()).sqrt_().clamp_min_(TINY)
    later, earlier = torch.tril_indices(n, n, -1).to(features.device)
    m1, s1, mean1, rest1 = (number.index_select(1, later) for number in (m, s, m / length, s / length))
    m2, s2, mean2, rest2 = (number.index_select(1, earlier) for number in (m, s, m / length, s / length))
    rest = rest1.mul_(rest2)
    correlation = torch.where(rest > 0, 1 - apart / 2, 0).clamp_(-1, 1)
    squares = (s1 - s2).square_() + s1 * s2 * apart + (m1 - m2).square_()
    cosine = (rest * correlation + mean1 * mean2).clamp_(-1, 1)
    return {"cosine": cosine, "correlation": correlation, "euclidean": squares.sqrt_()}


def squared_distances(points: torch.Tensor) -> torch.Tensor:
    """The pairs' squared distances (images, n(n-1)/2) from points (images, n, d), by differences."""
    import torch

    later = range(1, points.shape[1])
    return torch.cat([(points[:, :j] - points[:, j : j + 1]).square_().sum(2) for j in later], dim=1)
