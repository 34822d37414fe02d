"""Classifiers by name or folder, of images, texts and sounds: each answers a batch with logits in the labels' order.

All load safetensors only and run no code from a repository. `names` are the data's classes in the order of their
labels: where the model has the same names, whatever their case, its logits are put into that order; else classes go by
number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.core import Model
from hf_mia.models.checkpoints import check_weights, folder_of, name_of
from hf_mia.models.classifying import LabelledImages, LabelledSounds, LabelledTexts
from hf_mia.models.language import saved_tokenizer
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.models.vision import Channels, image_channels, image_collate, image_processor
from hf_mia.storage.keys import content_key, folder_key

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, SequenceFeatureExtractor

    from hf_mia.models.logits import ImageLogits, Kind, RowLogits

logger = logging.getLogger(__name__)
Order = tuple[int, ...]  # for each of the data's classes, the place of its logit
ENDLESS = 10**9  # what a tokenizer says that knows no longest text


def image_classifier(
    source: str | Path,
    revision: str | None = None,
    names: Sequence[str] | None = None,
    loading: Loading = WHOLE,
) -> Model:
    """A classifier of images from a local folder or the Hub, such as a ResNet or ViT.

    Images are resized, cropped and normalised as the model's own image processor does. Raises ValueError, with the way
    out, where the model is no such classifier, has another number of classes than `names`, or lacks weights or an image
    processor, and where the processor does more than this.
    """
    saved = _saved(source, revision, names, "images", loading)
    processor = image_processor(saved.folder, saved.name)
    collate = image_collate(processor, saved.name)
    channels = image_channels(processor, collate, saved.name)
    labelled = LabelledImages(collate.size, collate.resized, collate.resample)
    return Model(name_of(source, revision), saved.key, labelled, partial(_images, saved, channels, labelled))


def text_classifier(
    source: str | Path,
    revision: str | None = None,
    names: Sequence[str] | None = None,
    loading: Loading = WHOLE,
) -> Model:
    """A classifier of texts from a local folder or the Hub, such as a BERT; also a GPT-2 or Llama with such a head.

    A text longer than the model's context is cut off as its tokenizer does. Where a first try shows that padding moves
    the model's logits, texts of different length are not asked about at once. Raises ValueError, with the way out,
    where the model is no such classifier, has another number of classes than `names`, or lacks weights, a tokenizer or
    a padding token.
    """
    saved = _saved(source, revision, names, "texts", loading)
    collate = text_collate(saved.config, saved_tokenizer(saved.folder, saved.name), saved.name)
    return Model(name_of(source, revision), saved.key, collate, partial(_texts, saved, collate))


def audio_classifier(
    source: str | Path,
    revision: str | None = None,
    names: Sequence[str] | None = None,
    loading: Loading = WHOLE,
) -> Model:
    """A classifier of sounds from a local folder or the Hub, such as a Wav2Vec2, HuBERT or AST.

    Sounds are resampled and prepared as the model's own feature extractor does, and those of different length are never
    asked about at once, since most such models hear padding. Raises ValueError, with the way out, where the model is no
    such classifier, has another number of classes than `names`, or lacks weights or a feature extractor.
    """
    saved = _saved(source, revision, names, "sounds", loading)
    collate = LabelledSounds(sound_extractor(saved.folder, saved.name))
    return Model(name_of(source, revision), saved.key, collate, partial(_sounds, saved, collate))


def class_order(known: Sequence[str], names: Sequence[str] | None, name: str) -> Order:
    """For each of the data's classes (D,), the place of its logit among the model's classes `known` (C,).

    Raises ValueError where C is not D. Names that differ go by number, which is logged unless they are LABEL_0, LABEL_1
    and so on, the names that transformers gives where none were chosen.
    """
    order = tuple(range(len(known)))
    if names is None:
        return order
    if len(known) != len(names):
        raise ValueError(
            f"model {name!r} has {len(known)} classes and the data {len(names)}: take a model of the data's classes, "
            "or leave out the records of classes that the model does not know."
        )
    theirs, ours = ([other.strip().casefold() for other in some] for some in (known, names))
    if len(set(theirs)) == len(theirs) and set(theirs) == set(ours):
        return tuple(theirs.index(other) for other in ours)
    if theirs != [f"label_{i}" for i in order] and list(known) != list(names):
        logger.warning(
            "model %r and the data name their classes differently, so they go by number: %s in the model, %s in the "
            "data. If the order differs, name the data's classes as the model does.",
            name,
            list(known),
            list(names),
        )
    return order


@dataclass(frozen=True)
class Saved:
    """A classifier that can be loaded, as far as its `config` tells; `order` is that of the data's classes."""

    folder: Path
    name: str
    kind: Kind
    config: PretrainedConfig
    order: Order
    loading: Loading

    @property
    def key(self) -> str:
        return self.loading.key(content_key([folder_key(self.folder), self.kind, repr(self.order)]))

    def head(self) -> PreTrainedModel:
        """The model itself, in memory."""
        from hf_mia.models.logits import head

        return head(self.folder, self.name, self.kind, self.loading)


