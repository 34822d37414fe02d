"""RECIPES: the ways to train a model, by the names that a config uses."""

from __future__ import annotations

from hf_mia.recipes import Recipe
from hf_mia.recipes.classifying import ImageClassifier, TextClassifier
from hf_mia.recipes.contrastive import MoCo, SimCLR
from hf_mia.recipes.fine_tuning import FineTunedAudioClassifier, FineTunedImageClassifier, FineTunedTextClassifier
from hf_mia.recipes.language import CausalLM, FromConfig, Recurrent
from hf_mia.recipes.pairing import FineTunedPairs, MarianSmall, RecurrentPairs

RECIPES: dict[str, Recipe] = {
    "lstm": Recurrent(),
    "gru": Recurrent(cell="gru"),
    "fine-tune": CausalLM(model="openai-community/gpt2"),
    "from-config": FromConfig(model="openai-community/gpt2"),
    "seq2seq-lstm": RecurrentPairs(),
    "seq2seq-gru": RecurrentPairs(cell="gru", attention=False, tied=True, shared=True, clip=None),
    "fine-tune-seq2seq": FineTunedPairs(model="Helsinki-NLP/opus-mt-en-fr"),
    "marian-small": MarianSmall(),
    "moco": MoCo(),
    "simclr": SimCLR(),
    "image-classifier": ImageClassifier(),
    "text-classifier": TextClassifier(),
    "fine-tune-image-classifier": FineTunedImageClassifier(model="google/vit-base-patch16-224-in21k"),
    "fine-tune-text-classifier": FineTunedTextClassifier(model="distilbert/distilbert-base-uncased"),
    "fine-tune-audio-classifier": FineTunedAudioClassifier(model="facebook/wav2vec2-base-960h"),
}
