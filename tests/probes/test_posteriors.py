"""What `Posteriors` shows of a classifier, at each access level, against loops over rows, queries and classes."""

from __future__ import annotations

import math
from itertools import chain
from typing import get_args

import numpy as np
import pytest
import torch

from hf_mia.collate import Batch
from hf_mia.probes.posteriors import Access, Posteriors, Shifts

CLASSES, ROWS, HEIGHT, WIDTH = 4, 11, 5, 6
RNG = np.random.default_rng(0)
PIXELS = torch.from_numpy(RNG.integers(0, 256, (ROWS, 3, HEIGHT, WIDTH), dtype=np.uint8))
BATCH: Batch = {"pixels": PIXELS, "label": torch.from_numpy(RNG.integers(0, CLASSES, ROWS))}
ALL = Shifts(reach=2, mirror=True)


class Linear(torch.nn.Module):
    """Logits that are a linear map of the pixels, in a dtype."""

    def __init__(self, dtype: torch.dtype = torch.float32, classes: int = CLASSES) -> None:
        super().__init__()
        weight = np.random.default_rng(1).normal(size=(classes, 3 * HEIGHT * WIDTH))
        self.weight, self.dtype = torch.from_numpy(weight), dtype
        self.seen: list[set[str]] = []

    def forward(self, batch: Batch) -> torch.Tensor:
        self.seen.append(set(batch))
        return ((batch["pixels"].double() / 255).flatten(1) @ self.weight.T).to(self.dtype)


class Given(torch.nn.Module):
    """The logits that it is given."""

    def __init__(self, logits: object, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=dtype)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.logits


def plain(labels: list[int]) -> Batch:
    return {"label": torch.tensor(labels)}


def shifted(image: np.ndarray, right: int, down: int) -> np.ndarray:
    """One image (3, H, W), pixel by pixel; where nothing is, the nearest edge."""
    found = np.empty_like(image)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            found[:, y, x] = image[:, min(max(y - down, 0), HEIGHT - 1), min(max(x - right, 0), WIDTH - 1)]
    return found


def queries(image: np.ndarray, reach: int, mirror: bool) -> list[np.ndarray]:
    """The queries made of an image, in order."""
    moves = [(0, 0), (-reach, 0), (reach, 0), (0, -reach), (0, reach)] if reach else [(0, 0)]
    found = []
    for right, down in moves:
        moved = shifted(image, right, down)
        found += [moved, moved[:, :, ::-1]] if mirror else [moved]
    return found


def logits(image: np.ndarray) -> np.ndarray:
    return Linear().weight.numpy() @ (image.astype(np.float64) / 255).ravel()


def chances(numbers: np.ndarray) -> list[float]:
    weights = [math.exp(number - max(numbers)) for number in numbers]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("reach", [0, 1, 2])
def test_queries_are_shifts_and_mirror_images(reach: int, mirror: bool) -> None:
    shifts = Shifts(reach, mirror)
    made = list(shifts(BATCH))
    assert len(made) == shifts.n == (5 if reach else 1) * (2 if mirror else 1)
    for row in range(ROWS):
        for query, expected in zip(made, queries(PIXELS[row].numpy(), reach, mirror), strict=True):
            assert query["pixels"].dtype == torch.uint8
            np.testing.assert_array_equal(query["pixels"][row], expected)
    assert all(query["label"] is BATCH["label"] for query in made)


@pytest.mark.parametrize("shifts", [Shifts(), ALL], ids=repr)
@pytest.mark.parametrize("access", get_args(Access))
def test_an_access_level_shows_this_and_no_more(access: Access, shifts: Shifts) -> None:
    answers = Posteriors(access, k=2, queries=shifts).observe(Linear(), BATCH)
    own = {"logits": {"logits"}, "probabilities": {"probabilities"}, "top-k": {"top", "classes", "shown"}}
    assert set(answers) == {"label", "count"} | own.get(access, {"predicted"})
    for row in range(ROWS):
        numbers = [logits(query) for query in queries(PIXELS[row].numpy(), shifts.reach, shifts.mirror)]
        assert answers["label"][row].tolist() == [int(BATCH["label"][row])]
        assert answers["count"][row].tolist() == [CLASSES]
        if access == "logits":
            np.testing.assert_allclose(answers["logits"][row], np.concatenate(numbers), rtol=1e-5, atol=1e-5)
        elif access == "probabilities":
            np.testing.assert_allclose(answers["probabilities"][row], list(chain(*map(chances, numbers))), rtol=1e-4)
        elif access == "label":
            assert answers["predicted"][row].tolist() == [int(np.argmax(some)) for some in numbers]
        else:
            order = [sorted(range(CLASSES), key=lambda c, some=some: -some[c])[:2] for some in numbers]
            assert answers["classes"][row].tolist() == list(chain(*order))
            top = [chances(some)[c] for some, own in zip(numbers, order, strict=True) for c in own]
            np.testing.assert_allclose(answers["top"][row], top, rtol=1e-4)
            assert answers["shown"][row].tolist() == [2]


@pytest.mark.parametrize("access", get_args(Access))
def test_every_answer_has_its_dtype(access: Access) -> None:
    kinds = {name: answer.dtype for name, answer in Posteriors(access).observe(Linear(), BATCH).items()}
    floats = {name for name in ("logits", "probabilities", "top") if name in kinds}
    assert all(kinds[name] == torch.float32 for name in floats)
    assert all(kind == torch.int64 for name, kind in kinds.items() if name not in floats)


