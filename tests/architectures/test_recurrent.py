"""The recurrent language model: exact after a reload, also elsewhere, and equal to its equations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from hf_mia.architectures.recurrent import RecurrentConfig, RecurrentForCausalLM, RecurrentModel

IDS = torch.tensor([[1, 5, 9, 2], [3, 3, 0, 7]])


def made(cell: str, seed: int = 0) -> RecurrentForCausalLM:
    torch.manual_seed(seed)
    return RecurrentForCausalLM(RecurrentConfig(20, 6, 5, 0.25, cell, eos_token_id=0)).eval()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_reload_is_exact(tmp_path: Path, cell: str) -> None:
    module = made(cell)
    module.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    torch.manual_seed(99)  # what a reload draws must not show
    whole, base = AutoModelForCausalLM.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert type(whole) is RecurrentForCausalLM
    assert type(base) is RecurrentModel
    assert not whole.training
    with torch.no_grad():
        assert torch.equal(whole(IDS).logits, module(IDS).logits)
        assert torch.equal(base(IDS).last_hidden_state, module.model(IDS).last_hidden_state)
    saved = AutoConfig.from_pretrained(tmp_path)
    assert (saved.vocab_size, saved.cell, saved.dropout, saved.eos_token_id) == (20, cell, 0.25, 0)
    assert saved.tie_word_embeddings is False


def test_a_reload_in_another_process_is_exact(tmp_path: Path) -> None:
    module = made("gru")
    module.save_pretrained(tmp_path)
    code = (
        "import sys, numpy, torch; from hf_mia.models.language import _load; from pathlib import Path\n"
        "torch.manual_seed(5)\n"
        "folder = Path(sys.argv[1]); ids = torch.tensor([[1, 5, 9, 2], [3, 3, 0, 7]])\n"
        "numpy.save(folder / 'logits.npy', _load(folder)(ids).logits.detach().numpy())"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, timeout=120)
    assert np.array_equal(np.load(tmp_path / "logits.npy"), module(IDS).logits.detach().numpy())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_beginning_hangs_on_the_seed(cell: str) -> None:
    first, same, other = made(cell), made(cell), made(cell, seed=1)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
        assert "bias" in name or not torch.equal(weight, other.state_dict()[name])


def test_the_beginning_is_keras() -> None:
    weights = made("lstm").state_dict()
    assert weights["model.embedding.weight"].abs().max() <= 0.05
    assert weights["model.embedding.weight"].std() == pytest.approx(0.05 / 3**0.5, rel=0.15)
    forget = weights["model.cell.bias_ih_l0"] + weights["model.cell.bias_hh_l0"]
    assert forget.tolist() == [0] * 5 + [1] * 5 + [0] * 10
    square = weights["model.cell.weight_hh_l0"]
    torch.testing.assert_close(square.T @ square, torch.eye(5), rtol=0, atol=1e-5)
    assert (weights["lm_head.bias"] == 0).all()
    assert weights["lm_head.weight"].abs().max() <= (6 / (20 + 5)) ** 0.5


def test_an_lstm_of_the_equations() -> None:
    """One row by hand, gate by gate, in float64."""
    module = made("lstm").double()
    w = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    h, c, logits = np.zeros(5), np.zeros(5), []
    for token in IDS[0].tolist():
        gates = w["model.cell.weight_ih_l0"] @ w["model.embedding.weight"][token] + w["model.cell.bias_ih_l0"]
        i, f, g, o = np.split(gates + w["model.cell.weight_hh_l0"] @ h + w["model.cell.bias_hh_l0"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        logits.append(w["lm_head.weight"] @ h + w["lm_head.bias"])
    np.testing.assert_allclose(module(IDS).logits[0].detach().numpy(), logits, rtol=0, atol=1e-12)


def test_padding_on_the_right_changes_nothing_on_the_left() -> None:
    module = made("gru")
    torch.testing.assert_close(module(IDS[:, :2]).logits, module(IDS).logits[:, :2], rtol=0, atol=1e-6)


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    module = made("lstm")
    assert torch.equal(module(IDS).logits, module(IDS).logits)
    module.train()
    assert not torch.equal(module(IDS).logits, module(IDS).logits)


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['gru', 'lstm'\].*'rnn'"):
        RecurrentConfig(cell="rnn")
