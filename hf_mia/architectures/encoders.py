"""EncoderMI's encoders as `PreTrainedModel`s that save and reload exactly: ResNet18 and VGG-11 for small images.

Importing this module registers them with transformers' Auto classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, relu
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

VGG11 = (1, -1, 2, -1, 4, 4, -1, 8, 8, -1, 8, 8, -1)  # widths of the convolutions, -1 for a max-pool


class SplitBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over each of `splits` parts of the batch by itself, as on so many devices.

    He et al. 2020 also shuffle the keys over the devices, so that a query and its key share no statistics; here part i
    of the queries and part i of the keys are the same images. In evaluation, and where the batch cannot be cut evenly,
    it is plain batch normalisation.
    """

    def __init__(self, features: int, splits: int) -> None:
        super().__init__(features)
        self.splits = splits

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or self.splits == 1 or len(input) % self.splits:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        means, variances = (stat.repeat(self.splits, 1) for stat in (self.running_mean, self.running_var))
        rows = zip(input.chunk(self.splits), means, variances, strict=True)
        parts = [
            batch_norm(part, mean, variance, self.weight, self.bias, True, self.momentum or 0.1, self.eps)
            for part, mean, variance in rows
        ]
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        self.num_batches_tracked.add_(1)
        return torch.cat(parts)


class ResNet18Config(PretrainedConfig):  # type: ignore[misc, unused-ignore]
    """The `width` of ResNet18's first convolution, and the `splits` of its batch normalisation in training."""

    model_type = "hf_mia_resnet18"
    width: int = 64
    splits: int = 8


class VGG11Config(PretrainedConfig):  # type: ignore[misc, unused-ignore]
    """The `width` of VGG-11's first convolution, and the `splits` of its batch normalisation in training."""

    model_type = "hf_mia_vgg11"
    width: int = 64
    splits: int = 8


class Skipping(nn.Conv2d):
    """A strided 1x1 convolution that takes its pixels first, without bias.

    oneDNN's own, of fewer than 8 channels in channels_last, writes beyond its memory in the backward pass (PyTorch
    2.13 on a CPU); of more channels it is sound, and faster.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        down, across = self.stride
        return conv2d(input[:, :, ::down, ::across], self.weight)


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inner: int, outer: int, stride: int, splits: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = SplitBatchNorm(outer, splits)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = SplitBatchNorm(outer, splits)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            kind = Skipping if inner < 8 else nn.Conv2d
            self.shortcut = nn.Sequential(kind(inner, outer, 1, stride, bias=False), SplitBatchNorm(outer, splits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(inside)) + self.shortcut(x))


class EncoderPreTrainedModel(PreTrainedModel):  # type: ignore[misc, unused-ignore]
    """What both encoders share: how weights begin, and what they answer."""

    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    layers: nn.Sequential

    def _init_weights(self, module: nn.Module) -> None:
        """He's normal distribution for convolutions; weights that a checkpoint filled are left alone."""
        if isinstance(module, nn.Conv2d) and not getattr(module.weight, "_is_hf_initialized", False):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """Images (rows, 3, H, W) to maps (rows, 8 width, h, w) and their mean, `pooler_output` (rows, 8 width)."""
        maps = self.layers(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=maps, pooler_output=maps.mean((2, 3)))


class ResNet18Model(EncoderPreTrainedModel):
    """ResNet18 for small images: a 3x3 stem, no max-pool (He et al. 2016, as MoCo on CIFAR-10), eight blocks."""

    config_class = ResNet18Config

    def __init__(self, config: ResNet18Config) -> None:
        super().__init__(config)
        width, splits = config.width, config.splits
        stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), SplitBatchNorm(width, splits), nn.ReLU()]
        sizes = [(1, 1, 1), (1, 1, 1), (1, 2, 2), (2, 2, 1), (2, 4, 2), (4, 4, 1), (4, 8, 2), (8, 8, 1)]
        blocks = [Block(inner * width, outer * width, stride, splits) for inner, outer, stride in sizes]
        self.layers = nn.Sequential(*stem, *blocks)
        self.post_init()


class VGG11Model(EncoderPreTrainedModel):
    """VGG-11 with batch normalisation, its convolutions only (Simonyan and Zisserman 2015); any size of image."""

    config_class = VGG11Config

    def __init__(self, config: VGG11Config) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        inner = 3
        for times in VGG11:
            if times < 0:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
                continue
            outer = times * config.width
            layers += [nn.Conv2d(inner, outer, 3, padding=1), SplitBatchNorm(outer, config.splits), nn.ReLU()]
            inner = outer
        self.layers = nn.Sequential(*layers)
        self.post_init()


ENCODERS: dict[str, tuple[type[PretrainedConfig], type[EncoderPreTrainedModel]]] = {
    "resnet18": (ResNet18Config, ResNet18Model),
    "vgg11": (VGG11Config, VGG11Model),
}

for _config, _model in ENCODERS.values():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