def _saved(
    source: str | Path, revision: str | None, names: Sequence[str] | None, kind: Kind, loading: Loading
) -> Saved:
    from hf_mia.models.logits import classes

    loading.check()
    folder, name = folder_of(source, revision), str(source)
    config = classes(folder, name, kind)
    check_weights(folder, name)
    order = class_order([str(config.id2label[i]) for i in range(config.num_labels)], names, name)
    return Saved(folder, name, kind, config, order, loading)


def text_collate(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> LabelledTexts:
    """How texts reach a classifier of a configuration; ValueError where it has no padding token."""
    return LabelledTexts(tokenizer, _context(config, tokenizer), _padding(config, tokenizer, name))


def _context(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The tokens of a text that are read, or None for all."""
    from hf_mia.models.logits import longest

    limits = [limit for limit in (longest(config, "texts"), tokenizer.model_max_length) if limit and limit < ENDLESS]
    return int(min(limits)) if limits else None


def _padding(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """The token that fills up rows: the model's own, for some find a text's end by it, else the tokenizer's."""
    for token in (getattr(config.get_text_config(), "pad_token_id", None), tokenizer.pad_token_id):
        if token is not None:
            return int(token)
    raise ValueError(
        f"model {name!r} has no padding token, by which it would find the end of a text: set tokenizer.pad_token = "
        "tokenizer.eos_token and model.config.pad_token_id = tokenizer.pad_token_id, and save both again."
    )


def sound_extractor(folder: Path, name: str) -> SequenceFeatureExtractor:
    """A saved model's feature extractor; ValueError where it has none that takes sounds."""
    from transformers import AutoFeatureExtractor, SequenceFeatureExtractor

    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        if not isinstance(extractor, SequenceFeatureExtractor):
            raise ValueError(f"it is a {type(extractor).__name__}, which takes no sounds")
        return extractor
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ValueError(
            f"model {name!r} has no feature extractor that transformers can load ({error}). Save the one that it was "
            "trained with beside it: `extractor.save_pretrained(folder)` writes preprocessor_config.json."
        ) from error


def _images(saved: Saved, channels: Channels, collate: LabelledImages) -> ImageLogits:
    import torch

    from hf_mia.models.logits import ImageLogits, tried

    module = ImageLogits(saved.head(), saved.order, channels)
    label, pixels = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3, *collate.shape, dtype=torch.uint8)
    tried(module, {"pixels": pixels, "label": label}, saved.name)
    return module


def _texts(saved: Saved, collate: LabelledTexts) -> RowLogits:
    from hf_mia.models.logits import RowLogits, moved, tried

    inner = saved.head()
    inner.config.get_text_config().pad_token_id = collate.padding
    module = RowLogits(inner, saved.order, alone=False, side=collate.tokenizer.padding_side)
    batch = collate.pad(collate.encode({"text": ["one", "one two three, and four"], "label": [0, 0]}))
    together = tried(module, batch, saved.name)
    module.alone = True
    if not moved(together, tried(module, batch, saved.name)):
        module.alone = False
    else:
        logger.warning(
            "padding moves the logits of model %r: texts of different length are asked about apart, which is slower.",
            saved.name,
        )
    return module


def _sounds(saved: Saved, collate: LabelledSounds) -> RowLogits:
    from hf_mia.models.logits import RowLogits, tried

    module = RowLogits(saved.head(), saved.order, alone=True)
    second = np.random.default_rng(0).normal(0, 0.1, int(collate.extractor.sampling_rate)).astype(np.float32)
    tried(module, collate.pad([collate.item(0, second, 0)]), saved.name)
    return module
