"""Per-example gradients against one backward pass a record, vectorised and one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers as hf
from worlds import ragged

from hf_mia.collate import Batch
from hf_mia.models.logits import RowLogits
from hf_mia.probes import gradients
from hf_mia.probes.gradients import Gradients, batched, losses, norms, one_by_one
from hf_mia.signals.classifier import GradientNorm, WhiteBox

ROWS, CLASSES = 7, 3
LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 0])


class Images(torch.nn.Module):
    """A CNN with batch normalisation, which knows other statistics than its batch's."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(in_place), torch.nn.Dropout(0.5)]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * 16, CLASSES))
        self.layers[1].running_mean += torch.rand(4)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.layers(batch["pixels"] / 255)


class Branching(Images):
    """Takes another way where the content says so, which cannot be vectorised."""

    def forward(self, batch: Batch) -> torch.Tensor:
        scale = 1.0 if (batch["pixels"] > 128).sum() % 2 else 2.0
        return super().forward(batch) * scale


class Recurrent(torch.nn.Module):
    """An LSTM over what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = torch.nn.Embedding(20, 6, padding_idx=0), torch.nn.LSTM(6, 5, batch_first=True)
        self.head = torch.nn.Linear(5, CLASSES)

    def forward(self, batch: Batch) -> torch.Tensor:
        states, _ = self.cell(self.embedding(batch["input_ids"]))
        return self.head((states * batch["attention_mask"][:, :, None]).sum(1))


def pixels() -> Batch:
    rng = np.random.default_rng(1)
    return {"pixels": torch.from_numpy(rng.integers(0, 256, (ROWS, 3, 6, 6), dtype=np.uint8)), "label": LABELS}


def tokens() -> Batch:
    rng = np.random.default_rng(2)
    ids = torch.from_numpy(rng.integers(1, 20, (ROWS, 8)))
    mask = (torch.arange(8) < torch.from_numpy(rng.integers(2, 9, ROWS))[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "length": mask.sum(1), "label": LABELS}


def whole() -> Batch:
    """Texts of one length, with no mask."""
    ids = torch.from_numpy(np.random.default_rng(3).integers(1, 20, (ROWS, 8)))
    return {"input_ids": ids, "label": LABELS}


def bert(alone: bool) -> Callable[[], torch.nn.Module]:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = hf.BertConfig(
        **sizes, vocab_size=20, max_position_embeddings=10, num_labels=CLASSES, initializer_range=0.5
    )
    return lambda: RowLogits(hf.BertForSequenceClassification(config), (2, 0, 1), alone)


KINDS: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[], Batch], bool]] = {  # and whether it is vectorised
    "cnn": (Images, pixels, True),
    "cnn-in-place": (lambda: Images(True), pixels, True),
    "branching": (Branching, pixels, False),
    "bert": (bert(False), whole, True),
    "bert-padded": (bert(False), tokens, False),  # transformers looks whether the mask leaves out anything
    "bert-alone": (bert(True), tokens, False),
    "lstm": (Recurrent, tokens, False),
}


def made(kind: str) -> tuple[torch.nn.Module, Batch]:
    torch.manual_seed(0)
    return KINDS[kind][0]().train(), KINDS[kind][1]()


def naive(module: torch.nn.Module, batch: Batch) -> tuple[list[float], list[list[float]]]:
    """Each record's loss, and the norm of its gradient by each tensor, by a backward pass of its own in float64."""
    module = copy.deepcopy(module).eval().double()
    values, rows = [], []
    for i in range(ROWS):
        module.zero_grad(set_to_none=True)
        loss = torch.nn.CrossEntropyLoss()(
            module({n: t[i : i + 1] for n, t in batch.items()}), batch["label"][i : i + 1]
        )
        loss.backward()
        values.append(loss.item())
        tensors = [p for p in module.parameters() if p.requires_grad]
        rows.append([0.0 if p.grad is None else float((p.grad**2).sum().sqrt()) for p in tensors])
    return values, rows


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_a_backward_pass_each(kind: str) -> None:
    module, batch = made(kind)
    wide = {n: t.double() if n == "pixels" else t for n, t in batch.items()}
    values, rows = naive(module, wide)
    answers = Gradients().observe(module, batch)
    assert answers["loss"].shape == (ROWS, 1)
    assert answers["gradient"].shape == (ROWS, len(list(module.parameters())))
    assert answers["loss"].dtype == answers["gradient"].dtype == torch.float32
    np.testing.assert_allclose(answers["loss"][:, 0], values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answers["gradient"], rows, rtol=1e-3, atol=1e-6)
    assert np.asarray(rows).std(axis=0).max() > 1e-3


@pytest.mark.parametrize("kind", [kind for kind, (_, _, vectorised) in KINDS.items() if vectorised])
def test_both_ways_give_the_same(kind: str) -> None:
    module, batch = made(kind)
    weights = dict(module.eval().named_parameters())
    with torch.enable_grad():
        first, second = batched(module, weights, batch), one_by_one(module, weights, batch)
    for name in ("loss", "gradient"):
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_vectorised_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(gradients, "one_by_one", lambda *a: (calls.append(1), one_by_one(*a))[1])
    Gradients().observe(*made(kind))
    assert bool(calls) != KINDS[kind][2]


