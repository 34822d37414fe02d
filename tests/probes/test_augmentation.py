"""`Augmentation` against references that share no code: loops over pixels, Pillow, and the laws of its draws."""

from __future__ import annotations

import colorsys
import math
from itertools import permutations, product

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest

from hf_mia.probes.augmentation import Augmentation, cropped

STILL = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jittered=0.0, gray=0.0)  # changes nothing
CROP, FLIP, JITTER, GRAY = 20, 22, 23, 28  # where in the numbers each draw stands


def images(rows: int, height: int = 8, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((rows, 3, height, width), dtype=np.float32))


def uniform(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((rows, Augmentation.numbers), dtype=np.float32))


def box(numbers: np.ndarray, height: int, width: int, plan: Augmentation) -> tuple[int, int, int, int]:
    """Left, top, width, height, as torchvision's RandomResizedCrop reads, one draw after the other."""
    for i in range(10):
        area = height * width * (plan.scale[0] + numbers[i] * (plan.scale[1] - plan.scale[0]))
        low, high = math.log(plan.ratio[0]), math.log(plan.ratio[1])
        ratio = math.exp(low + numbers[10 + i] * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(numbers[20] * (width - w + 1)), int(numbers[21] * (height - h + 1)), w, h
    w, h = width, height
    if width / height < plan.ratio[0]:
        h = round(width / plan.ratio[0])
    elif width / height > plan.ratio[1]:
        w = round(height * plan.ratio[1])
    return (width - w + 1) // 2, (height - h + 1) // 2, w, h  # the centre; torchvision rounds a half the other way


def resized(image: np.ndarray, box: tuple[int, int, int, int], flipped: bool) -> np.ndarray:
    """A crop of an image (3, H, W), resized to H x W: each pixel from its four neighbours inside of the box."""
    left, top, w, h = box
    inside = image[:, top : top + h, left : left + w].astype(np.float64)
    found = np.empty(image.shape)
    for y, x in product(range(image.shape[1]), range(image.shape[2])):
        v = min(max((y + 0.5) * h / image.shape[1] - 0.5, 0), h - 1)
        u = min(max((x + 0.5) * w / image.shape[2] - 0.5, 0), w - 1)
        y0, x0 = int(v), int(u)
        y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
        upper = inside[:, y0, x0] * (1 - u + x0) + inside[:, y0, x1] * (u - x0)
        lower = inside[:, y1, x0] * (1 - u + x0) + inside[:, y1, x1] * (u - x0)
        found[:, y, image.shape[2] - 1 - x if flipped else x] = upper * (1 - v + y0) + lower * (v - y0)
    return found


def grayscale(image: np.ndarray) -> np.ndarray:
    return np.repeat(0.299 * image[:1] + 0.587 * image[1:2] + 0.114 * image[2:], 3, axis=0)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    found = np.empty_like(image)
    for y, x in product(range(image.shape[1]), range(image.shape[2])):
        h, s, v = colorsys.rgb_to_hsv(*image[:, y, x])
        found[:, y, x] = colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)
    return found


def jittered(image: np.ndarray, factors: list[float], order: tuple[int, ...]) -> np.ndarray:
    """torchvision's ColorJitter: blends with black, with the mean gray and with the gray image; a turn of the hue."""
    for step in order:
        if step == 0:
            image = np.clip(factors[0] * image, 0, 1)
        elif step == 1:
            image = np.clip(factors[1] * image + (1 - factors[1]) * grayscale(image).mean(), 0, 1)
        elif step == 2:
            image = np.clip(factors[2] * image + (1 - factors[2]) * grayscale(image), 0, 1)
        else:
            image = hue(image, factors[3])
    return image


@pytest.mark.parametrize("size", [(32, 32), (8, 12), (40, 7), (7, 40), (2, 2), (96, 96)])
@pytest.mark.parametrize("plan", [Augmentation(), Augmentation(scale=(0.9, 1.0), ratio=(2.0, 3.0))])
def test_boxes_are_those_of_a_loop(size: tuple[int, int], plan: Augmentation) -> None:
    numbers = uniform(300, seed=1)
    expected = [box(row, *size, plan) for row in numbers.double().numpy()]
    found = plan.boxes(numbers, *size)
    assert (found == torch.tensor(expected)).all(1).float().mean() > 0.99  # the others: a rounding of a half
    left, top, w, h = found.T
    assert (torch.stack([left, top, w - 1, h - 1]) >= 0).all()
    assert (left + w <= size[1]).all()
    assert (top + h <= size[0]).all()


