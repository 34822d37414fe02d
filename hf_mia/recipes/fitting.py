"""The training loop of classifiers: every epoch is drawn from its own seed, and a run can be killed at any time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy
from transformers import set_seed

from hf_mia.collate import Batch
from hf_mia.recipes.checkpoint import restore, save
from hf_mia.recipes.feeds import Feed

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_mia.recipes import Progress
    from hf_mia.recipes.classifier import Classifier

EVERY = 30.0  # seconds between checkpoints


def fit(
    module: torch.nn.Module,
    feed: Feed,
    plan: Classifier,
    seed: int,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Train the module in place, from the last checkpoint in the folder if any."""
    module.to(accelerator.device)
    optimizer = optimizer_of(module.parameters(), plan, fused=True)
    first = restore(folder, module, optimizer)
    steps(
        module, optimizer, feed, plan, [seed], first,
        lambda epoch: save(folder, module, optimizer, epoch), accelerator, progress,
    )  # fmt: skip


def steps(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    feed: Feed,
    plan: Classifier,
    seeds: Sequence[int],
    first: int,
    keep: Callable[[int], None],
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """The epochs from `first` on; `keep` is told, now and then, how many are done.

    Every epoch draws its order, its augmentation and its dropout from (seed, epoch) alone, so a run that was killed and
    resumed ends with the weights of one that was not. The loss is the mean over a batch's records; the last batch may
    be smaller. Models side by side share no weight, so the gradient of their summed losses is each one's own.
    """
    device, on_gpu = accelerator.device, accelerator.device.type == "cuda"
    feed, saved = feed.to(device), monotonic()
    if plan.compile and on_gpu:
        module.compile()  # type: ignore[no-untyped-call]
    half = torch.autocast(device.type, torch.bfloat16, enabled=on_gpu and plan.precision == "bf16")
    module.train()
    every = -(-feed.labels.shape[-1] // plan.batch)
    for epoch in range(first, plan.epochs):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(epoch)
        set_seed((seeds[0] * 1_000_003 + epoch) % 2**32)  # models of sounds draw from NumPy too
        for step, batch in enumerate(batches(feed, plan.batch, [seed * 1_000_003 + epoch for seed in seeds])):
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            label = batch["label"]
            with half:
                logits = plan.answer(module, batch)
            loss = cross_entropy(logits.flatten(0, -2).float(), label.flatten(), reduction="sum") / label.shape[-1]
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if plan.clip is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), plan.clip)
            optimizer.step()
            if step % 20 == 0 or step + 1 == every:
                progress(epoch * every + step + 1, plan.epochs * every, f"epoch {epoch + 1}/{plan.epochs}")
        if epoch + 1 < plan.epochs and monotonic() - saved > EVERY:
            keep(epoch + 1)
            saved = monotonic()
    module.eval()


def batches(feed: Feed, size: int, seeds: Sequence[int]) -> Iterator[Batch]:
    """One epoch's batches, of every model in the order that its own seed draws."""
    records, device = feed.labels.shape[-1], feed.labels.device
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    order = torch.stack([torch.randperm(records, generator=generator) for generator in generators])
    drawn = torch.stack([torch.rand(records, feed.numbers, generator=generator) for generator in generators])
    models, order, drawn = torch.arange(len(seeds), device=device)[:, None], order.to(device), drawn.to(device)
    for rows in torch.split(order, size, dim=1):
        if feed.labels.dim() == 1:
            yield feed.batch(rows[0], drawn[0, rows[0]])
        else:
            yield feed.batch((models, rows), drawn[models, rows])


def optimizer_of(parameters: Iterable[torch.nn.Parameter], plan: Classifier, fused: bool) -> torch.optim.Optimizer:
    """The recipe's optimizer. Fused is faster, but it rounds the last few of a tensor's numbers by another rule than
    the rest: what a model learns would hang on who stands beside it."""
    own = list(parameters)
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            own, plan.learning_rate, plan.momentum, weight_decay=plan.decay, fused=fused, foreach=False
        )
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(own, plan.learning_rate, weight_decay=plan.decay, fused=fused, foreach=False)
