"""An argsort's rank of the true token against our rank, log p, mean and deviation, on ready logits (V = 50,257).

The floor is one pass over the logits that counts the larger ones: no sort needed, O(V) where a sort is O(V log V).
"""

from __future__ import annotations

import sys

import gpt2
import torch
from measured import medians, verdict

from hf_mia.probes.tokens import _read

ROWS, BAR = 128, 10


def main() -> int:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, gpt2.V, generator=generator)
    target = torch.randint(gpt2.V, (ROWS,), generator=generator)

    def argsort() -> torch.Tensor:
        order = logits.argsort(dim=1, descending=True)
        return (order == target[:, None]).nonzero()[:, 1]

    @torch.inference_mode()
    def ours() -> torch.Tensor:
        return _read(logits, target)

    if not torch.equal(argsort(), ours()[:, 0].long()):
        print("the two disagree")
        return 1
    sort_s, ours_s = medians(argsort, ours, rounds=5)
    print(f"argsort {ROWS / sort_s:,.0f} tokens/s, ours {ROWS / ours_s:,.0f} tokens/s")
    return verdict("ranks", sort_s / ours_s, BAR, at_least=True)


if __name__ == "__main__":
    sys.exit(main())
