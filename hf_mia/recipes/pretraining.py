"""The loop of contrastive pre-training: uint8 images stay in memory, views are made on the device, epochs are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import torch

from hf_mia.recipes.captured import Captured
from hf_mia.recipes.checkpoint import restore, save, writing

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_mia.architectures.encoders import EncoderPreTrainedModel
    from hf_mia.recipes import Progress
    from hf_mia.recipes.contrastive import Contrastive

RESIDENT = 2**33  # bytes of images that may stay on a GPU
AT_ONCE = 2**28  # bytes of views that a GPU makes at once
EVERY = 30.0  # seconds between checkpoints


def pretrain(
    learner: torch.nn.Module,
    encoder: EncoderPreTrainedModel,
    images: torch.Tensor,
    plan: Contrastive,
    seed: int,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Train the learner in place on images (n, 3, S, S) uint8, from the last checkpoint in the folder if any.

    Every epoch draws its order and its views from (seed, epoch) alone, so a run that was killed and resumed ends with
    the weights of one that was not. The encoder is kept in `epoch-NNNN` after each of the plan's `checkpoints`.
    """
    device, on_gpu = accelerator.device, accelerator.device.type == "cuda"
    learner.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = plan.optimizer([p for p in learner.parameters() if p.requires_grad])
    first = restore(folder, learner, optimizer)
    images = images.to(device) if on_gpu and images.nbytes <= RESIDENT else images
    answer = torch.compile(learner) if plan.compile and on_gpu else learner
    cast = torch.autocast(device.type, torch.bfloat16, enabled=on_gpu and plan.precision == "bf16")

    def gradient(one: torch.Tensor, other: torch.Tensor) -> None:
        optimizer.zero_grad()
        with cast:
            loss = answer(one, other)
        loss.backward()

    learn = Captured(gradient) if on_gpu else gradient
    steps, saved = len(images) // plan.batch, monotonic()
    for epoch in range(first, plan.last):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(epoch)
        drawn = pairs(images, plan, seed * 1_000_003 + epoch, device, AT_ONCE if on_gpu else 0)
        for step, (one, other) in enumerate(drawn):
            learn(one, other)
            optimizer.step()
            if step % 20 == 0 or step + 1 == steps:
                progress(epoch * steps + step + 1, plan.last * steps, f"epoch {epoch + 1}/{plan.last}")
        if epoch + 1 in plan.checkpoints:
            with writing(folder):
                encoder.save_pretrained(folder / f"epoch-{epoch + 1:04d}")
        if epoch + 1 < plan.last and monotonic() - saved > EVERY:
            save(folder, learner, optimizer, epoch + 1)
            saved = monotonic()
    learner.eval()


def pairs(
    images: torch.Tensor, plan: Contrastive, seed: int, device: torch.device, at_once: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch's batches of two views of the same images, in [0, 1] less the mean over the deviation; whole ones only.

    The numbers that the views are drawn from are drawn for the whole epoch first. The views of as many batches are made
    together as have `at_once` bytes, which are the same: a GPU would wait for the processor to launch them batch by
    batch.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    numbers = torch.rand(len(images), 2, plan.augmentation.numbers, generator=generator)
    mean, deviation = (torch.tensor(v, device=device)[:, None, None] for v in (plan.mean, plan.deviation))
    order = order[: len(images) // plan.batch * plan.batch]
    batches = max(1, at_once // (plan.batch * 2 * 4 * images[0].numel()))
    for rows in torch.split(order, batches * plan.batch):
        some = images[rows.to(images.device, non_blocking=True)].to(device).float().div_(255)
        views = plan.augmentation(torch.cat([some, some]), numbers[rows].transpose(0, 1).flatten(0, 1))
        views = views.sub_(mean).div_(deviation).contiguous(memory_format=torch.channels_last)
        yield from zip(*(torch.split(half, plan.batch) for half in views.chunk(2)), strict=True)
