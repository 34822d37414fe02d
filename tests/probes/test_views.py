"""The probes of a vision encoder against one view at a time, in float64, by SciPy and plain loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.spatial.distance import cosine, euclidean
from scipy.stats import pearsonr
from torch import nn
from worlds import each

from hf_mia.collate import Batch, Collate, Item
from hf_mia.core import Model, Probe
from hf_mia.probes.augmentation import Augmentation
from hf_mia.probes.views import Anchored, Drawn, Plain, ViewFeatures, Views, similarities
from hf_mia.runner import Runner

NAMES = ("cosine", "correlation", "euclidean")
PROBES = [Views(n=4), ViewFeatures(n=3), Anchored(n=3), Plain()]


def encoder(seed: int = 0, size: int = 7) -> nn.Module:
    """Features from images of any size, some of them 0."""
    torch.manual_seed(seed)
    pooled = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(pooled, nn.Linear(20, size), nn.Hardtanh(0, 9)).eval()


def batch(rows: int, size: int = 12, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(256, size=(rows, 3, size, size), dtype=np.uint8))
    return {"pixels": pixels, "seed": torch.from_numpy(rng.integers(2**63, size=rows, dtype=np.int64))}


def name(probe: Probe) -> str:
    return type(probe).__name__


def taken(batch: Batch, rows: Sequence[int] | slice) -> Batch:
    return {name: tensor[rows] for name, tensor in batch.items()}


def naive(features: np.ndarray) -> dict[str, list[float]]:
    """One image's similarities from its views' features (n, d), in float64, pair by pair."""
    rows = features.astype(np.float64)
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for later in range(len(rows)):
        for earlier in range(later):
            a, b = rows[later], rows[earlier]
            found["cosine"].append(1 - cosine(a, b) if a.any() and b.any() else 0.0)
            found["correlation"].append(pearsonr(a, b).statistic if np.ptp(a) and np.ptp(b) else 0.0)
            found["euclidean"].append(euclidean(a, b))
    return found


def check(features: np.ndarray, atol: float = 2e-6) -> None:
    found = similarities(torch.from_numpy(features.astype(np.float32)))
    for i, image in enumerate(features.astype(np.float32)):
        expected = naive(image)
        longest = float(np.linalg.norm(image.astype(np.float64), axis=1).max())
        for name in NAMES:
            assert found[name].dtype == torch.float32
            scale = longest if name == "euclidean" else 1.0
            np.testing.assert_allclose(found[name][i], expected[name], rtol=0, atol=atol * scale, err_msg=name)


def views_of(probe: Drawn, rows: Batch, i: int) -> list[np.ndarray]:
    """The features of an image's views, each drawn and encoded alone."""
    key = np.array([probe.seed, int(rows["seed"][i])], dtype=np.uint64)
    rng, found = np.random.Generator(np.random.Philox(key=key)), []
    for _ in range(probe.n):
        numbers = torch.from_numpy(rng.random(probe.augmentation.numbers, dtype=np.float32))[None]
        view = probe.augmentation(rows["pixels"][i : i + 1].float() / 255, numbers)
        with torch.no_grad():
            found.append(encoder()(view)[0].numpy())
    return found


@pytest.mark.parametrize("n", [2, 3, 10, 25])
def test_similarities_are_those_of_the_definition(n: int) -> None:
    rng = np.random.default_rng(n)
    check(rng.normal(size=(4, n, 33)))
    check(np.maximum(rng.normal(size=(4, n, 128)), 0))
    check(rng.normal(size=(3, n, 2)) + 0.5)


@pytest.mark.parametrize("level", [-30.0, 0.3, 100.0, 3000.0])
def test_a_high_mean_does_not_blur_the_correlation(level: float) -> None:
    check(np.random.default_rng(1).normal(size=(5, 6, 64)) + level)


def test_features_of_very_different_lengths() -> None:
    rng = np.random.default_rng(2)
    check(rng.normal(size=(6, 8, 40)) * 10.0 ** rng.integers(-6, 7, size=(6, 8, 1)))
    check(rng.normal(size=(3, 4, 2000)) * 2e14)
    check(rng.normal(size=(3, 4, 40)) * 1e-16)


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-7, 1e-5, 1e-3])
def test_views_that_are_nearly_the_same(noise: float) -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(5, 1, 128)) + noise * rng.normal(size=(5, 10, 128))
    check(features)
    found = similarities(torch.from_numpy(features.astype(np.float32)))
    for name in NAMES:
        assert torch.isfinite(found[name]).all()
    assert found["cosine"].max() <= 1
    assert found["correlation"].max() <= 1
    if noise == 0:
        assert (found["correlation"] == 1).all()
        assert (found["euclidean"] == 0).all()


