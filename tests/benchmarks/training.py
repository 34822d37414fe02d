"""Training the LSTM through `hf_mia.recipes.loop.fit` against a bare PyTorch loop on the same batches, in one run.

The floor is the bare loop, ratio 1: same model, batches, order, loss, clipping and fused Adam, and no progress, no
checkpoint, no device. Both must end with the same weights.
"""

from __future__ import annotations

import sys
import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from measured import medians, verdict

from hf_mia.architectures.recurrent import RecurrentConfig, RecurrentForCausalLM
from hf_mia.recipes.language import Recurrent
from hf_mia.recipes.loop import Windows, fit

CLIP, STEPS, BAR = 5.0, 12, 1.1
PLAN = Recurrent(epochs=2, clip=CLIP)


def bare(module: RecurrentForCausalLM, windows: torch.Tensor) -> None:
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=PLAN.learning_rate, fused=True)
    for epoch in range(PLAN.epochs):
        torch.manual_seed(epoch)
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(epoch))
        for rows in torch.split(order, PLAN.batch):
            tokens = windows[rows].long()
            loss = PLAN.loss(module(tokens[:, :-1]).logits, tokens[:, 1:])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
            optimizer.step()


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    start = RecurrentForCausalLM(RecurrentConfig(PLAN.vocabulary, PLAN.embedding, PLAN.hidden))
    stream = torch.randint(PLAN.vocabulary, (STEPS * PLAN.batch * PLAN.window + 1,), dtype=torch.int32)
    windows = stream.unfold(0, PLAN.window + 1, PLAN.window)
    accelerator = Accelerator(cpu=True)
    ends: dict[str, RecurrentForCausalLM] = {}

    def theirs() -> None:
        ends["bare"] = deepcopy(start)
        bare(ends["bare"], windows)

    def ours() -> None:
        ends["ours"] = deepcopy(start)
        with tempfile.TemporaryDirectory() as folder:
            fit(ends["ours"], Windows(windows), PLAN, 0, Path(folder), accelerator, lambda done, total, note: None)

    bare_s, ours_s = medians(theirs, ours, rounds=5)
    if any(not torch.equal(a, b) for a, b in zip(ends["bare"].parameters(), ends["ours"].parameters(), strict=True)):
        print("the two end with different weights")
        return 1
    print(f"{PLAN.epochs * STEPS} steps and {PLAN.epochs - 1} checkpoint: bare {bare_s:.3f} s, ours {ours_s:.3f} s")
    return verdict("training", ours_s / bare_s, BAR)


if __name__ == "__main__":
    sys.exit(main())
