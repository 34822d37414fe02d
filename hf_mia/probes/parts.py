"""How to ask a vision encoder how sharply parts of an image answer to its map: PartCrop's probe (Zhu et al., CCS 2024).

A part that the encoder knows answers strongly to few positions of the whole image's map. The published code was read
for facts: https://github.com/JiePKU/PartCrop, mia_lib/mia_util.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from hf_mia.collate import Batch
from hf_mia.probes.augmentation import Augmentation
from hf_mia.probes.views import Drawn, bounded

if TYPE_CHECKING:
    import torch

    from hf_mia.models.backbones import Encoder

CROPS = Augmentation(scale=(0.08, 0.2), jitter=(0.0, 0.0, 0.0, 0.0), jittered=0.0, gray=0.0)
OWN = 2**63  # the content seed of no image


@dataclass(frozen=True)
class Parts(Drawn):
    """How far each part's similarities to an image's map lie from a uniform distribution, and from a bell.

    A part is a view of 8 to 20 % of the image, flipped or not, in its own colours; its feature is pooled. Its products
    with the features at the L positions of the plain image's map, softmax over L, are compared by the Kullback-Leibler
    divergence: `uniform` KL(1/L || softmax) and `gaussian` KL(bell || softmax). The bell of part j is drawn once, from
    the probe's seed, for all images: the normal density at L sorted normal numbers, with their own mean and deviation,
    at sum 1.

    Answers `uniform` and `gaussian`, each (b, n), float32, at least 0, in the order of the parts. Takes an encoder of
    `hf_mia.models.vision`; raises ValueError for any other, for one whose map has a single position or other features
    than the pooled ones, for an `n` outside of 1 to 512, and where a feature is NaN, infinite or beyond 1e15.

    Parts are resized to the encoder's own size, bilinearly, since few transformers take another; the published code
    resizes to half of it (a quarter for Tiny-ImageNet), bicubically, and draws new bells for every batch. There,
    members' whole images are random crops and non-members' are not, which sets them apart by itself; here all are
    plain.
    """

    most: ClassVar[int] = 512
    n: int = 128
    augmentation: Augmentation = CROPS

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        encoder = _mapped(module)
        with torch.inference_mode():
            pixels = torch.split(batch["pixels"], self.rows)
            maps = torch.split(torch.cat([bounded(encoder.maps(some / 255)) for some in pixels]), self.images)
            bells = torch.from_numpy(self.bells(maps[0].shape[1])).to(maps[0])
            found = [energies(*pair, bells) for pair in zip(self.features(module, batch), maps, strict=True)]
            return {name: torch.cat([some[name] for some in found]) for name in found[0]}

    def bells(self, positions: int) -> npt.NDArray[np.float64]:
        """The distribution (n, positions) that each part is compared with: part j's is the same whatever n."""
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed % 2**64, OWN], dtype=np.uint64)))
        drawn = np.sort(generator.standard_normal((self.n, positions)), axis=1)
        mean, deviation = drawn.mean(axis=1, keepdims=True), drawn.std(axis=1, ddof=1, keepdims=True)
        density = np.exp(-(((drawn - mean) / deviation) ** 2) / 2)
        return np.asarray(density / density.sum(axis=1, keepdims=True), dtype=np.float64)


def energies(parts: torch.Tensor, maps: torch.Tensor, bells: torch.Tensor) -> dict[str, torch.Tensor]:
    """The `uniform` and `gaussian` divergences (images, n): of parts (images, n, d), maps (images, L, d), bells (n, L).

    Raises ValueError where parts and maps differ in d.
    """
    import torch

    if parts.shape[2] != maps.shape[2]:
        raise ValueError(
            f"the encoder's pooled features have {parts.shape[2]} numbers and those of its map {maps.shape[2]}, so "
            "parts cannot be compared with it: leave this attack out."
        )
    chances = torch.log_softmax(torch.bmm(parts, maps.transpose(1, 2)), dim=2)
    surprise = torch.special.entr(bells).sum(1) + torch.linalg.vecdot(chances, bells)
    level = chances.new_tensor(maps.shape[1]).log() + chances.mean(2)
    return {"uniform": level.neg_().clamp_min_(0), "gaussian": surprise.neg_().clamp_min_(0)}


def _mapped(module: torch.nn.Module) -> Encoder:
    from hf_mia.models.backbones import Encoder

    if not isinstance(module, Encoder):
        raise ValueError(
            f"parts are compared with the map of an encoder, as hf_mia.models.vision.encoder gives it, and "
            f"{type(module).__name__} has none: leave this attack out."
        )
    return module
