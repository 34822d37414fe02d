"""Tiny labelled records of every kind, tiny checkpoints to fine-tune, and small recipes for them."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import soundfile
import torch
import transformers as hf
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from worlds import noise

from hf_mia.recipes.classifier import Classifier
from hf_mia.recipes.classifying import ImageClassifier, TextClassifier
from hf_mia.recipes.fine_tuning import FineTunedAudioClassifier, FineTunedImageClassifier, FineTunedTextClassifier

NAMES = ("cat", "dog", "owl")
RATE = 1600
WORDS = [f"w{i:02d}" for i in range(40)]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def labelled(column: str, values: list[object], labels: list[int] | None = None) -> Dataset:
    """Records of a column and a class each, which says nothing about them."""
    labels = (
        [int(label) for label in np.random.default_rng(5).integers(0, 3, len(values))] if labels is None else labels
    )
    found = Dataset.from_dict({column: values, "label": labels})
    return found.cast_column("label", datasets.ClassLabel(names=list(NAMES)))


def images(count: int = 21, seed: int = 0) -> Dataset:
    return labelled("image", [{"bytes": content, "path": None} for content in noise(count, seed)])


def texts(count: int = 21, seed: int = 0) -> Dataset:
    """Of one to nine words."""
    rng = np.random.default_rng(seed)
    return labelled("text", [" ".join(rng.choice(WORDS, size=rng.integers(1, 10))) for _ in range(count)])


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def sounds(count: int = 21, seed: int = 0) -> Dataset:
    """Noise of a second, more or less."""
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(0, 0.1, 1500 + 40 * (i % 5)) for i in range(count)]
    found = labelled("audio", [{"bytes": wav(samples), "path": None} for samples in drawn])
    return found.cast_column("audio", datasets.Audio(decode=False))


def saved(folder: Path, model: hf.PreTrainedModel, processor: object) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def vit(folder: Path, kind: type = hf.ViTForImageClassification, **classes: object) -> Path:
    torch.manual_seed(1)
    module = kind(hf.ViTConfig(**SIZES, image_size=8, patch_size=4, **classes))
    size = {"height": 8, "width": 8}
    return saved(folder, module, hf.ViTImageProcessorPil(size=size, image_mean=[0.3] * 3, image_std=[0.2, 0.3, 0.4]))


def bert(folder: Path, kind: type = hf.BertForSequenceClassification, **classes: object) -> Path:
    torch.manual_seed(1)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special.values(), *WORDS])}, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    module = kind(hf.BertConfig(**SIZES, vocab_size=44, max_position_embeddings=8, **classes))
    return saved(folder, module, hf.PreTrainedTokenizerFast(tokenizer_object=raw, **special))


def wav2vec2(folder: Path, kind: type = hf.Wav2Vec2ForSequenceClassification, **classes: object) -> Path:
    """With dropout, masks in time and layers that are left out in training, as the large ones have them."""
    torch.manual_seed(1)
    convolutions = {"conv_dim": [8, 8], "conv_kernel": [10, 4], "conv_stride": [5, 4]}
    sizes = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
    module = kind(hf.Wav2Vec2Config(**SIZES, **convolutions, **sizes, vocab_size=8, layerdrop=0.3, **classes))
    return saved(folder, module, hf.Wav2Vec2FeatureExtractor(sampling_rate=RATE))


TINY = {"epochs": 3, "batch": 8}
IMAGES = ImageClassifier(width=4, size=8, hidden=16, **TINY)
TEXTS = TextClassifier(vocabulary=30, embedding=8, hidden=8, **TINY)
RECORDS = {"image": images, "text": texts, "audio": sounds}
KINDS = ["cnn", "mlp", "resnet18", "bag-of-words", "vit", "bert", "wav2vec2"]


def recipe(kind: str, folder: Path) -> Classifier:
    """A recipe of every kind; the checkpoint of a fine-tune is saved in the folder, unless it is there."""
    fine = {"vit": (vit, FineTunedImageClassifier), "bert": (bert, FineTunedTextClassifier)}
    fine |= {"wav2vec2": (wav2vec2, FineTunedAudioClassifier)}
    if kind in fine:
        make, made = fine[kind]
        place = folder / kind if (folder / kind).exists() else make(folder / kind)
        return made(model=str(place), learning_rate=1e-3, **TINY)
    if kind == "bag-of-words":
        return TEXTS
    return ImageClassifier(architecture=kind, width=4, size=8, hidden=16, **TINY)  # type: ignore[arg-type]


def records(made: Classifier, count: int = 21, seed: int = 0) -> Dataset:
    return RECORDS[made.columns[0]](count, seed)


def outside() -> list[str]:
    """Texts that no model is trained on, of words that differ in frequency."""
    return [" ".join(WORDS[: i + 1]) for i in range(len(WORDS))]
