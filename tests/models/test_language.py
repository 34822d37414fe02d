"""Models by name or folder: what can be audited is loaded, what cannot is refused and says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, T5Config, T5ForConditionalGeneration
from worlds import tiny_gpt2

from hf_mia.models.language import TextCollate, language_model


def test_a_causal_model_loads_from_its_folder(gpt2_folder: Path) -> None:
    model = language_model(gpt2_folder)
    module = model.load()
    assert isinstance(module, PreTrainedModel)
    assert module.dtype == torch.float32
    assert not module.training
    assert isinstance(model.collate, TextCollate)
    assert model.collate.context == 16
    assert model.name == str(gpt2_folder)
    assert sum(parameter.numel() for parameter in module.parameters()) < 100_000


def test_the_key_is_the_content_and_not_the_place(gpt2_folder: Path, tmp_path: Path) -> None:
    assert language_model(tiny_gpt2(tmp_path)).key == language_model(gpt2_folder).key


def no_tokenizer(folder: Path) -> Path:
    tiny_gpt2(folder)
    for path in folder.glob("*token*"):
        path.unlink()
    return folder


def encoder_only(folder: Path) -> Path:
    tiny_gpt2(folder)
    sizes = {"vocab_size": 150, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(**sizes, intermediate_size=16)).save_pretrained(folder)
    return folder


def encoder_decoder(folder: Path) -> Path:
    tiny_gpt2(folder)
    sizes = {"vocab_size": 150, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(folder)
    return folder


def pickled(folder: Path) -> Path:
    tiny_gpt2(folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    return folder


def remote_code(folder: Path) -> Path:
    tiny_gpt2(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


def remote_tokenizer(folder: Path) -> Path:
    no_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Theirs", None]}})
    )
    (folder / "theirs.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


def no_config(folder: Path) -> Path:
    tiny_gpt2(folder)
    (folder / "config.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_tokenizer, r"no tokenizer.*tokenizer\.save_pretrained"),
        (encoder_only, r"encoder-only \(bert\).*GPT-2"),
        (encoder_decoder, r"encoder-decoder \(t5\).*GPT-2"),
        (pickled, r"no safetensors weights.*save_pretrained"),
        (remote_code, r"code.*not run"),
        (remote_tokenizer, r"no tokenizer that transformers can load"),
        (no_config, r"no config\.json.*save_pretrained"),
    ],
)
def test_what_cannot_be_audited_is_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    folder = make(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"(?s){message}") as caught:
        language_model(folder)
    assert str(folder) in str(caught.value)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("source", ["no/such/folder", "./nothing-here", "nobody/nothing-at-all", "two//slashes"])
def test_a_missing_path_is_named(source: str) -> None:
    with pytest.raises(ValueError, match="local folder") as caught:
        language_model(source)
    assert repr(source) in str(caught.value)


def test_weights_that_are_pickled_beside_safe_ones_are_never_read(tmp_path: Path) -> None:
    folder = tiny_gpt2(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"a bomb")
    assert isinstance(language_model(folder).load(), PreTrainedModel)
