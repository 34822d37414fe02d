"""A training step whose batch does not fit is taken in pieces: the same gradient, and never an abort."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers.modeling_outputs import CausalLMOutput
from worlds import tiny_gpt2

from hf_mia.architectures.recurrent import RecurrentConfig, RecurrentForCausalLM
from hf_mia.recipes.language import CausalLM, LanguageRecipe, Recurrent
from hf_mia.recipes.loop import Examples, Pairs, Windows, fit
from hf_mia.recipes.pieces import Pieces


class Scarce(RecurrentForCausalLM):
    """A model for which memory suffices for `most` rows."""

    most = 8
    tried: list[int]

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
    ) -> CausalLMOutput:
        """Of pairs, the targets alone."""
        input_ids = input_ids if decoder_input_ids is None else decoder_input_ids
        self.tried.append(len(input_ids))
        if len(input_ids) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(input_ids)


def trained(plan: LanguageRecipe, examples: Examples, most: int, folder: Path, dropout: float = 0.0) -> Scarce:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    module = Scarce(RecurrentConfig(20, 6, 5, dropout))
    module.most, module.tried = most, []
    fit(module, examples, plan, 1, folder, Accelerator(), lambda done, total, note: None)
    return module


def ragged() -> Pairs:
    """Targets of different lengths, so that a mean over tokens is no mean over rows."""
    generator = torch.Generator().manual_seed(0)
    lengths = [2 + 3 * (i % 4) for i in range(21)]
    rows = [torch.randint(1, 20, (length,), generator=generator).tolist() for length in lengths]
    return Pairs(rows, rows, 0)


WINDOWS = Windows(torch.randint(0, 20, (21, 7), generator=torch.Generator().manual_seed(0)))
PLANS = {"rows": Recurrent(epochs=3, batch=8, learning_rate=0.02, optimizer="sgd", clip=5.0),
         "tokens": CausalLM(model="none", epochs=3, batch=8, learning_rate=0.5, optimizer="sgd")}  # fmt: skip


@pytest.mark.parametrize("name", list(PLANS))
@pytest.mark.parametrize("examples", [WINDOWS, ragged()], ids=["windows", "ragged"])
@pytest.mark.parametrize("most", [1, 3, 4])
def test_pieces_train_as_the_whole_batch(name: str, examples: Examples, most: int, tmp_path: Path) -> None:
    whole = trained(PLANS[name], examples, 8, tmp_path / "whole")
    found = trained(PLANS[name], examples, most, tmp_path / "pieces")
    for one, other in zip(found.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert sum(rows > most for rows in found.tried) <= 3  # 8, then 4, then 2: each is tried once
    assert set(whole.tried) == {8, 5}
    torch.manual_seed(0)
    start = Scarce(RecurrentConfig(20, 6, 5, 0.0)).parameters()
    assert max(float((one - other).abs().max()) for one, other in zip(whole.parameters(), start, strict=True)) > 1e-3


def test_a_run_that_goes_on_ends_as_one_that_was_not_killed(tmp_path: Path) -> None:
    """With dropout: whoever finds out anew in the second epoch draws the same numbers as who knew from the first."""
    plan = PLANS["rows"]
    whole = trained(plan, WINDOWS, 4, tmp_path / "whole", dropout=0.5)

    class Killed(Exception): ...

    def kill(done: int, total: int, note: str) -> None:
        if note.startswith("epoch 2"):
            raise Killed

    torch.manual_seed(0)
    module = Scarce(RecurrentConfig(20, 6, 5, 0.5))
    module.most, module.tried = 4, []
    (tmp_path / "killed").mkdir()
    with pytest.raises(Killed):
        fit(module, WINDOWS, plan, 1, tmp_path / "killed", Accelerator(), kill)
    again = trained(plan, WINDOWS, 4, tmp_path / "killed", dropout=0.5)
    for one, other in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_one_row_that_does_not_fit_and_any_other_fault_are_errors(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        trained(PLANS["rows"], WINDOWS, 0, tmp_path)
    asked: list[int] = []

    def backward(rows: torch.Tensor) -> None:
        asked.append(len(rows))
        raise RuntimeError("another fault")

    with pytest.raises(RuntimeError, match="another fault"):
        Pieces().step(torch.arange(8), lambda: None, backward)
    assert asked == [8]


def test_what_a_failed_try_left_is_cleared() -> None:
    """A backward pass that fails half-way has added some gradient."""
    added: list[int] = []

    def backward(rows: torch.Tensor) -> None:
        added.extend(rows.tolist())
        if len(rows) > 2:
            raise MemoryError

    pieces = Pieces()
    pieces.step(torch.arange(5), added.clear, backward)
    assert added == [0, 1, 2, 3, 4]
    assert pieces.count == 4


def test_a_fine_tune_goes_through_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of a whole recipe, where its first whole batch did not fit."""
    plan = CausalLM(
        model=str(tiny_gpt2(tmp_path / "gpt2")), epochs=1, batch=4, window=6, optimizer="sgd", learning_rate=0.1
    )
    tokens = Windows(torch.randint(0, 100, (8, 7), generator=torch.Generator().manual_seed(0)))
    results = []
    for most in (4, 2):
        module = plan.module(plan.processor([]))
        real = module.forward

        def forward(input_ids: torch.Tensor, most: int = most, real: object = real) -> object:
            if len(input_ids) > most:
                raise MemoryError
            return real(input_ids=input_ids)  # type: ignore[operator]

        monkeypatch.setattr(module, "forward", forward)
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        fit(module, tokens, plan, 1, tmp_path / str(most), Accelerator(), lambda done, total, note: None)
        results.append([weight.detach().clone() for weight in module.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
