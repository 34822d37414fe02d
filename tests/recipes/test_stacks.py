"""Models side by side: each learns what it learns by itself, bit by bit in any company, killed and resumed too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from labelled import images

from hf_mia.architectures.classifiers import Dense
from hf_mia.recipes import fitting
from hf_mia.recipes.classifying import ImageClassifier
from hf_mia.recipes.feeds import Pixels
from hf_mia.recipes.fitting import fit
from hf_mia.recipes.stacks import fit_side_by_side

CPU = Accelerator(cpu=True)
MLP = ImageClassifier(architecture="mlp", size=8, hidden=16, epochs=3, batch=8, learning_rate=0.1, augment=True)
MLP = replace(MLP, decay=0.01)
PLANS = [MLP, *(replace(MLP, optimizer=name, learning_rate=0.01) for name in ("adam", "adamw"))]
NAMES = ["sgd", "adam", "adamw"]
STEPS = 3  # an epoch
Weights = list[dict[str, torch.Tensor]]


def silent(done: int, total: int, note: str) -> None:
    pass


def parts(plan: ImageClassifier, seeds: Sequence[int]) -> tuple[list[torch.nn.Module], list[Pixels]]:
    """A model and other images for each seed."""
    processor = plan.processor([])
    every = [images(21, seed) for seed in seeds]
    modules = [plan.started(some, processor, seed) for some, seed in zip(every, seeds, strict=True)]
    return modules, [plan.feed(some, processor) for some in every]


def side_by_side(plan: ImageClassifier, seeds: Sequence[int], folder: Path, tell: object = silent) -> Weights:
    modules, feeds = parts(plan, seeds)
    folders = [folder / str(seed) for seed in seeds]
    for place in folders:
        place.mkdir(parents=True, exist_ok=True)
    fit_side_by_side(modules, Pixels.stack(feeds), plan, seeds, folders, CPU, tell)  # type: ignore[arg-type]
    assert not any(module.training for module in modules)
    return [module.state_dict() for module in modules]


def equal(one: Weights, other: Weights) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a[name], b[name]) for a, b in pairs for name in {*a, *b})


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_models_learn_what_each_learns_by_itself(plan: ImageClassifier, tmp_path: Path) -> None:
    seeds = [4, 9, 2]
    together = side_by_side(plan, seeds, tmp_path / "together")
    modules, feeds = parts(plan, seeds)
    for seed, module, feed, found in zip(seeds, modules, feeds, together, strict=True):
        before = {name: weight.clone() for name, weight in module.state_dict().items()}
        fit(module, feed, plan, seed, tmp_path, CPU, silent)
        for name, weight in module.state_dict().items():
            torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(before[name], weight, atol=1e-4)


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_a_model_learns_the_same_in_any_company(plan: ImageClassifier, tmp_path: Path) -> None:
    every = side_by_side(plan, [4, 9, 2, 7, 5], tmp_path / "every")
    alone = [side_by_side(plan, [seed], tmp_path / "alone")[0] for seed in (4, 9, 2, 7, 5)]
    assert equal(every, alone)
    assert equal(side_by_side(plan, [5, 4], tmp_path / "pair"), [every[4], every[0]])


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_killed_at_different_epochs_and_resumed_in_other_company(
    plan: ImageClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two were killed after an epoch, one after two, and one has not begun."""
    whole = side_by_side(plan, [4, 9, 2, 7], tmp_path / "whole")
    monkeypatch.setattr(fitting, "EVERY", -1.0)
    for seeds, epochs in (([4, 2], 1), ([9], 2)):

        def killing(done: int, total: int, note: str, last: int = epochs) -> None:
            if done > last * STEPS:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            side_by_side(plan, seeds, tmp_path / "killed", killing)
    calls: list[int] = []
    resumed = side_by_side(plan, [4, 9, 2, 7], tmp_path / "killed", lambda done, *_: calls.append(done))
    assert sorted(calls) == sorted([1, 3, 4, 6, 7, 9, 4, 6, 7, 9, 7, 9])
    assert equal(resumed, whole)


def test_a_layer_of_many_is_each_of_them() -> None:
    torch.manual_seed(0)
    layers, rows = [Dense(5, 3) for _ in range(4)], torch.randn(4, 6, 5)
    many = Dense(5, 3)
    many.weight.data = torch.stack([layer.weight.detach() for layer in layers])
    many.bias.data = torch.stack([layer.bias.detach() for layer in layers])
    expected = torch.stack([some @ layer.weight.T + layer.bias for layer, some in zip(layers, rows, strict=True)])
    torch.testing.assert_close(many(rows), expected)
    torch.testing.assert_close(layers[0](rows[0]), expected[0])