def test_logits_in_float64_stay_so() -> None:
    answers = Posteriors().observe(Linear(torch.float64), BATCH)
    expected = [logits(image.numpy()) for image in PIXELS]
    assert answers["logits"].dtype == torch.float64
    np.testing.assert_allclose(answers["logits"], expected, rtol=1e-13)
    assert Posteriors("probabilities").observe(Linear(torch.float64), BATCH)["probabilities"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_become_floats_before_the_softmax(dtype: torch.dtype) -> None:
    module = Given([[0.0, 9.0], [0.0, 4.0]], dtype)
    assert Posteriors().observe(module, plain([0, 1]))["logits"].dtype == torch.float32
    found = Posteriors("probabilities").observe(module, plain([0, 1]))["probabilities"]
    expected = [chances(np.array([0.0, 9.0])), chances(np.array([0.0, 4.0]))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # a half would be off by 1e-3


@pytest.mark.parametrize("access", get_args(Access))
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_how_many_rows_go_at_once_changes_nothing(rows: int, access: Access) -> None:
    expected = Posteriors(access, 3, ALL).observe(Linear(), BATCH)
    found = Posteriors(access, 3, ALL, rows).observe(Linear(), BATCH)
    for name, answer in expected.items():
        torch.testing.assert_close(found[name], answer, rtol=1e-6, atol=1e-6)
    assert repr(Posteriors(rows=rows)) == repr(Posteriors())
    assert Posteriors(rows=rows) == Posteriors()


def test_the_module_gets_the_whole_batch_and_never_more_rows_than_it_may() -> None:
    module, rows = Linear(), []
    module.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0]["pixels"])))
    Posteriors(queries=Shifts(1), rows=4).observe(module, {**BATCH, "other": torch.arange(ROWS)})
    assert all(seen == {"pixels", "label", "other"} for seen in module.seen)
    assert rows == [4] * 5 + [4] * 5 + [3] * 5


def test_a_text_has_no_shifts() -> None:
    batch = {"input_ids": torch.zeros(2, 3), "label": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"which only images have, but the batch has \['input_ids', 'label'\]: leave"):
        Posteriors(queries=Shifts(mirror=True)).observe(Given([[0.0, 1.0]] * 2), batch)
    assert len(Posteriors().observe(Given([[0.0, 1.0]] * 2), batch)["logits"]) == 2


@pytest.mark.parametrize("reach", [5, 6])
def test_a_shift_as_large_as_the_image_is_refused(reach: int) -> None:
    with pytest.raises(ValueError, match=rf"reach must be below the images' [56] pixels, but is {reach}"):
        list(Shifts(reach)(BATCH))
    with pytest.raises(ValueError, match=r"reach must be 0 pixels.* or more, but is -1"):
        Shifts(-1)


@pytest.mark.parametrize(("k", "shown"), [(1, 1), (4, 4), (5, 4), (100, 4)])
def test_no_more_classes_are_shown_than_there_are(k: int, shown: int) -> None:
    answers = Posteriors("top-k", k, ALL).observe(Linear(), BATCH)
    assert answers["top"].shape == answers["classes"].shape == (ROWS, ALL.n * shown)
    assert (answers["shown"] == shown).all()
    blocks = answers["top"].reshape(ROWS, ALL.n, shown)
    assert (blocks.diff(dim=2) <= 0).all()


def test_of_equal_chances_the_first_class_comes_first() -> None:
    module = Given([[1.0, 2.0, 2.0, 1.0, 2.0]])
    assert Posteriors("top-k", 4).observe(module, plain([0]))["classes"].tolist() == [[1, 2, 4, 0]]
    assert Posteriors("label").observe(module, plain([0]))["predicted"].tolist() == [[1]]
    many = Posteriors("top-k", 500).observe(Given([[float(i % 2) for i in range(1000)]]), plain([0]))
    assert many["classes"].tolist() == [list(range(1, 1000, 2))]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="the model answers with NaN or infinity: its weights are broken"):
        Posteriors("label").observe(Given([[0.0, 1.0], [number, 0.0]]), plain([0, 1]))


@pytest.mark.parametrize("label", [-1, 2, 7])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(
        ValueError, match=rf"label must be 0 to 1, for the model has 2 classes, but is {label}: leave out"
    ):
        Posteriors().observe(Given([[0.0, 1.0], [1.0, 0.0]]), plain([0, label]))


@pytest.mark.parametrize("answer", [[[1.0], [2.0]], [[[1.0, 2.0]], [[1.0, 2.0]]], [[1.0, 2.0]], [1.0, 2.0]])
def test_what_is_no_classifier_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match=r"must answer 2 records with logits \(2, C\) of two classes or more, but"):
        Posteriors().observe(Given(answer), plain([0, 0]))


@pytest.mark.parametrize(
    ("access", "near"), [("logit", "did you mean 'logits'"), ("topk", "did you mean 'top-k'"), ("x", r"is 'x'\.")]
)
def test_an_unknown_access_names_the_nearest(access: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"access must be one of \['logits', .*'label'\], but.*{near}"):
        Posteriors(access)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, -3])
def test_fewer_than_one_class_cannot_be_shown(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be at least 1.*, but is {k}"):
        Posteriors("top-k", k)


def test_nothing_is_left_to_differentiate() -> None:
    module = torch.nn.Linear(3, 2)
    wrapped = torch.nn.Module()
    wrapped.forward = lambda batch: module(batch["x"])  # type: ignore[method-assign]
    answers = Posteriors().observe(wrapped, {"x": torch.ones(2, 3), "label": torch.zeros(2, dtype=torch.int64)})
    assert answers["logits"].is_inference()
