"""Asking `Tokens` against the bare forward pass of the same GPT-2 (V = 50,257) on the same batches, in one run.

The floor is the bare pass itself, ratio 1: the layers, the head and its logits, kept and not read. Reading each logit
five times and taking its exponential twice comes on top; not writing the whole batch's logits to memory comes off.
"""

from __future__ import annotations

import sys

import gpt2
import torch
from measured import medians, verdict

from hf_mia.probes.tokens import Tokens

BAR = 1.25


def main() -> int:
    torch.set_num_threads(1)
    module, batches = gpt2.module(), [gpt2.batch(8, 64), gpt2.batch(16, 32), gpt2.batch(4, 120)]

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                _ = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def ours() -> None:
        for batch in batches:
            Tokens().observe(module, batch)

    bare_s, ours_s = medians(bare, ours)
    print(f"bare {bare_s:.3f} s, ours {ours_s:.3f} s of processor time for {len(batches)} batches")
    return verdict("tokens", ours_s / bare_s, BAR)


if __name__ == "__main__":
    sys.exit(main())
