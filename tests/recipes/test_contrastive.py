"""MoCo and SimCLR against loops written from the papers; and pre-training that is exact, resumable and can stop early.

Tiny encoders of scikit-learn's digits: 21 images in batches of 8, so that every epoch leaves 5 of them out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch.nn.functional import normalize

from hf_mia import shadows
from hf_mia.architectures.encoders import ResNet18Config, ResNet18Model
from hf_mia.data.images import Images, load_images
from hf_mia.probes.augmentation import Augmentation
from hf_mia.recipes import contrastive, pretraining
from hf_mia.recipes.contrastive import Contrastive, MoCo, SimCLR, pixels
from hf_mia.recipes.learners import MoCoLearner, SimCLRLearner
from hf_mia.shadows import Job, train

MOCO = MoCo(width=2, size=8, epochs=4, batch=8, queue=12, splits=2)
SIMCLR = SimCLR(width=2, size=8, epochs=4, batch=8, splits=2)
RECIPES = [MOCO, SIMCLR, replace(MOCO, architecture="vgg11", splits=1)]
NAMES = ["moco", "simclr", "moco-vgg11"]
STEPS = 2  # an epoch
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def records() -> Dataset:
    return load_images(Images()).records.select(range(21))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.nn.Module, torch.optim.Optimizer]]:
    """The learner and the optimizer of each training in turn."""
    found: list[tuple[torch.nn.Module, torch.optim.Optimizer]] = []
    restore = pretraining.restore

    def restoring(folder: Path, learner: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        found.append((learner, optimizer))
        return restore(folder, learner, optimizer)

    monkeypatch.setattr(pretraining, "restore", restoring)
    return found


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses stay in float64, where the learners would bring half precision to float32."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)


def job(recipe: Contrastive, records: Dataset, seed: int = 7) -> Job:
    return Job("model", recipe, records, recipe.processor([]), seed)


def trained(recipe: Contrastive, records: Dataset, cache: Path, seed: int = 7) -> Path:
    (folder,) = train([job(recipe, records, seed)], cache)
    return folder


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def state(learner: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All that training changes: parameters, statistics, queue, and what the optimizer remembers of each parameter."""
    found = {name: value.clone() for name, value in learner.state_dict().items()}
    for number, kept in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{name}": value.clone() for name, value in kept.items() if value is not None}
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# the objectives


def encoder(width: int = 1) -> ResNet18Model:
    torch.manual_seed(0)
    return ResNet18Model(ResNet18Config(width=width, splits=2))