@pytest.mark.parametrize("kind", ["cnn", "branching", "bert", "bert-padded"])
def test_neither_chunks_nor_rows_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = made(kind)
    size, seen = sum(p.numel() for p in module.parameters()), []
    whole = Gradients().observe(module, batch)
    own = gradients._asked
    monkeypatch.setattr(gradients, "_asked", lambda m, w, b: (seen.append(len(b["label"])), own(m, w, b))[1])
    for numbers, rows in ((1, [1] * 7), (3 * size, [3, 3, 1]), (4 * size - 1, [3, 3, 1]), (10**9, [7])):
        seen.clear()
        found = Gradients(numbers).observe(module, batch)
        assert seen == rows
        for name in whole:
            torch.testing.assert_close(found[name], whole[name], rtol=1e-4, atol=1e-6)
    assert repr(Gradients(5)) == repr(Gradients())


def test_a_record_is_asked_the_same_whatever_pads_it() -> None:
    module, batch = made("bert-padded")
    wide = {name: torch.nn.functional.pad(t, (0, 0) if t.ndim == 1 else (0, 2)) for name, t in batch.items()}
    found, expected = (Gradients().observe(module, some) for some in (wide, batch))
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_weights_that_are_frozen_are_left_out() -> None:
    module, batch = made("cnn")
    module.layers[0].requires_grad_(False)  # type: ignore[index]
    _, rows = naive(module, {**batch, "pixels": batch["pixels"].double()})
    found = Gradients().observe(module, batch)["gradient"]
    assert found.shape == (ROWS, 4)
    np.testing.assert_allclose(found, rows, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="Images has no parameter that requires a gradient"):
        Gradients().observe(module.requires_grad_(False), batch)


def test_weights_that_are_not_used_have_no_gradient() -> None:
    module, batch = made("cnn")
    module.unused = torch.nn.Linear(2, 2)
    assert (Gradients().observe(module, batch)["gradient"][:, -2:] == 0).all()
    branching, batch = made("branching")
    branching.unused = torch.nn.Linear(2, 2)
    assert (Gradients().observe(branching, batch)["gradient"][:, -2:] == 0).all()


def test_nothing_of_the_module_changes_but_that_it_is_in_evaluation() -> None:
    module, batch = made("cnn")
    before = copy.deepcopy(module.state_dict())
    first, second = Gradients().observe(module, batch), Gradients().observe(module, batch)
    assert all(torch.equal(first[name], second[name]) for name in first)  # dropout drew nothing
    assert not module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(answer.requires_grad for answer in first.values())


@pytest.mark.parametrize("gap", [0.0, 5.0, 50.0, 90.0, -50.0])
def test_losses_and_gradients_keep_their_digits(gap: float) -> None:
    """Of a sure answer, PyTorch's own loss and gradient are 0 in float32; here they are 2 exp(-gap)."""
    logits = torch.tensor([[0.0, gap, 0.0]], requires_grad=True)
    (loss,) = losses(logits, torch.tensor([1]))
    loss.backward()
    exact = np.log1p(2 * np.exp(-gap))
    np.testing.assert_allclose(loss.item(), exact, rtol=1e-5)
    share = 1 / (2 + np.exp(gap))  # p of each other class
    np.testing.assert_allclose(logits.grad, [[share, -2 * share, share]], rtol=1e-5)


def test_norms_of_tiny_gradients_are_not_lost() -> None:
    found = norms(torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3e20, 4e20]]))
    np.testing.assert_allclose(found, [5e-30, 0, 5e20], rtol=1e-6)


@pytest.mark.parametrize("kind", ["cnn", "branching"])
def test_what_cannot_be_asked_is_refused(kind: str) -> None:
    module, batch = made(kind)
    with pytest.raises(ValueError, match="label must be 0 to 2, for the model has 3 classes, but is 3"):
        Gradients().observe(module, {**batch, "label": LABELS + 1})
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity"):
        Gradients().observe(module, batch)


def test_signals_read_what_is_answered() -> None:
    module, batch = made("cnn")
    values, rows = naive(module, {**batch, "pixels": batch["pixels"].double()})
    found = Gradients().observe(module, batch)
    answers = ragged([{name: answer[i].numpy() for name, answer in found.items()} for i in range(ROWS)])
    total = [[-np.log(sum(norm**2 for norm in row) ** 0.5)] for row in rows]
    np.testing.assert_allclose(GradientNorm().measure(answers), total, rtol=1e-3, atol=1e-4)
    expected = [[-value, *np.log(row)] for value, row in zip(values, rows, strict=True)]
    np.testing.assert_allclose(WhiteBox().measure(answers), expected, rtol=1e-3, atol=1e-3)
