"""The largest tensor that `Tokens` makes, of all that torch computes, over a batch's logits: batch x length x V.

The floor is the share of one row, 1 / (batch x length): a rank needs a token's whole row of logits. The bare pass,
asked in the same run, stands at 1. The model's own parameters are not counted: nothing makes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gpt2
import torch
from measured import verdict
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_mia.probes.tokens import Tokens

ROWS, LENGTH, BAR = 16, 128, 0.1


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the largest storage, in numbers, behind any operator's outputs, views of parameters left out."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        self.numbers = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in self.known:
                self.numbers = max(self.numbers, leaf.untyped_storage().nbytes() // leaf.element_size())
        return found


def main() -> int:
    torch.set_num_threads(1)
    module, batch = gpt2.module(), gpt2.batch(ROWS, LENGTH)
    whole = ROWS * LENGTH * gpt2.V
    with Largest(module) as bare, torch.no_grad():
        module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    with Largest(module) as ours:
        Tokens().observe(module, batch)
    print(f"bare: {bare.numbers / whole:.3f} of {whole:,} numbers; ours: {ours.numbers:,} numbers")
    if bare.numbers != whole:
        print("the bare pass's logits went unseen: the count is broken")
        return 1
    return verdict("memory_logits", ours.numbers / whole, BAR)


if __name__ == "__main__":
    sys.exit(main())