def views(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def info_nce(queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor, temperature: float) -> torch.Tensor:
    """He et al. 2020, equation 1: the mean of -log(e^(q k+ / T) / (e^(q k+ / T) + the sum of e^(q k / T)))."""
    losses = []
    for query, key in zip(queries, keys, strict=True):
        positive = torch.exp((query * key).sum() / temperature)
        negatives = [torch.exp((query * other).sum() / temperature) for other in queue]
        losses.append(-torch.log(positive / (positive + sum(negatives))))
    return sum(losses) / len(losses)


def nt_xent(features: torch.Tensor, temperature: float) -> torch.Tensor:
    """Chen et al. 2020, algorithm 1: views i and i + n are of one image; a view is no negative of itself."""
    rows, losses = len(features), []
    for i in range(rows):
        j = (i + rows // 2) % rows
        alike = [torch.exp((features[i] * features[k]).sum() / temperature) for k in range(rows)]
        losses.append(-torch.log(alike[j] / sum(alike[k] for k in range(rows) if k != i)))
    return sum(losses) / rows


def gradients(module: torch.nn.Module) -> list[torch.Tensor]:
    return [weight.grad for weight in module.parameters() if weight.grad is not None]


@pytest.mark.parametrize(("rows", "size"), [(4, 6), (4, 7), (6, 5), (4, 4)])
@pytest.mark.usefixtures("exact")
def test_moco_is_the_papers(rows: int, size: int) -> None:
    """Three steps: loss, gradients, key encoder and queue, each against a loop; the weights move in between."""
    torch.manual_seed(1)
    learner = MoCoLearner(encoder(), 8, size, momentum=0.8, temperature=0.3).double().train()
    assert same(learner.keys.state_dict(), learner.queries.state_dict())
    torch.testing.assert_close(learner.queue.norm(dim=1), torch.ones(size, dtype=torch.float64))
    waiting = list(learner.queue.clone())  # the oldest first
    for step in range(3):
        first, second = (views(rows, 10 * step + seed).requires_grad_() for seed in (1, 2))
        queries, keys = deepcopy(learner.queries), deepcopy(learner.keys)
        with torch.no_grad():
            for own, other in zip(keys.parameters(), queries.parameters(), strict=True):
                own.copy_(0.8 * own + 0.2 * other)
            new = keys(second)
        expected = info_nce(queries(first), new, torch.stack(waiting), 0.3)
        expected.backward()
        first.grad = None

        loss = learner(first, second)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-11)
        torch.testing.assert_close(gradients(learner.queries), gradients(queries), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(learner.keys.state_dict(), keys.state_dict(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(learner.queries.state_dict(), queries.state_dict(), rtol=1e-9, atol=1e-12)
        assert first.grad is not None
        assert second.grad is None
        assert not gradients(learner.keys)
        assert not learner.queue.requires_grad

        for key in new:
            waiting = [*waiting[1:], normalize(key, dim=0)]
        torch.testing.assert_close(learner.queue, torch.stack(waiting), rtol=1e-9, atol=1e-12)
        with torch.no_grad():
            for weight in learner.queries.parameters():
                weight += 0.1 * torch.randn_like(weight)
                weight.grad = None


def test_only_the_queries_are_learned() -> None:
    learner = MoCoLearner(encoder(), 8, 4, momentum=0.9, temperature=0.1)
    learned = {name for name, weight in learner.named_parameters() if weight.requires_grad}
    assert learned == {f"queries.{name}" for name, _ in learner.queries.named_parameters()}
    assert "queue" in learner.state_dict()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("rows", [2, 4, 6])
def test_simclr_is_the_papers(rows: int) -> None:
    learner = SimCLRLearner(encoder(), 8, temperature=0.2).double().train()
    first, second = views(rows, 1), views(rows, 2)
    queries = deepcopy(learner.queries)
    features = queries(torch.cat([first, second]))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2 * rows, dtype=torch.float64))
    expected = nt_xent(features, 0.2)
    expected.backward()
    loss = learner(first, second)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(gradients(learner), gradients(queries), rtol=1e-9, atol=1e-12)
    assert all(weight.grad is not None for weight in learner.parameters())


def test_losses_of_half_precision_are_float32() -> None:
    for learner in (MoCoLearner(encoder(), 8, 4, 0.9, 0.1), SimCLRLearner(encoder(), 8, 0.5)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = learner(views(4, 1).to(torch.float32), views(4, 2).to(torch.float32))
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)


def test_a_learner_has_the_recipes_numbers() -> None:
    moco, simclr = replace(MOCO, queue=5, key_momentum=0.8, temperature=0.3), replace(SIMCLR, temperature=0.2)
    one, other = (recipe.learner(recipe.module()) for recipe in (moco, simclr))
    assert (tuple(one.queue.shape), one.momentum, one.temperature) == ((5, 128), 0.8, 0.3)
    assert other.temperature == 0.2
    sgd, adam = (recipe.optimizer(recipe.module().parameters()).defaults for recipe in (MOCO, SIMCLR))
    assert [sgd[name] for name in ("lr", "momentum", "weight_decay", "nesterov")] == [0.06, 0.9, 5e-4, False]
    assert [adam[name] for name in ("lr", "betas", "weight_decay")] == [1e-3, (0.9, 0.999), 1e-6]


def test_the_defaults_are_encodermis() -> None:
    moco = {"architecture": "resnet18", "epochs": 1600, "batch": 512, "queue": 4096, "key_momentum": 0.99, "splits": 8}
    moco |= {"temperature": 0.1, "learning_rate": 0.06, "momentum": 0.9, "decay": 5e-4, "augmentation": Augmentation()}
    simclr = {"batch": 256, "learning_rate": 1e-3, "decay": 1e-6, "temperature": 0.5}
    for recipe, papers in ((MoCo(), moco), (SimCLR(), simclr)):
        assert {name: getattr(recipe, name) for name in papers} == papers


def test_heads_are_those_that_encodermi_used() -> None:
    moco, simclr = (recipe.learner(recipe.module()).queries.head for recipe in (MoCo(width=2), SimCLR(width=2)))
    assert [tuple(weight.shape) for weight in moco.parameters()] == [(128, 16), (128,)]
    assert [tuple(weight.shape) for weight in simclr.parameters()] == [(512, 16), (512,), (512,), (128, 512), (128,)]


# what a training sees


def random_images(rows: int, size: int = 8) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(256, size=(rows, 3, size, size), dtype=np.uint8))


def test_batches_hold_every_image_once_and_only_whole_ones() -> None:
    still = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jittered=0.0, gray=0.0)
    plan, images = replace(MOCO, augmentation=still, mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.6, 0.7)), random_images(21)
    mean, deviation = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (plan.mean, plan.deviation))
    expected = (images.double() / 255 - mean) / deviation
    orders = []
    for seed in (0, 1, 0):
        order = []
        for one, other in pretraining.pairs(images, plan, seed, CPU):
            assert one.shape == other.shape == (8, 3, 8, 8)
            for row in range(8):
                (number,) = torch.nonzero(((expected - one[row]).abs() < 1e-5).all((1, 2, 3)))[:, 0].tolist()
                order.append(number)
                torch.testing.assert_close(other[row].double(), expected[number], rtol=0, atol=1e-5)
        assert len(set(order)) == len(order) == 16
        orders.append(order)
    assert orders[0] == orders[2] != orders[1]


