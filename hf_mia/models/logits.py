"""Classifiers of transformers as modules that take a whole batch and answer with logits in the order of its labels."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Literal, cast

import torch
from transformers import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

import hf_mia.architectures.classifiers  # noqa: F401  registers our architectures with the Auto classes
from hf_mia.collate import Batch
from hf_mia.models.checkpoints import configuration
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.models.placing import begins, taken
from hf_mia.models.vision import Channels

Kind = Literal["images", "texts", "sounds"]
AUTO = {
    "images": (AutoModelForImageClassification, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING),
    "texts": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    "sounds": (AutoModelForAudioClassification, MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING),
}
INPUTS = ("input_ids", "token_type_ids", "attention_mask", "input_values", "input_features")
UNREAD = ("mask_token", "masked_spec_embed", "num_batches_tracked", "relative_position_index")  # in training only
LONGEST = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
PADDED = 1e-4  # how far padding may move logits, beside the largest of them


class Classifier(torch.nn.Module):
    """A classifier in evaluation; `order` (C,) names, for each of the data's classes, the place of its logit."""

    order: torch.Tensor

    def __init__(self, inner: torch.nn.Module, order: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.sorted = inner, list(order) == sorted(order)
        self.register_buffer("order", torch.tensor(order))
        self.eval()

    def asked(self, inputs: Batch) -> torch.Tensor:
        """Logits (rows, C), at least float32, of what the model takes."""
        given = {name: taken(self.inner, x) if x.is_floating_point() else x for name, x in inputs.items()}
        logits = cast("torch.Tensor", self.inner(**given).logits)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if self.sorted else logits.index_select(1, self.order.to(logits.device))


class ImageLogits(Classifier):
    """Logits of a batch of images: `pixels` uint8 (rows, 3, H, W), normalised as the image processor does."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, inner: torch.nn.Module, order: tuple[int, ...], channels: Channels) -> None:
        super().__init__(inner, order)
        scale, shift, self.channels = channels
        self.register_buffer("scale", torch.tensor(scale)[:, None, None])
        self.register_buffer("shift", torch.tensor(shift)[:, None, None])

    def forward(self, batch: Batch) -> torch.Tensor:
        images = (batch["pixels"] / 255)[:, self.channels]
        return self.asked({"pixel_values": images * self.scale.to(images.device) + self.shift.to(images.device)})


class RowLogits(Classifier):
    """Logits of a batch of texts or sounds, of which the model gets what it takes.

    Where `alone`, rows of different length are asked about apart, so that none is padded: for models that answer
    otherwise where a row is. Rows are padded on the `side`.
    """

    def __init__(
        self, inner: torch.nn.Module, order: tuple[int, ...], alone: bool, side: Literal["left", "right"] = "right"
    ) -> None:
        super().__init__(inner, order)
        taken = inspect.signature(inner.forward).parameters
        self.names, self.alone, self.side = [name for name in INPUTS if name in taken], alone, side

    def forward(self, batch: Batch) -> torch.Tensor:
        inputs = {name: batch[name] for name in self.names if name in batch}
        if not self.alone or "length" not in batch:
            return self.asked(inputs)
        places, found = [], []
        for length in torch.unique(batch["length"]).tolist():
            rows = torch.nonzero(batch["length"] == length)[:, 0]
            window = slice(length) if self.side == "right" else slice(-length, None)
            places.append(rows)
            found.append(self.asked({name: tensor[rows, window] for name, tensor in inputs.items()}))
        return torch.cat(found)[torch.cat(places).argsort()]


def classes(folder: Path, name: str, kind: Kind) -> PretrainedConfig:
    """The configuration of a classifier of images, texts or sounds; ValueError for any other model."""
    config = configuration(folder, name)
    known = AUTO[kind][1].get(type(config), ())
    heads = {head.__name__ for head in (known if isinstance(known, tuple) else (known,))}
    if not heads or (config.architectures and not heads & set(config.architectures)):
        wanted = f"one saved as {' or '.join(sorted(heads))}" if heads else "one that transformers' Auto classes know"
        raise ValueError(
            f"model {name!r} is no classifier of {kind}, but "
            f"{', '.join(config.architectures or [config.model_type])}: name {wanted}."
        )
    if config.problem_type in ("regression", "multi_label_classification") or config.num_labels < 2:
        raise ValueError(
            f"model {name!r} gives {config.num_labels} numbers for {config.problem_type or 'regression'}, and is asked "
            "for the chances of two classes or more, of which one is true: name a model that was trained for that."
        )
    return config


def head(folder: Path, name: str, kind: Kind, loading: Loading = WHOLE) -> PreTrainedModel:
    """A classifier; ValueError where the checkpoint lacks some of its weights."""
    model, info = AUTO[kind][0].from_pretrained(
        folder,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        **loading.options("float32"),
    )
    missing = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if needed := sorted(key for key in missing if not key.endswith(UNREAD)):
        raise ValueError(
            f"model {name!r} lacks {len(needed)} of the weights that its config.json asks for, such as {needed[:3]}: "
            "random ones would stand in. Save the whole model again."
        )
    return cast("PreTrainedModel", model)


def longest(config: PretrainedConfig, kind: Kind) -> int | None:
    """Tokens that a classifier can take, or None where there is no such limit."""
    found = [size for name in LONGEST if isinstance(size := config.to_dict().get(name), int) and size > 1]
    with torch.device("meta"):
        model = AUTO[kind][0].from_config(config, trust_remote_code=False)
    for name, part in model.named_modules():  # RoBERTa's positions begin after that of padding
        if isinstance(part, torch.nn.Embedding) and "position" in name and part.padding_idx is not None:
            found.append(part.num_embeddings - part.padding_idx - 1)
    return min(found) if found else None


def tried(module: Classifier, batch: Batch, name: str) -> torch.Tensor:
    """The logits of a batch that its processor made; ValueError where model and processor do not fit each other."""
    try:
        with torch.inference_mode():
            logits: torch.Tensor = module({key: tensor.to(begins(module)) for key, tensor in batch.items()})
    except Exception as error:  # a foreign forward can raise anything
        shapes = {key: tuple(tensor.shape) for key, tensor in batch.items()}
        raise ValueError(
            f"model {name!r} ({type(module.inner).__name__}) cannot be asked about {shapes}, as its processor makes "
            f"them: {str(error).rstrip('.')}. Save model and processor that fit each other."
        ) from error
    if logits.shape != (len(batch["label"]), len(module.order)):
        raise ValueError(
            f"model {name!r} ({type(module.inner).__name__}) answers {tuple(logits.shape)} where its config.json says "
            f"{len(module.order)} classes: name a model that answers each record with one logit a class."
        )
    return logits


def moved(together: torch.Tensor, apart: torch.Tensor) -> bool:
    """Whether logits (rows, C) differ by more than rounding: those of padded rows, and of the same rows alone."""
    return bool((together - apart).abs().max() > PADDED * apart.abs().max())
