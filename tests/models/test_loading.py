"""How large models are loaded: what transformers is told, what is kept apart in the cache, what is refused."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM
from worlds import each, pool, tiny_gpt2

import hf_mia.models.loading as module
from hf_mia.audits.experiment import experiment, mapping
from hf_mia.audits.targets import Checkpoint
from hf_mia.core import Pool
from hf_mia.models.language import language_model
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.models.placing import stays
from hf_mia.probes.tokens import Tokens
from hf_mia.runner import Runner

NAMES = ("token", "rank", "logprob", "mean", "deviation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def asked() -> Pool:
    return pool(6, 2, 1)


def answers(folder: Path, cache: Path, asked: Pool, loading: Loading = WHOLE) -> list[dict[str, np.ndarray]]:
    return list(each(Runner(cache, chunk=5)(language_model(folder, None, loading), Tokens(), asked.records)))


def test_a_device_map_is_loaded_as_such_and_answers_the_same(folder: Path, asked: Pool, tmp_path: Path) -> None:
    """For real, by accelerate, on the devices that there are: where there is but one, nothing is spread."""
    loading = Loading(device_map="auto")
    plain = answers(folder, tmp_path / "plain", asked)
    for one, other in zip(answers(folder, tmp_path / "auto", asked, loading), plain, strict=True):
        for name in NAMES:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5)


def test_a_model_that_is_partly_on_the_disk_answers_the_same(folder: Path, asked: Pool, tmp_path: Path) -> None:
    """Weights that are moved in for each layer; hidden states and head are asked for one by one all the same."""
    model = language_model(folder)
    whole = AutoModelForCausalLM.from_pretrained(folder)
    layers = [name for name, _ in whole.named_children()]
    places = {f"transformer.{name}": "cpu" for name, _ in whole.transformer.named_children()}
    places |= {"transformer.h": "disk", **{name: "cpu" for name in layers if name != "transformer"}}
    spread = AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=tmp_path / "offload", dtype=torch.float32
    ).eval()
    assert any(weights.device.type == "meta" for weights in spread.parameters())
    assert stays(spread)
    kept = replace(model, load=lambda: spread)
    found = each(Runner(tmp_path / "spread", chunk=5)(kept, Tokens(), asked.records))
    for one, other in zip(found, answers(folder, tmp_path / "plain", asked), strict=True):
        for name in NAMES:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, object]:
    """What transformers' loader is told, as if bitsandbytes were there."""
    given: dict[str, object] = {}

    def loader(place: Path, **options: object) -> torch.nn.Module:
        given.update(options, place=place)
        return torch.nn.Linear(1, 1)

    version = importlib.metadata.version
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "0.48.0" if n == "bitsandbytes" else version(n))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", loader)
    return given


def test_quantization_reaches_transformers(folder: Path, told: dict[str, object]) -> None:
    language_model(folder, None, Loading("auto", "8bit", "bfloat16")).load()
    assert (told["device_map"], told["dtype"]) == ("auto", "bfloat16")
    assert told["use_safetensors"] is True
    assert told["trust_remote_code"] is False
    config = told["quantization_config"]
    assert isinstance(config, transformers.BitsAndBytesConfig)
    assert (config.load_in_8bit, config.load_in_4bit) == (True, False)
    language_model(folder, None, Loading(quantization="4bit")).load()
    config = told["quantization_config"]
    assert isinstance(config, transformers.BitsAndBytesConfig)
    assert (config.load_in_8bit, config.load_in_4bit) == (False, True)


def test_nothing_is_told_of_what_is_not_set(folder: Path, told: dict[str, object]) -> None:
    language_model(folder).load()
    assert set(told) == {"place", "use_safetensors", "trust_remote_code", "dtype"}


def test_without_bitsandbytes_the_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    message = r"quantization = '8bit' takes the package bitsandbytes, which is not installed: install it, or set"
    with pytest.raises(ValueError, match=message):
        language_model(folder, None, Loading(quantization="8bit"))
    made = experiment({"target": {"name": "checkpoint", "model": str(folder), "quantization": "8bit"}, **LEAST})
    with pytest.raises(ValueError, match=message):
        made.target.load(made.data, pool(2, 1, 1).records, Path())


LEAST = {"shadows": {"count": 0}, "attacks": ["mean-rank"]}


def test_other_numbers_have_another_key_and_other_devices_have_not() -> None:
    keys = [
        loading.key("k")
        for loading in (
            Loading(),
            Loading(quantization="8bit"),
            Loading(quantization="4bit"),
            Loading(dtype="bfloat16"),
            Loading(dtype="float16"),
            Loading(quantization="8bit", dtype="float16"),
        )
    ]
    assert keys[0] == "k"  # what was asked before stays
    assert len(set(keys)) == len(keys)
    assert Loading(device_map="auto").key("k") == "k"


def test_a_dtype_is_asked_anew_and_answers_in_its_own_numbers(folder: Path, asked: Pool, tmp_path: Path) -> None:
    plain = answers(folder, tmp_path, asked)
    half = answers(folder, tmp_path, asked, Loading(dtype="bfloat16"))
    shift = max(np.abs(one["logprob"] - other["logprob"]).max() for one, other in zip(half, plain, strict=True))
    assert 0 < shift < 0.5


def test_a_checkpoint_and_its_reference_are_loaded_alike(folder: Path, tmp_path: Path) -> None:
    """The reference with the target's own weights is found out, whatever the way of loading."""
    fields = {"name": "checkpoint", "model": str(folder), "dtype": "bfloat16", "device_map": "auto"}
    made = experiment({"target": {**fields, "reference": str(folder)}, **LEAST})
    assert experiment(mapping(made)) == made
    assert isinstance(made.target, Checkpoint)
    own = made.target.load(made.data, pool(2, 1, 1).records, tmp_path)
    assert own.key != language_model(folder).key
    assert next(own.load().parameters()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="has the target's own weights"):
        made.target.base(made.data, pool(2, 1, 1).records, own)


def test_an_unknown_quantization_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target\.quantization = '2bit'"):
        experiment({"target": {"name": "checkpoint", "model": "x", "quantization": "2bit"}, **LEAST})
