"""EncoderMI's encoders against the papers' layers written out by hand, and split batch normalisation against plain."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d
from transformers import AutoConfig, AutoModel

from hf_mia.architectures.encoders import (
    ENCODERS,
    EncoderPreTrainedModel,
    ResNet18Config,
    ResNet18Model,
    Skipping,
    SplitBatchNorm,
    VGG11Config,
    VGG11Model,
)

STAGES = (1, 2, 4, 8)  # widths of ResNet18's four stages of two blocks each (He et al. 2016, table 1)
CONVOLUTIONS = ((1,), (2,), (4, 4), (8, 8), (8, 8))  # widths of VGG-11's, between max-pools (configuration A)


def made(name: str, width: int = 2, splits: int = 3, seed: int = 0) -> EncoderPreTrainedModel:
    """An encoder in float64 whose weights and statistics are all random, so that none hides another."""
    config, model = ENCODERS[name]
    found = model(config(width=width, splits=splits)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for key, value in found.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(drawn.abs() + 0.1 if key.endswith("running_var") else 0.5 * drawn)
    return found


def images(rows: int, height: int = 8, width: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(x: torch.Tensor, weights: Mapping[str, torch.Tensor], at: str) -> torch.Tensor:
    mean, variance, scale, shift = (
        weights[f"{at}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift


def resnet18(x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Maps of ResNet18 by its table: the first of a stage's two blocks halves the map, but for the first stage's."""
    x = norm(conv2d(x, weights["layers.0.weight"], padding=1), weights, "layers.1").relu()
    for number in range(2 * len(STAGES)):
        at, stride = f"layers.{number + 3}", 2 if number in (2, 4, 6) else 1
        inside = norm(conv2d(x, weights[f"{at}.conv1.weight"], stride=stride, padding=1), weights, f"{at}.norm1").relu()
        inside = norm(conv2d(inside, weights[f"{at}.conv2.weight"], padding=1), weights, f"{at}.norm2")
        if stride == 2:
            x = norm(conv2d(x, weights[f"{at}.shortcut.0.weight"], stride=2), weights, f"{at}.shortcut.1")
        x = (inside + x).relu()
    return x


def vgg11(x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Maps of VGG-11: every convolution is normalised and rectified, every group of them ends in a max-pool."""
    at = 0
    for group in CONVOLUTIONS:
        for _ in group:
            x = conv2d(x, weights[f"layers.{at}.weight"], weights[f"layers.{at}.bias"], padding=1)
            x, at = norm(x, weights, f"layers.{at + 1}").relu(), at + 3
        x, at = max_pool2d(x, 2, ceil_mode=True), at + 1
    return x


REFERENCES = {"resnet18": resnet18, "vgg11": vgg11}


def parameters(name: str, width: int) -> int:
    """Counted by the papers' tables: k x k weights a convolution, a bias in VGG, two numbers a normalised channel."""
    if name == "vgg11":
        outer = [times * width for group in CONVOLUTIONS for times in group]
        return sum(9 * a * b + b + 2 * b for a, b in zip([3, *outer], outer, strict=False))
    total, inner = 27 * width + 2 * width, width
    for times in STAGES:
        outer = times * width
        total += 9 * inner * outer + 3 * 9 * outer * outer + 4 * 2 * outer
        total += 0 if inner == outer else inner * outer + 2 * outer
        inner = outer
    return total


@pytest.mark.parametrize(
    ("name", "width", "count"),
    [("resnet18", 64, 11_168_832), ("vgg11", 64, 9_225_984), ("resnet18", 3, None), ("vgg11", 3, None)],
)
def test_parameters_are_those_of_the_papers_tables(name: str, width: int, count: int | None) -> None:
    config, model = ENCODERS[name]
    with torch.device("meta"):
        found = sum(weight.numel() for weight in model(config(width=width)).parameters())
    assert found == parameters(name, width) == (count or found)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (17, 24)])