def test_opposite_views_stay_at_minus_one() -> None:
    features = np.random.default_rng(4).normal(size=(50, 1, 30)) * np.array([1.0, -2.0])[None, :, None]
    check(features)
    found = similarities(torch.from_numpy(features.astype(np.float32)))
    assert found["cosine"].min() >= -1
    assert found["correlation"].min() >= -1


def test_features_without_a_direction_are_similar_to_nothing() -> None:
    """Zeros and constants, such as a rounding would leave around the mean: 0.1 has no exact float."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(1, 6, 77))
    features[0, 1], features[0, 2], features[0, 3], features[0, 4] = 0.0, 0.1, 0.1, -0.7
    check(features)
    check(np.zeros((2, 3, 9)))
    check(rng.normal(size=(2, 3, 1)))  # one feature alone is constant


@pytest.mark.parametrize("probe", [Views(n=5), Views(n=2, seed=9, augmentation=Augmentation(gray=1.0))], ids=name)
def test_views_asks_about_each_view_once(probe: Views) -> None:
    rows, module, seen = batch(6), encoder(), []
    module.register_forward_hook(lambda _m, inputs, _out: seen.append(len(inputs[0])))
    answers = probe.observe(module, rows)
    assert seen == [6 * probe.n]
    for i in range(6):
        expected = naive(np.stack(views_of(probe, rows, i)))
        for name in NAMES:
            assert answers[name].dtype == torch.float32
            np.testing.assert_allclose(answers[name][i], expected[name], rtol=0, atol=1e-5, err_msg=name)


def test_the_other_probes_give_the_features_themselves() -> None:
    rows, module = batch(6), encoder()
    feature = Plain().observe(module, rows)["feature"]
    features = ViewFeatures(n=5, seed=3).observe(module, rows)["features"]
    answers = Anchored(n=5, seed=3).observe(module, rows)["cosine"]
    assert feature.shape == (6, 7)
    assert features.shape == (6, 35)
    for i in range(6):
        with torch.no_grad():
            own = module(rows["pixels"][i : i + 1].float() / 255)[0].numpy()
        views = views_of(Views(n=5, seed=3), rows, i)
        np.testing.assert_allclose(feature[i], own, rtol=0, atol=1e-6)
        np.testing.assert_allclose(features[i], np.concatenate(views), rtol=0, atol=1e-5)
        np.testing.assert_allclose(answers[i], [1 - cosine(own, view) for view in views], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-8, 0.0])
def test_the_cosine_of_an_anchor_stays_in_its_range(scale: float) -> None:
    """An encoder that says the same of every image, or nothing."""

    class Constant(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.linspace(-1, 1, 30).expand(len(images), -1) * scale

    found = Anchored(n=4).observe(Constant(), batch(3))["cosine"]
    torch.testing.assert_close(found, torch.full((3, 4), float(scale > 0)))
    assert found.max() <= 1


def test_the_first_views_are_the_same_whatever_their_number() -> None:
    rows, module = batch(5), encoder()
    many, few = Views(n=11).observe(module, rows), Views(n=4).observe(module, rows)
    seeds = rows["seed"].numpy()
    np.testing.assert_array_equal(Views(n=11).draws(seeds)[:, :4], Views(n=4).draws(seeds))
    for name in NAMES:
        torch.testing.assert_close(many[name][:, :6], few[name], rtol=0, atol=1e-5)
    features = ViewFeatures(n=11).observe(module, rows)["features"][:, : 4 * 7]
    torch.testing.assert_close(features, ViewFeatures(n=4).observe(module, rows)["features"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("probe", PROBES, ids=name)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 1000])
def test_how_many_views_are_on_the_device_does_not_matter(probe: Probe, rows: int) -> None:
    asked, module, seen = batch(7), encoder(), []
    module.register_forward_hook(lambda _m, inputs, _out: seen.append(len(inputs[0])))
    found = type(probe)(**{**vars(probe), "rows": rows}).observe(module, asked)
    assert max(seen) <= rows
    for name, answers in probe.observe(module, asked).items():
        torch.testing.assert_close(found[name], answers, rtol=0, atol=1e-5)


@pytest.mark.parametrize("probe", PROBES, ids=name)
def test_neither_batch_nor_order_matters(probe: Probe) -> None:
    rows, module = batch(9), encoder()
    whole = probe.observe(module, rows)
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    turned = probe.observe(module, taken(rows, order))
    alone = [probe.observe(module, taken(rows, slice(i, i + 1))) for i in range(9)]
    for name, answers in whole.items():
        torch.testing.assert_close(turned[name], answers[order], rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), answers, rtol=0, atol=1e-5)


def test_draws_hang_on_the_content_and_the_seed_of_the_probe() -> None:
    seeds = np.array([5, 6, 5, 2**63 - 1, 0], dtype=np.int64)
    draws = Views().draws(seeds)
    np.testing.assert_array_equal(draws[0], draws[2])
    kinds = [Views().draws(seeds), Views(seed=1).draws(seeds), Views(seed=-1).draws(seeds)]
    assert len({kind[i].tobytes() for kind in kinds for i in (0, 1, 3, 4)}) == 12
    np.testing.assert_array_equal(draws, Views().draws(seeds))
    np.testing.assert_array_equal(draws, ViewFeatures(augmentation=Augmentation(gray=0.0)).draws(seeds))
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.05
    assert len(np.unique(draws)) > 0.99 * 4 * 10 * Augmentation.numbers


def test_a_models_own_randomness_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    Views(n=2).observe(nn.Flatten(), batch(2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [1, 0, -3, 51])
def test_similarities_need_two_views(n: int) -> None:
    with pytest.raises(ValueError, match=f"2 to 50 views of an image, because similarities need two views, but is {n}"):
        Views(n=n)


@pytest.mark.parametrize("kind", [ViewFeatures, Anchored])
def test_the_other_probes_take_one_view(kind: type[Drawn]) -> None:
    assert kind(n=1).n == 1
    with pytest.raises(ValueError, match="1 to 50 views of an image, but is 0"):
        kind(n=0)


def test_the_cache_knows_all_that_changes_an_answer() -> None:
    assert repr(Views(rows=3)) == repr(Views())
    assert Views(rows=3) == Views()
    gray = Augmentation(gray=0.0)
    probes = [Views(), Views(n=3), Views(seed=1), Views(augmentation=gray), ViewFeatures(), Anchored()]
    assert len({repr(probe) for probe in probes}) == len(probes)


class Fixed(nn.Module):
    """Features of which one, in the last row, is `value`."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = images.mean((2, 3))
        found[-1, -1] = self.value
        return found


