"""PartCrop's probe against one part at a time, in float64, by SciPy; an encoder's map against its backbone's answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers as hf
from scipy.special import softmax
from scipy.stats import entropy, norm
from torch import nn
from worlds import ragged

from hf_mia.architectures.encoders import ENCODERS
from hf_mia.collate import Batch
from hf_mia.config import change, changes_of
from hf_mia.models.backbones import Encoder
from hf_mia.papers import PAPERS
from hf_mia.probes.parts import Parts, energies
from hf_mia.probes.views import Views
from hf_mia.signals.encoder import PartEnergies

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {**SIZES, "image_size": 16, "patch_size": 4}
CHANNELS = ([2.0, 3.0, 1.5], [-0.5, -0.2, 0.1], [0, 1, 2])


def encoder(name: str = "resnet18", seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    config, model = ENCODERS[name]
    return Encoder(model(config(width=2)), *CHANNELS, "pooler_output")


def batch(rows: int, size: int = 20, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(256, size=(rows, 3, size, size), dtype=np.uint8))
    return {"pixels": pixels, "seed": torch.from_numpy(rng.integers(2**63, size=rows, dtype=np.int64))}


def naive(probe: Parts, rows: Batch, i: int) -> dict[str, list[float]]:
    """An image's divergences, each of its parts drawn, encoded and compared alone."""
    module, image = encoder(), rows["pixels"][i : i + 1].float() / 255
    scaled = image * torch.tensor(CHANNELS[0])[:, None, None] + torch.tensor(CHANNELS[1])[:, None, None]
    with torch.no_grad():
        grid = module.backbone(pixel_values=scaled).last_hidden_state[0].double().numpy()
    positions = [grid[:, y, x] for y in range(grid.shape[1]) for x in range(grid.shape[2])]
    draws = np.random.Generator(np.random.Philox(key=np.array([probe.seed, int(rows["seed"][i])], dtype=np.uint64)))
    bells = np.random.Generator(np.random.Philox(key=np.array([probe.seed, 2**63], dtype=np.uint64)))
    found: dict[str, list[float]] = {"uniform": [], "gaussian": []}
    for _ in range(probe.n):
        numbers = torch.from_numpy(draws.random(probe.augmentation.numbers, dtype=np.float32))[None]
        with torch.no_grad():
            part = module(probe.augmentation(image, numbers))[0].double().numpy()
        chances = softmax([float(part @ position) for position in positions])
        drawn = np.array(sorted(bells.standard_normal(len(positions))))
        bell = norm.pdf(drawn, drawn.mean(), drawn.std(ddof=1))
        found["uniform"].append(entropy(np.full(len(positions), 1 / len(positions)), chances))
        found["gaussian"].append(entropy(bell / bell.sum(), chances))
    return found


@pytest.mark.parametrize("probe", [Parts(n=5), Parts(n=3, seed=7)], ids=["5", "3"])
def test_the_divergences_are_those_of_the_definition(probe: Parts) -> None:
    rows = batch(4)
    answers = probe.observe(encoder(), rows)
    for i in range(4):
        for name, expected in naive(probe, rows, i).items():
            assert answers[name].dtype == torch.float32
            np.testing.assert_allclose(answers[name][i], expected, rtol=1e-3, atol=1e-4, err_msg=name)
            assert max(expected) > 1e-3  # or the tolerance would hide everything


def test_parts_are_small_uncoloured_views_with_the_draws_of_views() -> None:
    seeds = batch(3)["seed"].numpy()
    np.testing.assert_array_equal(Parts(n=9, seed=4).draws(seeds), Views(n=9, seed=4).draws(seeds))
    np.testing.assert_array_equal(Parts(n=9).draws(seeds)[:, :4], Parts(n=4).draws(seeds))
    crops = Parts().augmentation
    numbers = torch.rand(500, crops.numbers, generator=torch.Generator().manual_seed(0))
    area = crops.boxes(numbers, 64, 64)[:, 2:].prod(1) / 64**2
    assert 0.07 < area.min() < area.max() < 0.21
    flat = torch.full((500, 3, 8, 8), 0.3) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    torch.testing.assert_close(crops(flat, numbers), flat)


