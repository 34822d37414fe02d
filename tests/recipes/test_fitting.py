"""The loop of classifiers against a bare one written from the definition; and kills, precision, order and progress."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from labelled import IMAGES, KINDS, outside, recipe, records

from hf_mia.collate import Batch
from hf_mia.recipes import fitting
from hf_mia.recipes.classifier import Classifier
from hf_mia.recipes.feeds import Feed, Rows
from hf_mia.recipes.fitting import batches, fit

CPU = Accelerator(cpu=True)
SEED = 3


def silent(done: int, total: int, note: str) -> None:
    pass


def started(plan: Classifier) -> tuple[torch.nn.Module, Feed]:
    processor = plan.processor(outside())
    return plan.started(records(plan), processor, SEED), plan.feed(records(plan), processor)


def fitted(plan: Classifier, folder: Path) -> dict[str, torch.Tensor]:
    """The weights after an undisturbed training."""
    module, feed = started(plan)
    folder.mkdir(exist_ok=True)
    fit(module, feed, plan, SEED, folder, CPU, silent)
    assert not module.training
    return module.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Against a bare loop.


def transformed(image: np.ndarray, drawn: list[float]) -> np.ndarray:
    """An image (3, 8, 8) of [0, 255] moved by up to 1 pixel, the edge reflected, and mirrored by a coin."""
    down, across, mirror = (int(drawn[0] * 3), int(drawn[1] * 3), drawn[2] >= 0.5)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    window = padded[:, down : down + 8, across : across + 8]
    return window[:, :, ::-1] if mirror else window


def moments(plan: Classifier, weight: torch.Tensor, memory: dict[str, torch.Tensor], rate: float) -> torch.Tensor:
    """What a step adds to a weight (Kingma and Ba 2015; Loshchilov and Hutter 2019; momentum as PyTorch has it)."""
    gradient = weight.grad
    assert gradient is not None
    if plan.optimizer != "adamw":
        gradient = gradient + plan.decay * weight
    if plan.optimizer == "sgd":
        memory["v"] = plan.momentum * memory["v"] + gradient if memory else gradient
        return -rate * memory["v"]
    t = int(memory.get("t", 0)) + 1
    first = 0.9 * memory.get("m", torch.zeros_like(weight)) + 0.1 * gradient
    second = 0.999 * memory.get("s", torch.zeros_like(weight)) + 0.001 * gradient**2
    memory |= {"t": torch.tensor(t), "m": first, "s": second}
    moved = -rate * first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return moved - rate * plan.decay * weight if plan.optimizer == "adamw" else moved


def bare(plan: Classifier) -> dict[str, torch.Tensor]:
    """Images one by one in NumPy, the loss by its definition, the optimizer's own arithmetic; all in float64."""
    module, feed = started(plan)
    module.double().train()
    mean, deviation = (np.array(v)[:, None, None] for v in (plan.mean, plan.deviation))  # type: ignore[attr-defined]
    memory: list[dict[str, torch.Tensor]] = [{} for _ in module.parameters()]
    count = len(feed.labels)
    for epoch in range(plan.epochs):
        share = (1 + math.cos(math.pi * epoch / plan.epochs)) / 2 if plan.schedule == "cosine" else 1
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator).tolist()
        drawn = torch.rand(count, feed.numbers, generator=generator).tolist()
        for start in range(0, count, plan.batch):
            rows, loss = order[start : start + plan.batch], torch.zeros((), dtype=torch.float64)
            for row in rows:
                image = feed.images[row].numpy().astype(np.float64)  # type: ignore[attr-defined]
                image = transformed(image, drawn[row]) if feed.numbers else image
                logits = module(torch.from_numpy((image / 255 - mean) / deviation)[None]).logits[0]
                loss = loss + torch.logsumexp(logits, 0) - logits[feed.labels[row]]
            module.zero_grad()
            (loss / len(rows)).backward()  # type: ignore[no-untyped-call]
            if plan.clip is not None:
                norm = math.sqrt(sum(float((w.grad**2).sum()) for w in module.parameters() if w.grad is not None))
                for weight in module.parameters():
                    assert weight.grad is not None
                    weight.grad *= min(1, plan.clip / (norm + 1e-6))
            with torch.no_grad():
                for weight, own in zip(module.parameters(), memory, strict=True):
                    weight += moments(plan, weight, own, plan.learning_rate * share)
    return module.state_dict()


