"""The share of padding among the positions computed on ../shared/data/blogs, through the real collate and batching.

The floor is 0 (a batch for every length); batches must also be few. Without the data there is nothing to measure.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
from measured import verdict

from hf_mia.models.language import TextCollate
from hf_mia.recipes.vocabulary import word_tokenizer
from hf_mia.runner import Runner, _batches

DATA = Path(__file__).resolve().parents[2] / "../shared/data/blogs"
TEXTS, BAR = 40_000, 0.15


def main() -> int:
    files = sorted(DATA.glob("*.parquet"))
    if not files:
        print(f"padding: skipped, there is no data in {DATA}")
        return 0
    texts = pq.read_table(files[0], columns=["text"])["text"].slice(0, TEXTS).to_pylist()
    collate = TextCollate(word_tokenizer(texts, 5000))
    runner = Runner(Path())
    real = computed = batches = 0
    for at in range(0, len(texts), runner.chunk):
        items = collate.encode({"text": texts[at : at + runner.chunk]})
        sizes = [item.size for item in items]
        for rows in _batches(sorted(range(len(items)), key=lambda i: sizes[i]), sizes, runner.tokens):
            mask = collate.pad([items[i] for i in rows])["attention_mask"]
            real, computed, batches = real + int(mask.sum()), computed + mask.numel(), batches + 1
    print(f"{len(texts):,} texts: {real:,} tokens in {computed:,} positions, {computed / batches:,.0f} a batch")
    return verdict("padding", 1 - real / computed, BAR)


if __name__ == "__main__":
    sys.exit(main())
