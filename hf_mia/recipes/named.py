"""RECIPES: the ways to train a next-word model, by the names that a config uses."""

from __future__ import annotations

from hf_mia.recipes.language import CausalLM, FromConfig, LanguageRecipe, Recurrent

RECIPES: dict[str, LanguageRecipe] = {
    "lstm": Recurrent(),
    "gru": Recurrent(cell="gru"),
    "fine-tune": CausalLM(model="openai-community/gpt2"),
    "from-config": FromConfig(model="openai-community/gpt2"),
}
