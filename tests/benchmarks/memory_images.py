"""Peak memory of asking a tiny encoder about 2,000 images by `Views` and reading them, over that of 200, one run each.

The floor is 1: images lie on the disk, memory-mapped, and so do the answers; what must grow is 8 bytes a similarity.
Each side is a process of its own, of which the system tells the peak. Both are asked in chunks of 100 images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset
from measured import memory
from torch import nn

from hf_mia.collate import Batch, Collate, Item
from hf_mia.core import Model, Pool
from hf_mia.runner import Runner
from hf_mia.signals.encoder import ViewSimilarity

FEW, MANY, SIDE, BAR = 200, 2_000, 32, 1.10


class Rows(Collate):
    """Images as the bytes of their pixels; the seed is the first of them, which are random here."""

    columns: ClassVar[tuple[str, ...]] = ("pixels",)

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        return [Item(i, 1, {"pixels": pixels}) for i, pixels in enumerate(records["pixels"])]  # type: ignore[dict-item]

    def pad(self, items: Sequence[Item]) -> Batch:
        pixels = torch.from_numpy(np.array([np.frombuffer(item.values["pixels"], np.uint8) for item in items]))  # type: ignore[call-overload]
        return {"pixels": pixels.reshape(-1, 3, SIDE, SIDE), "seed": pixels[:, :8].contiguous().view(torch.int64)[:, 0]}


def images(count: int) -> Iterator[dict[str, bytes]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"pixels": rng.bytes(3 * SIDE * SIDE)}


def ask(count: int, folder: Path) -> None:
    """Ask and read."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    records = Dataset.from_generator(images, gen_kwargs={"count": count}, cache_dir=str(folder / "datasets"))
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 128))
    signal, pool = ViewSimilarity(), Pool(records, np.arange(count), tuple(f"image {i}" for i in range(count)))
    answers = Runner(folder / "cache", chunk=100)(Model("tiny", "tiny", Rows(), lambda: module), signal.probe, records)
    features = signal.read(answers, pool)
    assert features.shape == (count, 45)
    assert np.isfinite(features).all()


def main() -> int:
    return memory("memory_images", "images", FEW, MANY, BAR, ask)


if __name__ == "__main__":
    sys.exit(main())