def test_bells_are_distributions_that_rise_and_fall_and_stay_the_same() -> None:
    bells = Parts(n=6, seed=3).bells(49)
    np.testing.assert_allclose(bells.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(Parts(n=4, seed=3).bells(49), bells[:4])
    assert (Parts(n=6, seed=4).bells(49) != bells).any()
    assert len(np.unique(bells[:, 0])) == 6
    for bell in bells:
        steps = np.sign(np.diff(bell))
        assert (np.diff(steps) <= 0).all()
        assert {*steps} == {-1, 1}


def test_what_answers_everywhere_alike_is_uniform() -> None:
    """No divergence falls below 0 by rounding, and a bell's own shape is at 0 from that bell."""
    bells = torch.from_numpy(Parts(n=2).bells(9)).float()
    parts, maps = torch.ones(1, 2, 4), torch.full((1, 9, 4), 30.1)
    found = energies(parts, maps, bells)
    assert found["uniform"].min() >= 0
    torch.testing.assert_close(found["uniform"], torch.zeros(1, 2), rtol=0, atol=1e-6)
    shaped = energies(torch.eye(2)[None], bells.log().t()[None], bells)["gaussian"]
    assert shaped.min() >= 0
    torch.testing.assert_close(shaped, torch.zeros(1, 2), rtol=0, atol=1e-6)
    strong = energies(parts * 1e15, maps * 1e13, bells)
    assert all(torch.isfinite(found).all() for found in strong.values())


@pytest.mark.parametrize("rows", [1, 3, 8, 1000])
def test_how_many_are_on_the_device_does_not_matter(rows: int) -> None:
    asked, module = batch(5), encoder()
    seen: list[int] = []
    module.backbone.register_forward_hook(lambda _m, _i, output: seen.append(len(output.pooler_output)))
    found = Parts(n=4, rows=rows).observe(module, asked)
    assert max(seen) <= rows
    assert sum(seen) == 5 * (1 + 4)
    for name, answers in Parts(n=4).observe(module, asked).items():
        torch.testing.assert_close(found[name], answers, rtol=1e-4, atol=1e-5)


def test_neither_batch_nor_order_nor_the_number_of_parts_matters() -> None:
    rows, module, order = batch(5), encoder(), [3, 0, 4, 1, 2]
    whole = Parts(n=4).observe(module, rows)
    turned = Parts(n=4).observe(module, {name: tensor[order] for name, tensor in rows.items()})
    alone = [Parts(n=4).observe(module, {name: tensor[i : i + 1] for name, tensor in rows.items()}) for i in range(5)]
    many = Parts(n=7).observe(module, rows)
    for name, answers in whole.items():
        torch.testing.assert_close(turned[name], answers[order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), answers, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(many[name][:, :4], answers, rtol=1e-4, atol=1e-5)


def test_the_cache_knows_all_that_changes_an_answer() -> None:
    assert repr(Parts(rows=3)) == repr(Parts())
    assert len({repr(probe) for probe in (Parts(), Parts(n=3), Parts(seed=1), Views(), Views(n=3))}) == 5


def swin() -> tuple[nn.Module, int]:
    return hf.SwinModel(hf.SwinConfig(image_size=16, embed_dim=8, depths=[1], num_heads=[1], window_size=2)), 0


def resnet() -> tuple[nn.Module, int]:
    return hf.ResNetModel(hf.ResNetConfig(embedding_size=8, layer_type="basic", hidden_sizes=[8, 16], depths=[1, 1])), 0


BACKBONES: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "resnet": resnet,
    "our-resnet18": lambda: (encoder().backbone, 0),
    "vit": lambda: (hf.ViTModel(hf.ViTConfig(**VIT)), 1),
    "deit": lambda: (hf.DeiTModel(hf.DeiTConfig(**VIT)), 2),
    "clip": lambda: (hf.CLIPVisionModel(hf.CLIPVisionConfig(**VIT)), 1),
    "dinov2": lambda: (hf.Dinov2Model(hf.Dinov2Config(**VIT, mlp_ratio=2)), 1),
    "registers": lambda: (
        hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**VIT, mlp_ratio=2, num_register_tokens=3)),
        4,
    ),
    "siglip": lambda: (hf.SiglipVisionModel(hf.SiglipVisionConfig(**VIT)), 0),
    "swin": swin,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_map_is_the_last_hidden_state_without_tokens_of_no_position(name: str) -> None:
    torch.manual_seed(0)
    backbone, extra = BACKBONES[name]()
    module, images = Encoder(backbone, [1.0] * 3, [0.0] * 3, [0, 1, 2], "pooler_output"), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        found, answer = module.maps(images), backbone(pixel_values=images).last_hidden_state
    if answer.ndim == 4:
        answer = torch.stack([answer[:, :, y, x] for y in range(answer.shape[2]) for x in range(answer.shape[3])], 1)
    torch.testing.assert_close(found, answer[:, extra:])
    assert round(found.shape[1] ** 0.5) ** 2 == found.shape[1]  # a square of positions
    assert Parts(n=2).observe(module, batch(3, size=16))["uniform"].shape == (3, 2)


