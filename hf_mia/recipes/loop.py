"""The training loop of the language recipes: a bare PyTorch loop that can be killed at any epoch and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hf_mia.recipes.checkpoint import restore, save

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from hf_mia.recipes import Progress
    from hf_mia.recipes.language import LanguageRecipe


def fit(
    module: PreTrainedModel,
    windows: torch.Tensor,
    plan: LanguageRecipe,
    seed: int,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Train the module in place on windows (n, length + 1) of token ids, from the last checkpoint in the folder if any.

    Every epoch draws its order and its dropout from (seed, epoch) alone, so a run that was killed and resumed ends with
    the weights of one that was not.
    """
    module.to(accelerator.device).train()
    optimizer = _optimizer(module, plan)
    first = restore(folder, module, optimizer)
    on_gpu = accelerator.device.type == "cuda"
    answer = torch.compile(module) if plan.compile and on_gpu else module
    if plan.together and accelerator.num_processes > 1:
        answer = accelerator.prepare(answer)
    cast = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=on_gpu and plan.precision == "bf16")
    steps = -(-len(windows) // plan.batch)
    for epoch in range(first, plan.epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        torch.manual_seed(seed * 1_000_003 + epoch)
        for step, rows in enumerate(torch.split(torch.randperm(len(windows), generator=generator), plan.batch)):
            if plan.together and len(rows) >= accelerator.num_processes:
                rows = rows[accelerator.process_index :: accelerator.num_processes]
            tokens = windows[rows].to(accelerator.device).long()
            with cast:
                loss = plan.loss(answer(input_ids=tokens[:, :-1]).logits, tokens[:, 1:])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if plan.clip is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), plan.clip)
            optimizer.step()
            if step % 20 == 0 or step + 1 == steps:
                progress(epoch * steps + step + 1, plan.epochs * steps, f"epoch {epoch + 1}/{plan.epochs}")
        if epoch + 1 < plan.epochs and (accelerator.is_main_process or not plan.together):
            save(folder, module, optimizer, epoch + 1)
    module.eval()


def _optimizer(module: PreTrainedModel, plan: LanguageRecipe) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(module.parameters(), lr=plan.learning_rate, momentum=plan.momentum, fused=True)
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(module.parameters(), lr=plan.learning_rate, fused=True)