def test_views_are_drawn_for_an_image_and_not_for_its_place() -> None:
    """Both views of an image stay the same in batches of another size, and differ from each other and anew by seed."""

    def found(batch: int, seed: int) -> list[bytes]:
        some = pretraining.pairs(random_images(24), replace(MOCO, batch=batch), seed, CPU)
        return [view.numpy().tobytes() for pair in some for views in pair for view in views]

    each = found(8, 3)
    assert len(set(each)) == 48
    assert set(each) == set(found(4, 3)) == set(found(24, 3))
    assert not set(each) & set(found(8, 4))


@pytest.mark.parametrize("at_once", [1, 20_000, 50_000, 10**9])
def test_views_of_several_batches_made_together_are_the_same(at_once: int) -> None:
    """As a GPU makes them; 28 images in batches of 4, of which two views take 6,144 bytes."""
    images = random_images(28)
    plain = list(pretraining.pairs(images, replace(MOCO, batch=4), 3, CPU))
    together = list(pretraining.pairs(images, replace(MOCO, batch=4), 3, CPU, at_once))
    assert len(plain) == len(together) == 7
    for one, other in zip(plain, together, strict=True):
        assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))
        assert all(views.is_contiguous(memory_format=torch.channels_last) for views in other)


def test_pixels_are_those_the_encoder_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "DECODED", 3)
    arrays = np.random.default_rng(0).integers(256, size=(7, 12, 10, 3), dtype=np.uint8)
    contents = []
    for array in arrays:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        contents.append({"bytes": file.getvalue(), "path": None})
    some = Dataset.from_dict({"image": contents})
    found = pixels(some, 8)
    assert found.dtype == torch.uint8
    for pixel, array in zip(found, arrays, strict=True):
        resized = np.asarray(Image.fromarray(array).resize((8, 8), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(pixel, resized.transpose(2, 0, 1))


# training


def naive(recipe: Contrastive, images: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """The encoder after a training as one writes it down, with the same kernels: a few steps magnify rounding."""
    torch.manual_seed(seed)
    module = recipe.module()
    learner = recipe.learner(module).train().to(memory_format=torch.channels_last)
    learned = [weight for weight in learner.parameters() if weight.requires_grad]
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (recipe.mean, recipe.deviation))
    if isinstance(recipe, MoCo):
        optimizer = torch.optim.SGD(learned, 0.06, 0.9, weight_decay=5e-4, fused=True)
    else:
        optimizer = torch.optim.Adam(learned, 1e-3, weight_decay=1e-6, fused=True)
    for epoch in range(recipe.epochs):
        if isinstance(recipe, MoCo):
            optimizer.param_groups[0]["lr"] = 0.06 * 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(images), generator=generator).tolist()
        numbers = torch.rand(len(images), 2, Augmentation.numbers, generator=generator)
        for start in range(0, len(images) - recipe.batch + 1, recipe.batch):
            rows = order[start : start + recipe.batch]
            sides = [
                (recipe.augmentation(images[rows] / 255, numbers[rows, side]) - mean) / deviation for side in (0, 1)
            ]
            optimizer.zero_grad()
            learner(*(side.contiguous(memory_format=torch.channels_last) for side in sides)).backward()
            optimizer.step()
    return module.state_dict()


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_training_is_the_loop_written_down(recipe: Contrastive, records: Dataset, tmp_path: Path) -> None:
    found = recipe.load(trained(recipe, records, tmp_path)).load().backbone.state_dict()
    expected = naive(recipe, pixels(records, 8), 7)
    assert same(found, expected)
    torch.manual_seed(7)
    start = recipe.module().state_dict()
    assert not [name for name in expected if torch.equal(expected[name], start[name])]


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_a_seed_gives_the_same_weights_twice(
    recipe: Contrastive, records: Dataset, tmp_path: Path, seen: list[tuple[torch.nn.Module, torch.optim.Optimizer]]
) -> None:
    first = trained(recipe, records, tmp_path / "a")
    torch.manual_seed(99)  # nothing hangs on where the global generator stands
    again = trained(recipe, records, tmp_path / "b")
    assert contents(first) == contents(again)
    assert same(state(*seen[0]), state(*seen[1]))
    assert weights(trained(recipe, records, tmp_path / "a", seed=8)) != weights(first)


@contextmanager
def _recording(calls: list[tuple[int, int]], stop: int | None) -> Iterator[Callable[[int, int, str], None]]:
    def move(done: int, total: int, note: str = "") -> None:
        calls.append((done, total))
        if done == stop:
            raise KeyboardInterrupt

    yield move


def recorded(monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> list[tuple[int, int]]:
    """What the bar is told from now on; the training is killed when `stop` steps are done."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(shadows, "bar", lambda *_args, **_options: _recording(calls, stop))
    return calls


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_a_training_that_was_killed_ends_as_one_that_was_not(
    recipe: Contrastive,
    records: Dataset,
    tmp_path: Path,
    seen: list[tuple[torch.nn.Module, torch.optim.Optimizer]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed again and again: in the first epoch, within a later one, between steps and checkpoint, and at the end."""
    recipe = replace(recipe, checkpoints=(2, 3))
    recorded(monkeypatch)
    whole = trained(recipe, records, tmp_path / "whole")
    expected = state(*seen[-1])
    monkeypatch.setattr(pretraining, "EVERY", 0.0)
    done = 0
    for stop in (1, 4, 5, 6, 8):
        calls = recorded(monkeypatch, stop)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, records, tmp_path / "killed")
        assert calls[0][0] == done * STEPS + 1  # epochs that are done are not trained again
        done = (stop - 1) // STEPS
        unfinished = job(recipe, records).folder(tmp_path / "killed").with_suffix(".unfinished")
        assert (unfinished / "checkpoint.safetensors").exists() == (done > 0)
    with safe_open(unfinished / "checkpoint.safetensors", "pt") as file:
        assert file.metadata()["epoch"] == "3"
    calls = recorded(monkeypatch)
    resumed = trained(recipe, records, tmp_path / "killed")
    assert calls == [(3 * STEPS + 1, 4 * STEPS), (4 * STEPS, 4 * STEPS)]
    assert same(state(*seen[-1]), expected)
    remembered = sum(name.startswith("optimizer.") for name in expected)
    assert remembered == len(seen[-1][1].param_groups[0]["params"]) * (1 if isinstance(recipe, MoCo) else 3)
    assert contents(resumed) == contents(whole)
    assert not [name for name in contents(resumed) if name.startswith("checkpoint")]


def test_a_state_is_written_only_now_and_then(
    records: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that a step moves on by 10 s: after every second epoch, as 30 s have gone by; never after the last."""
    clock, written, save = [100.0], [], pretraining.save

    @contextmanager
    def bar(*_: object, **__: object) -> Iterator[Callable[[int, int, str], None]]:
        def move(done: int, total: int, note: str) -> None:
            clock[0] += 10

        yield move

    def saving(folder: Path, learner: torch.nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        written.append(epoch)
        save(folder, learner, optimizer, epoch)

    monkeypatch.setattr(shadows, "bar", bar)
    monkeypatch.setattr(pretraining, "monotonic", lambda: clock[0])
    monkeypatch.setattr(pretraining, "save", saving)
    trained(replace(MOCO, epochs=8), records, tmp_path)
    assert written == [2, 4, 6]
    assert pretraining.EVERY == 30


def test_a_full_disk_is_said_clearly_and_the_rerun_goes_on(
    records: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the state, the encoder of an epoch or the last one has no room."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    state, weights = (
        "hf_mia.recipes.checkpoint.save_file",
        "hf_mia.architectures.encoders.ResNet18Model.save_pretrained",
    )
    monkeypatch.setattr(pretraining, "EVERY", 0.0)
    for recipe, place in (
        (MOCO, state),
        (replace(MOCO, checkpoints=(2,)), weights),
        (replace(MOCO, epochs=3), weights),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(OSError, match=r"cannot write the model to .*No space left.*free some space.*run again"):
                trained(recipe, records, tmp_path / "full")
        whole = trained(recipe, records, tmp_path / "whole")
        assert contents(trained(recipe, records, tmp_path / "full")) == contents(whole)


# schedules, and what is kept


def test_the_rate_is_half_a_cosine() -> None:
    assert [replace(MOCO, learning_rate=0.08).rate(epoch) for epoch in range(4)] == pytest.approx(
        [0.08, 0.04 + 0.04 * 0.5**0.5, 0.04, 0.04 - 0.04 * 0.5**0.5], rel=1e-12
    )
    assert [SIMCLR.rate(epoch) for epoch in range(4)] == [1e-3] * 4
    assert replace(MOCO, stop=2).rate(1) == MOCO.rate(1) != replace(MOCO, epochs=2).rate(1)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_every_epoch_is_trained_at_its_rate(
    recipe: Contrastive,
    records: Dataset,
    tmp_path: Path,
    seen: list[tuple[torch.nn.Module, torch.optim.Optimizer]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates: list[float] = []
    kind = torch.optim.SGD if isinstance(recipe, MoCo) else torch.optim.Adam
    step = kind.step

    def stepping(self: torch.optim.Optimizer, *rest: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *rest)

    monkeypatch.setattr(kind, "step", stepping)
    trained(recipe, records, tmp_path)
    assert rates == [recipe.rate(epoch) for epoch in range(4) for _ in range(STEPS)]


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_what_is_kept_is_a_training_that_stopped_there(recipe: Contrastive, records: Dataset, tmp_path: Path) -> None:
    kept = replace(recipe, checkpoints=(4, 2))
    assert kept.kept() == (2, 4)
    folder = trained(kept, records, tmp_path)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"epoch-0002", "epoch-0004"}
    stopped = trained(replace(recipe, stop=2), records, tmp_path)
    assert weights(kept.after(folder, 2)) == weights(stopped) != weights(folder)
    assert weights(kept.after(folder, 4)) == weights(folder) == weights(trained(recipe, records, tmp_path))
    assert not [path for path in stopped.iterdir() if path.is_dir()]
    short = trained(replace(recipe, epochs=2), records, tmp_path)
    assert (weights(short) == weights(stopped)) == isinstance(recipe, SimCLR)  # only MoCo's schedule knows its end
    models = [recipe.load(path) for path in (kept.after(folder, 2), kept.after(folder, 4), stopped, folder)]
    answers = [model.load()(torch.linspace(0, 1, 2 * 192).view(2, 3, 8, 8)) for model in models]
    assert torch.equal(answers[0], answers[2])
    assert torch.equal(answers[1], answers[3])
    assert not torch.equal(answers[0], answers[1])
    assert len({model.key for model in models}) == 2


@pytest.mark.parametrize(("stop", "last"), [(None, 4), (0, 0), (3, 3), (4, 4), (9, 4)])
def test_stop_ends_a_training(
    stop: int | None, last: int, records: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(MOCO, stop=stop)
    calls = recorded(monkeypatch)
    trained(recipe, records, tmp_path)
    assert recipe.last == last
    assert recipe.steps(records, recipe.processor([])) == last * STEPS
    assert calls == [(step + 1, last * STEPS) for step in range(last * STEPS)]


@pytest.mark.parametrize("rows", [8, 15, 16, 21])
def test_steps_and_time_are_those_of_training(
    rows: int, records: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves on by a second a step: an estimate takes as many seconds a step, however few images."""
    recipe, clock, forward = replace(MOCO, checkpoints=(1, 3), stop=3), [0.0], MoCoLearner.forward
    some, processor = records.select(range(rows)), MOCO.processor([])

    def ticking(self: MoCoLearner, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        clock[0] += 1
        return forward(self, first, second)

    monkeypatch.setattr(MoCoLearner, "forward", ticking)
    monkeypatch.setattr(contrastive, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(pretraining, "EVERY", 0.0)
    from accelerate import Accelerator

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert recipe.time(some, processor, scratch, Accelerator()) == 1
    assert list(scratch.iterdir()) == []
    clock[0], calls = 0.0, recorded(monkeypatch)
    trained(recipe, some, tmp_path)
    assert clock[0] == calls[-1][0] == calls[-1][1] == recipe.steps(some, processor) == 3 * (rows // 8)


def test_the_model_is_saved_with_what_prepares_its_images(records: Dataset, tmp_path: Path) -> None:
    recipe = replace(MOCO, epochs=1, checkpoints=(1,), mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.6, 0.7))
    folder = trained(recipe, records, tmp_path)
    images = pixels(records, 8)
    for place in (folder, recipe.after(folder, 1)):
        model = recipe.load(place)
        batch = model.collate.pad(model.collate.encode(records[:]))
        assert torch.equal(batch["pixels"], images)
        loaded = model.load()
        mean, deviation = (torch.tensor(value)[:, None, None] for value in (recipe.mean, recipe.deviation))
        expected = loaded.backbone((images / 255 - mean) / deviation).pooler_output
        assert expected.shape == (21, 16)
        torch.testing.assert_close(loaded(images / 255), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_a_blank_is_the_model_before_training(recipe: Contrastive, records: Dataset, tmp_path: Path) -> None:
    blank = replace(recipe, stop=3, checkpoints=(1, 3)).blank()
    assert type(blank) is type(recipe)
    assert blank.steps(records, blank.processor([])) == 0
    assert blank.kept() == ()
    folder = trained(blank, records, tmp_path)
    torch.manual_seed(7)
    assert same(recipe.module().state_dict(), recipe.load(folder).load().backbone.state_dict())


CHANGED = {
    "architecture": "vgg11", "width": 3, "size": 9, "epochs": 5, "stop": 2, "checkpoints": (1,), "batch": 7,
    "learning_rate": 0.1, "decay": 0.1, "temperature": 0.7, "splits": 1, "augmentation": Augmentation(flip=0.1),
    "mean": (0.4, 0.4, 0.4), "deviation": (0.3, 0.2, 0.2), "precision": "bf16", "compile": True, "queue": 13,
    "key_momentum": 0.9, "momentum": 0.5,
}  # fmt: skip


def test_a_key_covers_every_field(records: Dataset, tmp_path: Path) -> None:
    assert {item.name for item in fields(MOCO) if item.init} == set(CHANGED)
    for recipe in (MOCO, SIMCLR):
        own = [item.name for item in fields(recipe) if item.init]
        every = [recipe, *(replace(recipe, **{name: CHANGED[name]}) for name in own)]
        assert len({one.key() for one in every}) == len({job(one, records).folder(tmp_path) for one in every})
        assert len({one.key() for one in every}) == 1 + len(own)
    assert MoCo(batch=8, learning_rate=0.1).key() != SimCLR(batch=8, learning_rate=0.1).key()
    seen = {
        MOCO.processor_key(one.processor([])) for one in (MOCO, replace(MOCO, size=9), replace(MOCO, mean=(0,) * 3))
    }
    assert len(seen) == 3


# errors


@pytest.mark.parametrize("recipe", [MOCO, SIMCLR], ids=NAMES[:2])
@pytest.mark.parametrize("what", ["train", "steps", "time"])
def test_fewer_images_than_a_batch_are_refused(
    what: str, recipe: Contrastive, records: Dataset, tmp_path: Path
) -> None:
    from accelerate import Accelerator

    few, processor = records.select(range(7)), recipe.processor([])
    asked = {
        "train": lambda: trained(recipe, few, tmp_path),
        "steps": lambda: recipe.steps(few, processor),
        "time": lambda: recipe.time(few, processor, tmp_path, Accelerator()),
    }
    with pytest.raises(ValueError, match=r"batch = 8 is more than the 7 images to train on: lower it, or add images"):
        asked[what]()


@pytest.mark.parametrize(
    ("name", "value", "lowest"),
    [
        ("epochs", -1, 0), ("stop", -1, 0), ("batch", 1, 2), ("width", 0, 1), ("size", 0, 1), ("splits", 0, 1),
        ("learning_rate", -0.1, 0), ("decay", -1e-6, 0), ("queue", 0, 1), ("momentum", -0.9, 0),
    ],
)  # fmt: skip
def test_values_that_are_too_small_are_refused(name: str, value: float, lowest: int) -> None:
    message = f"{name} must be at least {lowest}, but is {value}"
    for recipe in (MOCO, SIMCLR):
        if hasattr(recipe, name):
            with pytest.raises(ValueError, match=message):
                replace(recipe, **{name: value})
            assert getattr(replace(recipe, **{name: lowest}), name) == lowest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be greater than 0, but is 0\.0"),
        ({"temperature": float("nan")}, "temperature must be greater than 0, but is nan"),
        ({"key_momentum": 1.1}, r"key_momentum must lie in \[0, 1\], but is 1\.1"),
        ({"key_momentum": -0.1}, r"key_momentum must lie in \[0, 1\], but is -0\.1"),
        ({"checkpoints": (0, 4)}, r"checkpoints must be epochs from 1 to 4.*hold \[0\]: leave these out"),
        ({"checkpoints": (1, 5, 9)}, r"checkpoints must be epochs from 1 to 4.*hold \[5, 9\]: leave these out"),
        ({"checkpoints": (1, 3), "stop": 2}, r"checkpoints must be epochs from 1 to 2.*hold \[3\].*train longer"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MOCO, **changes)
