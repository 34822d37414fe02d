"""Peak memory of asking a tiny encoder about 2,000 images by `Views` and reading them, over that of 200, one run each.

The floor is 1: images lie on the disk, memory-mapped, and so do the answers; what must grow is 8 bytes a similarity.
Each side is a process of its own, of which the system tells the peak. Both are asked in chunks of 100 images.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset
from measured import verdict
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


def peak(count: int) -> int:
    """Peak memory in KiB, in a process of its own, which starts without what this one holds."""
    command = [sys.executable, __file__, str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(answer.stdout.split()[-1])


def images(count: int) -> Iterator[dict[str, bytes]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"pixels": rng.bytes(3 * SIDE * SIDE)}


def ask(count: int, folder: Path) -> int:
    """Ask, read, and say this process's peak."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    records = Dataset.from_generator(images, gen_kwargs={"count": count}, cache_dir=str(folder / "datasets"))
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 128))
    signal, pool = ViewSimilarity(), Pool(records, np.arange(count), tuple(f"image {i}" for i in range(count)))
    answers = Runner(folder / "cache", chunk=100)(Model("tiny", "tiny", Rows(), lambda: module), signal.probe, records)
    features = signal.read(answers, pool)
    assert features.shape == (count, 45)
    assert np.isfinite(features).all()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder:
            print(ask(int(sys.argv[1]), Path(folder)))
        return 0
    few, many = peak(FEW), peak(MANY)
    print(f"{FEW:,} images: {few / 1024:,.0f} MiB, {MANY:,} images: {many / 1024:,.0f} MiB")
    return verdict("memory_images", many / few, BAR)


if __name__ == "__main__":
    sys.exit(main())
