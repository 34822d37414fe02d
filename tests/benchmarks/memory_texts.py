"""Peak memory of asking a tiny LSTM about 100,000 texts and reading `RankHistogram`, over that of 10,000, one run each.

The floor is 1: texts lie on the disk, memory-mapped, and so do the answers; what must grow is 8 bytes a text (its user)
and the paths of the shards. Each side is a process of its own, of which the system tells the peak. Pages of mapped
files count there, so the texts are short: 10 words.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from measured import memory

FEW, MANY, USERS, WORDS, BAR = 10_000, 100_000, 100, 300, 1.10


def write(path: Path, count: int) -> None:
    """A Parquet file of texts of 10 words, a piece at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for at in range(0, count, 1000):
            words = rng.zipf(1.5, (min(1000, count - at), 10)) % WORDS
            writer.write_table(pa.table({"text": [" ".join(f"w{word}" for word in text) for text in words]}))


def ask(count: int, folder: Path) -> None:
    """Ask and read."""
    import torch
    from datasets import load_dataset

    from hf_mia.architectures.recurrent import RecurrentConfig, RecurrentForCausalLM
    from hf_mia.core import Model, Pool
    from hf_mia.models.language import TextCollate
    from hf_mia.recipes.vocabulary import word_tokenizer
    from hf_mia.runner import Runner
    from hf_mia.signals.language import RankHistogram

    torch.set_num_threads(1)
    write(folder / "texts.parquet", count)
    records = load_dataset(
        "parquet", data_files=str(folder / "texts.parquet"), split="train", cache_dir=str(folder / "datasets")
    )
    collate = TextCollate(word_tokenizer([" ".join(f"w{i}" for i in range(WORDS))], WORDS + 2))
    module = RecurrentForCausalLM(RecurrentConfig(WORDS + 2, embedding_size=8, hidden_size=8)).eval()
    signal, pool = RankHistogram(), Pool(records, np.arange(count) % USERS, tuple(f"user {i}" for i in range(USERS)))
    answers = Runner(folder / "cache")(Model("tiny", "tiny", collate, lambda: module), signal.probe, records)
    features = signal.read(answers, pool)
    assert features.shape == (USERS, signal.bins)
    assert np.isfinite(features).all()


def main() -> int:
    return memory("memory_texts", "texts", FEW, MANY, BAR, ask)


if __name__ == "__main__":
    sys.exit(main())