@pytest.mark.parametrize("probe", PROBES, ids=name)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e25])
def test_features_that_are_no_numbers_are_refused(probe: Probe, value: float) -> None:
    with pytest.raises(ValueError, match="NaN, infinity or features beyond 1e"):
        probe.observe(Fixed(value), batch(3))


def test_an_encoder_that_does_not_pool_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must answer with features \(rows, d\), but answers \(4, 3, 12, 12\)"):
        Views(n=2).observe(nn.Identity(), batch(2))


class Bytes(Collate):
    """Images as bytes in a column, 12 x 12."""

    columns: ClassVar[tuple[str, ...]] = ("image",)

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        found = []
        for i, image in enumerate(records["image"]):
            assert isinstance(image, bytes)
            digest = int.from_bytes(blake2b(image, digest_size=8).digest(), "big") >> 1
            found.append(Item(i, 1, {"pixels": list(image), "seed": [digest]}))
        return found

    def pad(self, items: Sequence[Item]) -> Batch:
        pixels = torch.tensor([item.values["pixels"] for item in items], dtype=torch.uint8)
        return {
            "pixels": pixels.reshape(-1, 3, 12, 12),
            "seed": torch.tensor([item.values["seed"][0] for item in items], dtype=torch.int64),
        }


def test_the_runner_gives_each_image_its_answers(tmp_path: Path) -> None:
    """Chunks and batches of any size, records in any order."""
    images = [image.numpy().tobytes() for image in batch(17)["pixels"]]
    model = Model("tiny", "tiny", Bytes(), encoder)
    order = np.random.default_rng(6).permutation(17)
    turned = [images[i] for i in order]
    for at, probe in enumerate(PROBES):
        straight = Runner(tmp_path / f"a{at}", chunk=5, tokens=3)(model, probe, Dataset.from_dict({"image": images}))
        others = Runner(tmp_path / f"b{at}", chunk=8)(model, probe, Dataset.from_dict({"image": turned}))
        rows, again = list(each(straight)), list(each(others))
        assert len(rows) == 17
        for i, row in zip(order, again, strict=True):
            for name, values in row.items():
                np.testing.assert_allclose(rows[i][name], values, rtol=0, atol=1e-5)