PLANS: dict[str, dict[str, object]] = {
    "sgd": {"learning_rate": 0.1},
    "augmented": {"learning_rate": 0.1, "augment": True},
    "decay, constant": {"learning_rate": 0.1, "decay": 0.05, "schedule": "constant", "momentum": 0.0},
    "clipped": {"learning_rate": 0.5, "clip": 0.1},
    "adam": {"optimizer": "adam", "decay": 0.05},
    "adamw": {"optimizer": "adamw", "decay": 0.5, "augment": True, "architecture": "mlp"},  # no weight without effect
    "mlp": {"architecture": "mlp", "learning_rate": 0.1},
}


@pytest.mark.parametrize("name", PLANS)
def test_a_training_is_that_of_a_bare_loop(tmp_path: Path, name: str) -> None:
    plan = replace(IMAGES, **PLANS[name])
    before = started(plan)[0].state_dict()
    found, expected = fitted(plan, tmp_path), bare(plan)
    moved = max(float((found[key] - before[key]).abs().max()) for key in found)
    apart = max(float((found[key] - expected[key]).abs().max()) for key in found)
    assert apart < 2e-3 * moved
    assert moved > 0.01


def test_the_rate_falls_by_half_a_cosine_or_not_at_all() -> None:
    plan = replace(IMAGES, epochs=4, learning_rate=0.08)
    expected = [0.08, 0.04 + 0.04 * 0.5**0.5, 0.04, 0.04 - 0.04 * 0.5**0.5]
    assert [plan.rate(epoch) for epoch in range(4)] == pytest.approx(expected, rel=1e-12)
    assert [replace(plan, schedule="constant").rate(epoch) for epoch in range(4)] == [0.08] * 4


# Order and draws.


@dataclass(frozen=True, eq=False)
class Numbered(Feed):
    """Records that are their own number, with three draws each."""

    labels: torch.Tensor
    numbers: int = 3

    def batch(self, rows: Rows, drawn: torch.Tensor) -> Batch:
        return {"rows": rows[1] if isinstance(rows, tuple) else rows, "drawn": drawn}


