"""Classifiers by name or folder, of images, texts and sounds: each answers a batch with logits in the labels' order.

All load safetensors only and run no code from a repository. `names` are the data's classes in the order of their
labels: where the model has the same names, whatever their case, its logits are put into that order; else classes go by
number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, SequenceFeatureExtractor

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
    folder, name, order = _opened(source, revision, names, "images", loading)
    processor = image_processor(folder, name)
    collate = image_collate(processor, name)
    channels = image_channels(processor, collate, name)
    labelled = LabelledImages(collate.size, collate.resized, collate.resample)
    load = partial(_images, folder, name, order, channels, labelled, loading)
    return Model(name_of(source, revision), loading.key(_key(folder, "images", order)), labelled, load)


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
    folder, name, order = _opened(source, revision, names, "texts", loading)
    collate = text_collate(_config(folder, name, "texts"), saved_tokenizer(folder, name), name)
    load = partial(_texts, folder, name, order, collate, loading)
    return Model(name_of(source, revision), loading.key(_key(folder, "texts", order)), collate, load)


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
    folder, name, order = _opened(source, revision, names, "sounds", loading)
    collate = LabelledSounds(sound_extractor(folder, name))
    load = partial(_sounds, folder, name, order, collate, loading)
    return Model(name_of(source, revision), loading.key(_key(folder, "sounds", order)), collate, load)


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


def _opened(
    source: str | Path, revision: str | None, names: Sequence[str] | None, kind: Kind, loading: Loading
) -> tuple[Path, str, Order]:
    """Folder, name and order of classes of a classifier that can be loaded, as far as its configuration tells."""
    loading.check()
    folder, name = folder_of(source, revision), str(source)
    config = _config(folder, name, kind)
    check_weights(folder, name)
    return folder, name, class_order([str(config.id2label[i]) for i in range(config.num_labels)], names, name)


def _config(folder: Path, name: str, kind: Kind) -> PretrainedConfig:
    from hf_mia.models.logits import classes

    return classes(folder, name, kind)


def _key(folder: Path, kind: Kind, order: Order) -> str:
    return content_key([folder_key(folder), kind, repr(order)])


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


def _images(
    folder: Path, name: str, order: Order, channels: Channels, collate: LabelledImages, loading: Loading
) -> ImageLogits:
    import torch

    from hf_mia.models.logits import ImageLogits, head, tried

    module = ImageLogits(head(folder, name, "images", loading), order, channels)
    label, pixels = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3, *collate.shape, dtype=torch.uint8)
    tried(module, {"pixels": pixels, "label": label}, name)
    return module


def _texts(folder: Path, name: str, order: Order, collate: LabelledTexts, loading: Loading) -> RowLogits:
    from hf_mia.models.logits import RowLogits, head, moved, tried

    inner = head(folder, name, "texts", loading)
    inner.config.get_text_config().pad_token_id = collate.padding
    module = RowLogits(inner, order, alone=False, side=collate.tokenizer.padding_side)
    batch = collate.pad(collate.encode({"text": ["one", "one two three, and four"], "label": [0, 0]}))
    together = tried(module, batch, name)
    module.alone = True
    if not moved(together, tried(module, batch, name)):
        module.alone = False
    else:
        logger.warning(
            "padding moves the logits of model %r: texts of different length are asked about apart, which is slower.",
            name,
        )
    return module


def _sounds(folder: Path, name: str, order: Order, collate: LabelledSounds, loading: Loading) -> RowLogits:
    from hf_mia.models.logits import RowLogits, head, tried

    module = RowLogits(head(folder, name, "sounds", loading), order, alone=True)
    second = np.random.default_rng(0).normal(0, 0.1, int(collate.extractor.sampling_rate)).astype(np.float32)
    tried(module, collate.pad([collate.item(0, second, 0)]), name)
    return module
