"""The training loop of the language recipes: a bare PyTorch loop that can be killed at any epoch and goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from hf_mia.collate import Batch
from hf_mia.recipes.checkpoint import restore, save
from hf_mia.recipes.pieces import Pieces

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    from hf_mia.recipes import Progress
    from hf_mia.recipes.language import LanguageRecipe


UNSCORED = -100  # where there is no next token to learn


class Examples(ABC):
    """What a language model learns from, in memory."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, rows: torch.Tensor) -> tuple[Batch, torch.Tensor]:
        """What the module takes for some of them (indices), and the next tokens (rows, length), or `UNSCORED`."""

    @abstractmethod
    def first(self, count: int) -> Examples:
        """The first few of them."""

    def batches(self, size: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
        """An epoch's batches, each up to `size` indices: every example once, in an order drawn anew."""
        return torch.split(torch.randperm(len(self), generator=generator), size)


@dataclass(frozen=True, eq=False)
class Windows(Examples):
    """Windows (n, length + 1) of token ids: inputs and, shifted by one, targets."""

    tokens: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: torch.Tensor) -> tuple[Batch, torch.Tensor]:
        tokens = self.tokens[rows].long()
        return {"input_ids": tokens[:, :-1]}, tokens[:, 1:]

    def first(self, count: int) -> Windows:
        return Windows(self.tokens[:count])


@dataclass(frozen=True, eq=False)
class Pairs(Examples):
    """Sources and targets, each a list of token ids with special tokens and, before the target, its opening token.

    Pairs whose targets are of like length are drawn together, as in AuditMI's public code: little is padding.
    """

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]
    padding: int

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, rows: torch.Tensor) -> tuple[Batch, torch.Tensor]:
        from hf_mia.models.language import filled

        sources, targets = ([side[row] for row in rows.tolist()] for side in (self.sources, self.targets))
        mask, decoded = filled([[1] * len(ids) for ids in sources], 0), filled(targets, UNSCORED)
        inputs = {"input_ids": filled(sources, self.padding), "attention_mask": mask}
        return {**inputs, "decoder_input_ids": decoded[:, :-1].clamp_min(0)}, decoded[:, 1:]

    def batches(self, size: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
        drawn = torch.randperm(len(self), generator=generator)
        lengths = torch.tensor([len(ids) for ids in self.targets])[drawn]
        parts = torch.split(drawn[lengths.argsort(stable=True)], size)
        return [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]

    def first(self, count: int) -> Pairs:
        return Pairs(self.sources[:count], self.targets[:count], self.padding)


def summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of the next tokens, summed over time and averaged over the batch."""
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / len(targets)


def counted(targets: torch.Tensor) -> int:
    """How many next tokens a mean over all of them is of."""
    return int((targets != UNSCORED).sum())


def averaged(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of the next tokens, averaged over all of them."""
    return cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def fit(
    module: PreTrainedModel,
    examples: Examples,
    plan: LanguageRecipe,
    seed: int,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Train the module in place on examples, from the last checkpoint in the folder if any.

    Every epoch draws its order and its dropout from (seed, epoch) alone, so a run that was killed and resumed ends with
    the weights of one that was not. Where memory does not suffice for a batch, its gradient is summed in pieces, but
    for models that several processes train together.
    """
    module.to(accelerator.device).train()
    optimizer = _optimizer(module, plan)
    first = restore(folder, module, optimizer)
    on_gpu = accelerator.device.type == "cuda"
    answer = torch.compile(module) if plan.compile and on_gpu else module
    if plan.together and accelerator.num_processes > 1:
        answer = accelerator.prepare(answer)
    cast = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=on_gpu and plan.precision == "bf16")
    steps, pieces = -(-len(examples) // plan.batch), Pieces()
    for epoch in range(first, plan.epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        torch.manual_seed(seed * 1_000_003 + epoch)
        for step, rows in enumerate(examples.batches(plan.batch, generator)):
            if plan.together and len(rows) >= accelerator.num_processes:
                rows = rows[accelerator.process_index :: accelerator.num_processes]
            gradient = partial(_gradient, answer, examples, rows, plan, accelerator.device, cast)
            if plan.together and accelerator.num_processes > 1:
                optimizer.zero_grad()
                gradient(rows)
            else:
                pieces.step(rows, optimizer.zero_grad, gradient)
            if plan.clip is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), plan.clip)
            optimizer.step()
            if step % 20 == 0 or step + 1 == steps:
                progress(epoch * steps + step + 1, plan.epochs * steps, f"epoch {epoch + 1}/{plan.epochs}")
        if epoch + 1 < plan.epochs and (accelerator.is_main_process or not plan.together):
            save(folder, module, optimizer, epoch + 1)
    module.eval()


def _gradient(
    answer: Callable[..., CausalLMOutput],
    examples: Examples,
    whole: torch.Tensor,
    plan: LanguageRecipe,
    device: torch.device,
    cast: torch.autocast,
    rows: torch.Tensor,
) -> None:
    """Add the gradient of some rows of a whole batch: their part of its mean."""
    inputs, targets = examples.batch(rows)
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    with cast:
        loss = plan.loss(answer(**inputs).logits, targets.to(device))
    if len(rows) < len(whole):
        loss = loss * (plan.weight(targets) / plan.weight(examples.batch(whole)[1]))
    loss.backward()  # type: ignore[no-untyped-call]


def _optimizer(module: PreTrainedModel, plan: LanguageRecipe) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(module.parameters(), lr=plan.learning_rate, momentum=plan.momentum, fused=True)
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(module.parameters(), lr=plan.learning_rate, fused=True)