def drawn(feed: Feed, size: int, seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The order of an epoch, and what each record of the feed draws: (models, n) and (models, n, 3)."""
    found = list(batches(feed, size, seeds))
    rows, numbers = (torch.cat([batch[name] for batch in found], dim=-1 if name == "rows" else -2) for name in found[0])
    return rows, torch.take_along_dim(numbers, rows.argsort(-1)[..., None], dim=-2)


def test_every_record_comes_once_an_epoch_and_draws_once_whatever_the_batch() -> None:
    feed = Numbered(torch.zeros(21, dtype=torch.long))
    sizes = [len(batch["rows"]) for batch in batches(feed, 8, [7])]
    assert sizes == [8, 8, 5]
    (order, numbers), (again, same) = drawn(feed, 8, [7]), drawn(feed, 4, [7])
    assert sorted(order.tolist()) == list(range(21))
    assert torch.equal(order, again)
    assert torch.equal(numbers, same)
    assert numbers.unique().numel() == 63
    other, others = drawn(feed, 8, [8])
    assert not torch.equal(order, other)
    assert not (numbers == others).any()


def test_a_model_draws_the_same_in_any_company() -> None:
    alone = [drawn(Numbered(torch.zeros(21, dtype=torch.long)), 8, [seed]) for seed in (4, 5, 6)]
    order, numbers = drawn(Numbered(torch.zeros(3, 21, dtype=torch.long)), 8, [4, 5, 6])
    for model, (own, mine) in enumerate(alone):
        assert torch.equal(order[model], own)
        assert torch.equal(numbers[model], mine)


# Kills.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epoch", [1, 2])
def test_killed_and_resumed_is_as_never_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, epoch: int
) -> None:
    """Bit by bit, with all that is drawn in training: order, shifts, dropout, and what transformers draws by NumPy."""
    plan = recipe(kind, tmp_path)
    plan = replace(plan, augment=True) if plan.columns[0] == "image" and kind != "vit" else plan  # type: ignore[call-arg]
    whole, begin = fitted(plan, tmp_path / "whole"), started(plan)[0].state_dict()
    assert not equal(whole, begin)
    monkeypatch.setattr(fitting, "EVERY", -1.0)
    (tmp_path / "killed").mkdir()

    def killing(done: int, total: int, note: str) -> None:
        if done > epoch * 3:
            raise KeyboardInterrupt

    module, feed = started(plan)
    with pytest.raises(KeyboardInterrupt):
        fit(module, feed, plan, SEED, tmp_path / "killed", CPU, killing)
    calls: list[int] = []
    torch.manual_seed(99)  # what another process draws before must not show
    np.random.seed(99)
    module, feed = started(plan)
    fit(module, feed, plan, SEED, tmp_path / "killed", CPU, lambda done, *_: calls.append(done))
    assert calls[0] == 3 * epoch + 1
    assert equal(module.state_dict(), whole)


@pytest.mark.parametrize("changes", [{"optimizer": "adam"}, {"optimizer": "adamw"}, {"momentum": 0.0}, {"clip": 0.1}])
def test_every_optimizer_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]) -> None:
    plan = replace(IMAGES, **changes)
    whole = fitted(plan, tmp_path / "whole")
    monkeypatch.setattr(fitting, "EVERY", -1.0)
    fitted(plan, tmp_path / "killed")  # ends with the checkpoint of epoch 2 in its folder
    assert equal(fitted(plan, tmp_path / "killed"), whole)


def test_a_state_is_written_only_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a step moves on by 5 s, 15 s an epoch: once more than 30 s have gone by; never after the last."""
    clock, written = [100.0], []

    def moving(done: int, total: int, note: str) -> None:
        clock[0] = 100.0 + 5 * done

    monkeypatch.setattr(fitting, "monotonic", lambda: clock[0])
    monkeypatch.setattr(fitting, "save", lambda folder, module, optimizer, epoch: written.append(epoch))
    module, feed = started(IMAGES)
    fit(module, feed, replace(IMAGES, epochs=9), SEED, tmp_path, CPU, moving)
    assert written == [3, 6]
    assert fitting.EVERY == 30


# What counts on a GPU only, and what is told.


@pytest.mark.parametrize("kind", ["cnn", "mlp", "bag-of-words"])
def test_precision_and_compile_are_ignored_on_a_cpu(tmp_path: Path, kind: str) -> None:
    plan = recipe(kind, tmp_path)
    fast = replace(plan, precision="bf16", compile=True)
    assert equal(fitted(fast, tmp_path / "fast"), fitted(plan, tmp_path / "plain"))


def test_progress_counts_steps(tmp_path: Path) -> None:
    plan, calls = replace(IMAGES, batch=1, epochs=2), []
    module, feed = started(plan)
    fit(module, feed, plan, SEED, tmp_path, CPU, lambda *call: calls.append(call))
    ends = [(step, 42, f"epoch {epoch}/2") for epoch, steps in ((1, (1, 21)), (2, (22, 42))) for step in steps]
    assert calls == ends


def test_without_epochs_nothing_changes(tmp_path: Path) -> None:
    plan = replace(IMAGES, epochs=0)
    before = deepcopy(started(plan)[0].state_dict())
    assert equal(fitted(plan, tmp_path), before)
