"""The recipes that a config can name: a fine-tune starts from its weights, a model from a configuration needs none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from worlds import pool

from hf_mia.audits.experiment import experiment, mapping
from hf_mia.audits.plan import kind
from hf_mia.config import changes_of, named
from hf_mia.recipes.language import CausalLM, FromConfig, Recurrent, windows
from hf_mia.recipes.named import RECIPES
from hf_mia.shadows import Job, train


def trained(recipe: CausalLM, cache: Path) -> dict[str, torch.Tensor]:
    records = pool(12, 5, seed=3).records
    (folder,) = train([Job("model", recipe, records, recipe.processor([]), 3)], cache)
    return {name: weight.clone() for name, weight in recipe.load(folder).load().named_parameters()}


def test_a_model_from_a_configuration_needs_no_weights(gpt2_folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(gpt2_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    recipe = FromConfig(model=str(bare), epochs=2, window=12)
    first, again = (trained(recipe, tmp_path / name) for name in ("a", "b"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    with pytest.raises(ValueError, match="no safetensors weights"):
        trained(CausalLM(model=str(bare), epochs=2, window=12), tmp_path / "c")


def test_a_fine_tune_starts_from_the_weights_it_names(gpt2_folder: Path, tmp_path: Path) -> None:
    started = CausalLM(model=str(gpt2_folder)).module(CausalLM(model=str(gpt2_folder)).processor([]))
    untouched = trained(CausalLM(model=str(gpt2_folder), epochs=0, window=12), tmp_path)
    assert all(torch.equal(weight, untouched[name]) for name, weight in started.named_parameters())
    tuned = trained(CausalLM(model=str(gpt2_folder), epochs=1, window=12), tmp_path)
    moved = max(float((tuned[name] - weight).abs().max()) for name, weight in started.named_parameters())
    assert 0 < moved < 0.05  # a few steps of 5e-5, not another start


LABELLED = [name for name, recipe in RECIPES.items() if "label" in recipe.columns]


@pytest.mark.parametrize("name", LABELLED)
def test_a_recipe_of_labelled_records_survives_the_round_trip(name: str) -> None:
    made = named(RECIPES, {"name": name, "epochs": 7, "batch": 3}, "target")
    assert named(RECIPES, {"name": name, **changes_of(made, RECIPES[name])}, "target") == made
    assert (made.epochs, made.batch) == (7, 3)  # type: ignore[attr-defined]
    assert type(made) is type(RECIPES[name])
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        named(RECIPES, {"name": name, "epoch": 7}, "target")


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in LABELLED])
def test_every_recipe_survives_the_round_trip(name: str) -> None:
    made = experiment(
        {"data": {"kind": kind(RECIPES[name].columns)}, "target": {"name": name, "epochs": 7, "batch": 3}}
    )
    assert experiment(mapping(made)) == made
    assert (made.target.epochs, made.target.batch) == (7, 3)
    assert type(made.target) is type(RECIPES[name])


def test_windows_hold_every_token_as_a_target_once() -> None:
    """Against the definition: texts joined, each ended by EOS, cut with one token of overlap."""
    corpus = pool(3, 4, seed=1)
    recipe = replace(RECIPES["lstm"], vocabulary=100)
    assert isinstance(recipe, Recurrent)
    processor = recipe.processor(corpus.records["text"])
    stream = [i for text in corpus.records["text"] for i in [*processor(text)["input_ids"], processor.eos_token_id]]
    found = windows(corpus.records, processor, 7)
    assert found[:, 1:].flatten().tolist() == stream[1 : 1 + 7 * len(found)]
    assert found[:, 0].tolist() == stream[0 : 7 * len(found) : 7]
    assert len(stream) - 1 - 7 * len(found) < 7
