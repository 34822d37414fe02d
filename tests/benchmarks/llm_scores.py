"""Five scores of 600 texts, from texts to scores, against the bare forward pass on the same length-sorted batches.

Ours: loss, Min-K%, Min-K%++, zlib and mean rank from one pass by the runner, whose cache is empty, so that it also
tokenises and writes the answers to disk. The floor is the pass itself, ratio 1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import gpt2
import torch
from measured import medians, verdict

from hf_mia.core import Model
from hf_mia.runner import Runner, _batches

TEXTS, BAR = 600, 1.3


def main() -> int:
    torch.set_num_threads(1)
    module, collate, texts = gpt2.module(), gpt2.collate(), gpt2.texts(TEXTS)
    model = Model("gpt2", "random", collate, lambda: module)
    items = collate.encode({"text": texts})
    sizes = [item.size for item in items]
    order = sorted(range(TEXTS), key=lambda i: sizes[i])
    batches = [collate.pad([items[i] for i in rows]) for rows in _batches(order, sizes, Runner(Path()).tokens)]

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                _ = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            gpt2.scores(model, texts, Runner(Path(folder)))

    bare_s, ours_s = medians(bare, ours, rounds=5)
    tokens = sum(sizes)
    print(f"{tokens:,} tokens in {len(batches)} batches: bare {bare_s:.2f} s, ours {ours_s:.2f} s of processor time")
    return verdict("llm_scores", ours_s / bare_s, BAR)


if __name__ == "__main__":
    sys.exit(main())
