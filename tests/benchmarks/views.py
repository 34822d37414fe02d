"""Asking `Views` against the bare forward pass over as many views on ResNet18 (width 64, 32 x 32), in one run.

The floor is the bare pass itself, ratio 1, in batches of the probe's own size, on images that are floats already.
Drawing and augmenting the views and comparing their features come on top.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from measured import medians, verdict
from torch import nn

from hf_mia.architectures.encoders import ResNet18Config, ResNet18Model
from hf_mia.probes.views import Views

IMAGES, BAR = 25, 1.2
PROBE = Views()


class Pooled(nn.Module):
    """What `Model.load` gives of an encoder: its pooled output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = ResNet18Model(ResNet18Config(width=64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.encoder((images - 0.5) / 0.25).pooler_output
        return pooled


def main() -> int:
    torch.set_num_threads(1)
    module, rng = Pooled().eval(), np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(256, size=(IMAGES, 3, 32, 32), dtype=np.uint8))
    batch = {"pixels": pixels, "seed": torch.arange(IMAGES)}
    images = torch.split((pixels / 255).repeat_interleave(PROBE.n, 0), PROBE.images * PROBE.n)

    def bare() -> None:
        with torch.inference_mode():
            for some in images:
                module(some)

    def ours() -> None:
        PROBE.observe(module, batch)

    bare_s, ours_s = medians(bare, ours, rounds=3)
    print(f"bare {bare_s:.3f} s, ours {ours_s:.3f} s of processor time for {IMAGES} images x {PROBE.n} views")
    return verdict("views", ours_s / bare_s, BAR)


if __name__ == "__main__":
    sys.exit(main())