def test_the_largest_and_the_smallest_number_stay_inside() -> None:
    for number in (0.0, float(np.nextafter(np.float32(1), np.float32(0)))):
        numbers = torch.full((1, Augmentation.numbers), number)
        for side in range(1, 100):
            left, top, w, h = Augmentation().boxes(numbers, side, side)[0].tolist()
            assert 0 <= left <= side - w
            assert 0 <= top <= side - h
        assert torch.isfinite(Augmentation()(images(1), numbers)).all()


@pytest.mark.parametrize("size", [(8, 8), (6, 11)])
def test_a_view_is_a_crop_resized_and_flipped(size: tuple[int, int]) -> None:
    plan = Augmentation(jittered=0.0, gray=0.0)
    pixels, numbers = images(40, *size), uniform(40, seed=2)
    views, flips = plan(pixels, numbers), 0
    boxes = plan.boxes(numbers, *size).int().tolist()
    for image, row, where, view in zip(pixels.numpy(), numbers, boxes, views.numpy(), strict=True):
        flips += bool(row[FLIP] < 0.5)
        np.testing.assert_allclose(view, resized(image, tuple(where), bool(row[FLIP] < 0.5)), rtol=0, atol=1e-5)
    assert 5 < flips < 35


@pytest.mark.parametrize("where", [(0, 0, 32, 32), (3, 5, 20, 17), (31, 0, 1, 32), (0, 31, 32, 1), (10, 10, 2, 3)])
def test_resizing_is_pillows(where: tuple[int, int, int, int]) -> None:
    """As bilinear as Pillow's, but for its rounding to whole numbers after each of its two passes."""
    whole = np.random.default_rng(3).integers(256, size=(32, 32, 3), dtype=np.uint8)
    left, top, w, h = where
    expected = Image.fromarray(whole).crop((left, top, left + w, top + h)).resize((32, 32), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(whole).permute(2, 0, 1)[None] / 255
    found = cropped(pixels, torch.tensor([where], dtype=torch.float32), torch.tensor([False]))[0].permute(1, 2, 0)
    assert np.abs(found.numpy() * 255 - np.asarray(expected, dtype=np.float64)).max() <= 1.01


def test_the_whole_image_unflipped_is_the_image() -> None:
    pixels = images(5, 32, 32)
    torch.testing.assert_close(STILL(pixels, uniform(5)), pixels, rtol=0, atol=1e-5)


def test_jitter_is_that_of_a_loop() -> None:
    """All four steps in every one of the 24 orders, on crops that are the whole image."""
    plan = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jittered=1.0, gray=0.0)
    pixels, numbers = images(48, 5, 5, seed=4), uniform(48, seed=5)
    pixels[0], pixels[1], pixels[2, 1:] = 0.0, 1.0, 0.0  # black, white and red
    orders = list(permutations(range(4)))
    numbers[:, JITTER + 5] = torch.arange(48).remainder(24).add(0.5) / 24
    found = plan(pixels, numbers).double().numpy()
    for i, (image, row) in enumerate(zip(pixels.double().numpy(), numbers.double().numpy(), strict=True)):
        draws = row[JITTER + 1 : JITTER + 5]
        factors = [*(0.6 + 0.8 * draws[:3]), -0.1 + 0.2 * draws[3]]
        np.testing.assert_allclose(found[i], jittered(image, factors, orders[i % 24]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", range(4))
def test_each_step_alone_and_at_its_widest(kind: int) -> None:
    jitter = [0.0] * 4
    jitter[kind] = 1.0 if kind < 3 else 0.5
    plan = Augmentation((1.0, 1.0), (1.0, 1.0), 0.0, (jitter[0], jitter[1], jitter[2], jitter[3]), 1.0, 0.0)
    pixels, numbers = images(20, 4, 4, seed=6), uniform(20, seed=7)
    found = plan(pixels, numbers).double().numpy()
    for i, (image, row) in enumerate(zip(pixels.double().numpy(), numbers.double().numpy(), strict=True)):
        factor = 2 * row[JITTER + 1 + kind] if kind < 3 else row[JITTER + 4] - 0.5
        np.testing.assert_allclose(found[i], jittered(image, [factor] * 4, (kind,)), rtol=0, atol=2e-5)


def test_gray_is_the_weighted_sum_of_the_colours() -> None:
    pixels, numbers = images(30), uniform(30, seed=8)
    found = Augmentation((1.0, 1.0), (1.0, 1.0), flip=0.0, jittered=0.0)(pixels, numbers).double().numpy()
    drawn = numbers[:, GRAY] < 0.2
    assert 0 < drawn.sum() < 30
    for image, view, is_gray in zip(pixels.double().numpy(), found, drawn, strict=True):
        np.testing.assert_allclose(view, grayscale(image) if is_gray else image, rtol=0, atol=1e-5)


def test_a_view_depends_on_its_own_row_alone() -> None:
    pixels, numbers = images(33, 16, 16), uniform(33, seed=9)
    before = pixels.clone()
    together = Augmentation()(pixels, numbers)
    alone = torch.cat([Augmentation()(pixels[i : i + 1], numbers[i : i + 1]) for i in range(33)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(pixels, before, rtol=0, atol=0)
    assert together.min() >= 0
    assert together.max() <= 1 + 1e-6


def test_crops_follow_the_law_of_their_area_and_ratio() -> None:
    """On an image so large that whole pixels do not matter; wide shapes that do not fit are drawn again."""
    plan, side = Augmentation(scale=(0.2, 0.7)), 10_000  # at most .7 * 4/3 < 1 of a side squared: all fit
    left, top, w, h = plan.boxes(uniform(20_000, seed=10), side, side).double().numpy().T
    assert kstest((w * h / side**2 - 0.2) / 0.5, "uniform").pvalue > 1e-3
    assert kstest((np.log(w / h) - math.log(3 / 4)) / math.log(16 / 9), "uniform").pvalue > 1e-3
    assert kstest(left / (side - w), "uniform").pvalue > 1e-3
    assert kstest(top / (side - h), "uniform").pvalue > 1e-3


def test_every_place_of_a_small_crop_is_as_likely() -> None:
    plan = Augmentation(scale=(0.25, 0.25), ratio=(1.0, 1.0))
    left = plan.boxes(uniform(9000, seed=11), 4, 4)[:, 0].int()
    np.testing.assert_allclose(torch.bincount(left, minlength=3) / 9000, 1 / 3, atol=0.025)


def test_probabilities_of_flip_jitter_and_gray() -> None:
    """A colour ramp shows what was done to it: its direction, its colours, its grayness."""
    n = 4000
    ramp = torch.linspace(0.2, 0.6, 4).expand(1, 1, 4, 4) * torch.tensor([1.0, 0.8, 0.5])[None, :, None, None]
    views = Augmentation((1.0, 1.0), (1.0, 1.0))(ramp.expand(n, 3, 4, 4).contiguous(), uniform(n, seed=12))
    flipped = views[:, 0, 0, 0] > views[:, 0, 0, 3]
    gray = (views[:, 0] - views[:, 2]).abs().amax((1, 2)) < 1e-6
    straight = torch.where(flipped[:, None, None, None], views.flip(3), views)
    kept = (straight - ramp).abs().amax((1, 2, 3)) < 1e-5
    kept |= (straight[:, 0] - torch.from_numpy(grayscale(ramp[0].double().numpy()))[0]).abs().amax((1, 2)) < 1e-5
    for share, expected in ((flipped, 0.5), (gray, 0.2), (~kept, 0.8)):
        assert abs(share.float().mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("changes", [{"scale": (0.5, 0.2)}, {"scale": (0.2, 1.5)}, {"ratio": (0.0, 1.0)}])
def test_empty_ranges_are_refused(changes: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="ascending range"):
        Augmentation(**changes)


@pytest.mark.parametrize("changes", [{"flip": 1.5}, {"gray": -0.1}, {"jitter": (0.4, 0.4, 0.4, 0.6)}])
def test_what_is_no_probability_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        Augmentation(**changes)
