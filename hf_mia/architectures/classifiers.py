"""Small classifiers as `PreTrainedModel`s that save and reload exactly: of small images, and of bags of words.

Importing this module registers them with transformers' Auto classes. Nothing in the small ones depends on the batch,
so that they answer the same in training and after it; only `resnet18` has batch normalisation.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput

from hf_mia.architectures.encoders import ResNet18Config, ResNet18Model


class Dense(nn.Linear):
    """A linear layer that is also many side by side: weights (models, out, in), rows (models, rows, in)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.weight.dim() == 2:
            return linear(input, self.weight, self.bias)
        return torch.baddbmm(self.bias[:, None], input, self.weight.mT)


class Flat(nn.Module):
    """Images (..., 3, H, W) as rows (..., 3 H W)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input.flatten(-3)


class SmallImagesConfig(PretrainedConfig):  # type: ignore[misc, unused-ignore]
    """A classifier of images of `size` pixels a side: `cnn`, `mlp` or `resnet18`.

    `width` is that of the first convolution, `hidden` that of the layer before the last (none in `resnet18`).
    """

    model_type = "hf_mia_small_images"
    architecture: str = "cnn"
    width: int = 16
    size: int = 32
    hidden: int = 128


class SmallImagesForImageClassification(PreTrainedModel):  # type: ignore[misc, unused-ignore]
    """A small classifier of images; weights begin as PyTorch's layers do, those of `resnet18` by He's rule."""

    config_class = SmallImagesConfig
    main_input_name = "pixel_values"

    def __init__(self, config: SmallImagesConfig) -> None:
        super().__init__(config)
        self.layers = nn.Sequential(*LAYERS[config.architecture](config))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the layers have begun by themselves."""

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        """Images (rows, 3, size, size) to logits (rows, C)."""
        return ImageClassifierOutput(logits=self.layers(pixel_values))


def _cnn(config: SmallImagesConfig) -> list[nn.Module]:
    """Three 3x3 convolutions, each normalised in groups of channels and pooled by 2, and two dense layers."""
    layers: list[nn.Module] = []
    inner, size = 3, config.size
    for outer in (config.width, 2 * config.width, 4 * config.width):
        norm = nn.GroupNorm(math.gcd(8, outer), outer)
        layers += [nn.Conv2d(inner, outer, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        inner, size = outer, -(-size // 2)
    return [*layers, *_dense(inner * size**2, config)]


def _mlp(config: SmallImagesConfig) -> list[nn.Module]:
    return _dense(3 * config.size**2, config)


def _dense(inputs: int, config: SmallImagesConfig) -> list[nn.Module]:
    return [Flat(), Dense(inputs, config.hidden), nn.ReLU(), Dense(config.hidden, config.num_labels)]


def _resnet18(config: SmallImagesConfig) -> list[nn.Module]:
    layers = ResNet18Model(ResNet18Config(width=config.width, splits=1)).layers
    return [*layers, nn.AdaptiveAvgPool2d(1), Flat(), nn.Linear(8 * config.width, config.num_labels)]


LAYERS = {"cnn": _cnn, "mlp": _mlp, "resnet18": _resnet18}


class BagOfWordsConfig(PretrainedConfig):  # type: ignore[misc, unused-ignore]
    """The words, the numbers a word is embedded in, and the units of the `hidden` layer."""

    model_type = "hf_mia_bag_of_words"
    vocab_size: int = 5000
    embedding: int = 64
    hidden: int = 64


class BagOfWordsForSequenceClassification(PreTrainedModel):  # type: ignore[misc, unused-ignore]
    """The mean of a text's word embeddings and one hidden layer (Iyyer et al. 2015); begun as PyTorch's layers are."""

    config_class = BagOfWordsConfig

    def __init__(self, config: BagOfWordsConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding)
        self.hidden = nn.Linear(config.embedding, config.hidden)
        self.classifier = nn.Linear(config.hidden, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the layers have begun by themselves."""

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SequenceClassifierOutput:
        """Word ids (rows, length), of which a mask of 0 leaves out, to logits (rows, C); a text may have no word."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        words = self.embedding(input_ids) * mask[..., None]
        mean = words.sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1)
        return SequenceClassifierOutput(logits=self.classifier(torch.relu(self.hidden(mean))))


AutoConfig.register(SmallImagesConfig.model_type, SmallImagesConfig, exist_ok=True)
AutoModelForImageClassification.register(SmallImagesConfig, SmallImagesForImageClassification, exist_ok=True)
AutoConfig.register(BagOfWordsConfig.model_type, BagOfWordsConfig, exist_ok=True)
AutoModelForSequenceClassification.register(BagOfWordsConfig, BagOfWordsForSequenceClassification, exist_ok=True)