class Fixed(nn.Module):
    """A backbone that answers with a map of some `shape`, whose last number is `value`, and `pooled` numbers."""

    def __init__(self, value: float, pooled: int, shape: tuple[int, ...] = (3, 2, 2)) -> None:
        super().__init__()
        self.value, self.pooled, self.shape = value, pooled, shape

    def forward(self, pixel_values: torch.Tensor) -> hf.utils.ModelOutput:
        maps = torch.rand(len(pixel_values), *self.shape)
        maps.flatten()[-1] = self.value
        return hf.modeling_outputs.BaseModelOutputWithPooling(
            last_hidden_state=maps, pooler_output=torch.rand(len(pixel_values), self.pooled)
        )


def fixed(value: float = 0.0, pooled: int = 3, shape: tuple[int, ...] = (3, 2, 2)) -> Encoder:
    return Encoder(Fixed(value, pooled, shape), *CHANNELS, "pooler_output")


def test_an_encoder_without_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"VGG11Model\) has a map of 1 positions of an image of 32 x 32.*leave this"):
        Parts(n=2).observe(encoder("vgg11"), batch(2, size=32))
    with pytest.raises(ValueError, match=r"Fixed\) has no map of an image of 8 x 8.*two positions"):
        Parts(n=2).observe(fixed(shape=(3,)), batch(2, size=8))
    with pytest.raises(ValueError, match="Identity has none: leave this attack out"):
        Parts(n=2).observe(nn.Identity(), batch(2))


def test_a_map_of_other_features_is_refused() -> None:
    with pytest.raises(ValueError, match="pooled features have 5 numbers and those of its map 3"):
        Parts(n=2).observe(fixed(pooled=5), batch(2, size=8))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_maps_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN, infinity or features beyond 1e"):
        Parts(n=2).observe(fixed(value), batch(2, size=8))


@pytest.mark.parametrize("n", [0, 513])
def test_the_number_of_parts_has_bounds(n: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 512 views of an image, but is {n}"):
        Parts(n=n)


def test_both_sides_are_sorted_and_stand_after_each_other() -> None:
    rng = np.random.default_rng(0)
    rows = [{name: rng.random(5).astype(np.float32) for name in ("uniform", "gaussian")} for _ in range(7)]
    found = PartEnergies().measure(ragged(rows))
    assert found.dtype == np.float64
    for row, features in zip(rows, found, strict=True):
        sides = [sorted(map(float, row[name]), reverse=True) for name in ("uniform", "gaussian")]
        assert features.tolist() == sides[0] + sides[1]


def test_a_configuration_changes_what_is_asked() -> None:
    changes = {"signal": {"probe": {"n": 8, "seed": 3, "augmentation": {"scale": [0.1, 0.3]}}}}
    changes["classifier"] = {"hidden": [8], "activation": "tanh"}
    changed = change(PAPERS["partcrop"], changes, "partcrop")
    assert changed != PAPERS["partcrop"]
    assert change(PAPERS["partcrop"], changes_of(changed, PAPERS["partcrop"]), "partcrop") == changed