def test_maps_are_those_of_the_layers_written_out(name: str, size: tuple[int, int]) -> None:
    encoder, x = made(name), images(3, *size)
    with torch.no_grad():
        found, expected = encoder(x), REFERENCES[name](x, encoder.state_dict())
    torch.testing.assert_close(found.last_hidden_state, expected, rtol=1e-9, atol=1e-12)
    shrunk = 8 if name == "resnet18" else 32
    assert found.last_hidden_state.shape == (3, 16, *(-(-side // shrunk) for side in size))
    assert found.pooler_output.shape == (3, 16)
    by_hand = torch.stack([torch.stack([one.sum() / one.numel() for one in maps]) for maps in expected])
    torch.testing.assert_close(found.pooler_output, by_hand, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_answer_does_not_depend_on_the_batch(name: str) -> None:
    encoder, x = made(name), images(7)
    before = deepcopy(encoder.state_dict())
    with torch.no_grad():
        together = encoder(x).pooler_output
        alone = torch.cat([encoder(one[None]).pooler_output for one in x])
        other = encoder(torch.cat([images(2, seed=9) * 100, x[3:4]])).pooler_output[2]
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(other, together[3], rtol=1e-9, atol=1e-12)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", ENCODERS)
def test_a_saved_encoder_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    """As training leaves it: in channels-last memory, with statistics of its own; and of a width that is no default."""
    encoder = made(name, width=3, splits=5).float().to(memory_format=torch.channels_last)
    encoder.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, use_safetensors=True, trust_remote_code=False)
    assert type(again) is type(encoder)
    assert again.state_dict().keys() == encoder.state_dict().keys() == load_file(tmp_path / "model.safetensors").keys()
    assert all(torch.equal(again.state_dict()[key], value) for key, value in encoder.state_dict().items())
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert (config.model_type, config.width, config.splits) == (f"hf_mia_{name}", 3, 5)
    assert {part.splits for part in again.modules() if isinstance(part, SplitBatchNorm)} == {5}
    x = images(4).float()
    with torch.no_grad():  # in one memory format, for another takes other kernels
        assert torch.equal(again(x).pooler_output, encoder.to(memory_format=torch.contiguous_format)(x).pooler_output)


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_begin_as_he_draws_them(name: str) -> None:
    config, model = ENCODERS[name]
    torch.manual_seed(0)
    first = model(config(width=16))
    torch.manual_seed(0)
    again = model(config(width=16))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    for module in first.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            few = 5 / (2 * module.weight.numel()) ** 0.5  # five deviations of a deviation's estimate
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=few)
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


def test_the_defaults_are_the_papers() -> None:
    assert (ResNet18Config().width, ResNet18Config().splits) == (VGG11Config().width, VGG11Config().splits) == (64, 8)
    assert list(ENCODERS) == ["resnet18", "vgg11"]
    assert list(ENCODERS.values()) == [(ResNet18Config, ResNet18Model), (VGG11Config, VGG11Model)]


def norms(features: int, splits: int) -> tuple[SplitBatchNorm, nn.BatchNorm2d]:
    """Split and plain normalisation with the same weights and the same statistics, in float64."""
    generator = torch.Generator().manual_seed(2)
    split, plain = SplitBatchNorm(features, splits).double(), nn.BatchNorm2d(features).double()
    with torch.no_grad():
        for weight in (split.weight, split.bias, split.running_mean, split.running_var):
            weight.copy_(torch.rand(features, generator=generator, dtype=torch.float64) + 0.5)
    plain.load_state_dict(split.state_dict())
    return split, plain


@pytest.mark.parametrize(("rows", "splits"), [(12, 2), (12, 4), (12, 1), (8, 8)])
def test_each_part_of_a_batch_is_normalised_by_itself(rows: int, splits: int) -> None:
    """Outputs and gradients of each part are those of plain normalisation; running statistics are the parts' mean."""
    split, plain = norms(5, splits)
    x = (3 * images(rows, 4, 6) @ torch.ones(6, 6, dtype=torch.float64))[:, [0, 1, 2, 0, 1]]
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    for step in range(2):
        found = split(mine + step)
        each = [deepcopy(plain) for _ in range(splits)]
        parts = [one(theirs[i * rows // splits : (i + 1) * rows // splits] + step) for i, one in enumerate(each)]
        expected = torch.cat(parts)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        for name in ("running_mean", "running_var"):
            mean = sum(getattr(one, name) for one in each) / splits
            torch.testing.assert_close(getattr(split, name), mean, rtol=1e-12, atol=1e-12)
            getattr(plain, name).copy_(mean)
        assert split.num_batches_tracked == step + 1
        (found**3).sum().backward()
        (expected**3).sum().backward()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-8)
        grads = [sum(getattr(one, name).grad for one in each) for name in ("weight", "bias")]
        torch.testing.assert_close([split.weight.grad, split.bias.grad], grads, rtol=1e-9, atol=1e-8)
        for value in (mine, theirs, split.weight, split.bias):
            value.grad = None


def test_normalisation_is_by_the_definition() -> None:
    """(x - mean) / sqrt(biased variance + eps) of a part; running variances are unbiased, and move by a tenth."""
    split = SplitBatchNorm(1, 2).double()
    x = torch.arange(16, dtype=torch.float64).view(4, 1, 2, 2) ** 2
    found = split(x)
    for i in (0, 1):
        part = x[2 * i : 2 * i + 2].flatten().tolist()
        mean = sum(part) / 8
        variance = sum((value - mean) ** 2 for value in part) / 8
        expected = [(value - mean) / (variance + 1e-5) ** 0.5 for value in part]
        assert found[2 * i : 2 * i + 2].flatten().tolist() == pytest.approx(expected, rel=1e-12)
    halves = [x[:2].flatten(), x[2:].flatten()]
    assert float(split.running_mean) == pytest.approx(0.1 * float(sum(half.mean() for half in halves)) / 2)
    assert float(split.running_var) == pytest.approx(0.9 + 0.1 * float(sum(half.var() for half in halves)) / 2)


@pytest.mark.parametrize("rows", [7, 9, 2])
def test_an_uneven_batch_is_normalised_as_a_whole(rows: int) -> None:
    split, plain = norms(3, 4)
    x = images(rows)
    torch.testing.assert_close(split(x), plain(x), rtol=0, atol=0)
    assert all(torch.equal(split.state_dict()[key], value) for key, value in plain.state_dict().items())


def test_evaluation_is_plain_normalisation() -> None:
    split, plain = (one.eval() for one in norms(3, 4))
    x = images(8)
    assert torch.equal(split(x), plain(x))
    expected = batch_norm(x, plain.running_mean, plain.running_var, plain.weight, plain.bias)
    torch.testing.assert_close(split(x), expected, rtol=0, atol=0)
    assert all(torch.equal(split.state_dict()[key], value) for key, value in plain.state_dict().items())
    assert split.num_batches_tracked == 0


def test_a_shortcut_is_a_strided_convolution() -> None:
    torch.manual_seed(0)
    ours, x = Skipping(6, 5, 1, 2, bias=False), torch.randn(3, 6, 7, 7)
    expected = torch.nn.functional.conv2d(x, ours.weight, stride=2)
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("width", [2, 4])
def test_training_of_few_channels_that_stand_last_keeps_to_its_memory(width: int) -> None:
    """A strided 1x1 convolution's backward pass did not, and killed the process: so this is one of its own."""
    code = f"""
import torch
from hf_mia.architectures.encoders import ResNet18Config, ResNet18Model
torch.set_num_threads(1)
model = ResNet18Model(ResNet18Config(width={width}, splits=1)).to(memory_format=torch.channels_last)
for _ in range(20):
    images = torch.randn(10, 3, 8, 8).to(memory_format=torch.channels_last)
    model(images).pooler_output.square().sum().backward()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
