"""What is read off a classifier's answers, against the published formulas in 800 digits, one record at a time."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import get_args

import numpy as np
import pytest
import torch
from datasets import Dataset
from worlds import ragged

from hf_mia.collate import Batch
from hf_mia.config import change, changes_of
from hf_mia.core import Floats, Pool, Ragged, Signal
from hf_mia.probes.gradients import Gradients
from hf_mia.probes.posteriors import Access, Posteriors, Shifts
from hf_mia.signals.classifier import (
    AugmentedCorrectness,
    Confidence,
    Correctness,
    Distribution,
    Entropy,
    GradientNorm,
    LogitGap,
    Loss,
    ModifiedEntropy,
    Posterior,
    WhiteBox,
    labels,
    log_posteriors,
    predicted,
)

DIGITS = 800  # 1 - exp(-1600) has 694 nines
FROM_CHANCES = [Loss, Confidence, Entropy, ModifiedEntropy, LogitGap, Posterior]
QUERIES = Shifts(mirror=True)
RNG = np.random.default_rng(0)
LOGITS = [  # of one record each, and its class
    ([50.0, 0.0, 0.0], 0),
    ([50.0, 0.0, 0.0], 1),
    ([800.0, 0.0, 1.0], 0),
    ([800.0, 0.0, 1.0], 2),
    ([-800.0, 800.0, 3.0], 0),
    ([-800.0, 800.0, 3.0], 1),
    ([1e4, 0.0, -1e4], 0),
    ([1e4, 0.0, -1e4], 1),
    ([1e4, 0.0, -1e4], 2),
    ([0.0, 0.0, 0.0], 2),
    ([1e6, 1e6, -1e6], 1),
    ([0.7, -0.2, 1.3], 1),
    ([1.0, 1.0, 40.0], 2),
    *((list(RNG.normal(0, 4, 3)), int(RNG.integers(3))) for _ in range(20)),
]


class Exact:
    """The formulas as they are published, of p = softmax(logits), by loops over classes."""

    def __init__(self, logits: list[float], label: int) -> None:
        weights = [(Decimal(x) - Decimal(max(logits))).exp() for x in logits]
        self.p, self.y = [weight / sum(weights) for weight in weights], label
        self.others = [i for i in range(len(logits)) if i != label]

    def loss(self) -> Decimal:
        return self.p[self.y].ln()

    def confidence(self) -> Decimal:
        return max(self.p)

    def entropy(self) -> Decimal:
        return sum((p * p.ln() for p in self.p), Decimal(0))

    def modified_entropy(self) -> Decimal:
        found = (1 - self.p[self.y]) * self.p[self.y].ln()
        for i in self.others:
            found += self.p[i] * (1 - self.p[i]).ln()
        return found

    def logit_gap(self) -> Decimal:
        return self.p[self.y].ln() - sum((self.p[i] for i in self.others), Decimal(0)).ln()


def answered(rows: list[tuple[list[float], int]], access: Access = "logits", k: int = 2) -> dict[str, Ragged]:
    """What `Posteriors` answers of records with these logits."""

    class Given(torch.nn.Module):
        def forward(self, batch: Batch) -> torch.Tensor:
            return torch.tensor([logits for logits, _ in rows], dtype=torch.float64)

    batch = {"label": torch.tensor([label for _, label in rows])}
    found = Posteriors(access, k).observe(Given(), batch)
    return ragged([{name: answer[i].numpy() for name, answer in found.items()} for i in range(len(rows))])


@pytest.mark.parametrize(
    ("signal", "formula"),
    [
        (Loss(), Exact.loss),
        (Confidence(), Exact.confidence),
        (Entropy(), Exact.entropy),
        (ModifiedEntropy(), Exact.modified_entropy),
        (LogitGap(), Exact.logit_gap),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_number_is_the_published_one(signal: Signal, formula: object) -> None:
    found = signal.measure(answered(LOGITS))
    assert found.shape == (len(LOGITS), 1)
    assert found.dtype == np.float64
    with localcontext() as context:
        context.prec = DIGITS
        context.Emin = -(10**6)
        exact = [formula(Exact(*row)) if max(row[0]) < 1e4 else None for row in LOGITS]  # type: ignore[operator]
        expected = [np.nan if number is None else float(number) for number in exact]
    assert np.isfinite(found).all()
    assert not np.signbit(found[found == 0]).any()
    for row, number, own in zip(LOGITS, found[:, 0], expected, strict=True):
        if np.isfinite(own):
            np.testing.assert_allclose(number, own, rtol=1e-13, atol=1e-300, err_msg=str(row))


def test_numbers_of_two_equal_and_enormous_logits() -> None:
    answers = answered([([1e6, 1e6, -1e6], 1)])
    expected = {Loss: -np.log(2), Confidence: 0.5, Entropy: -np.log(2), ModifiedEntropy: -np.log(2), LogitGap: 0.0}
    for kind, number in expected.items():
        np.testing.assert_allclose(kind().measure(answers), [[number]], atol=1e-15)


def test_numbers_of_logits_that_no_digits_reach() -> None:
    """Of gaps of 10,000: exp(-10,000) is 0 in float64, and so are loss and entropy of a sure and right answer."""
    answers = answered([([1e4, 0.0, -1e4], label) for label in range(3)])
    assert Loss().measure(answers)[:, 0].tolist() == [0.0, -1e4, -2e4]
    assert LogitGap().measure(answers)[:, 0].tolist() == [1e4, -1e4, -2e4]
    assert ModifiedEntropy().measure(answers)[:, 0].tolist() == [0.0, -2e4, -3e4]
    assert Entropy().measure(answers)[:, 0].tolist() == [0.0, 0.0, 0.0]


def test_gaps_of_50_and_800_are_told_apart() -> None:
    """Where p rounds to 1, as most members' does, a naive loss, entropy or gap is 0 or infinite for all of them."""
    answers = answered([([gap, 0.0], 0) for gap in (30.0, 50.0, 60.0, 800.0)])
    assert LogitGap().measure(answers)[:, 0].tolist() == [30.0, 50.0, 60.0, 800.0]
    for kind in (Loss, Entropy, ModifiedEntropy):
        found = kind().measure(answers)[:, 0]
        assert (np.diff(found) > 0).all(), kind
        assert found[1] == pytest.approx({Loss: -1, Entropy: -51, ModifiedEntropy: -2}[kind] * np.exp(-50), rel=1e-12)


def test_posteriors_stand_in_the_order_of_the_classes() -> None:
    found = Posterior().measure(answered(LOGITS))
    with localcontext() as context:
        context.prec = 50
        expected = [[float(p) for p in Exact(*row).p] for row in LOGITS]
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-14)


@pytest.mark.parametrize("access", get_args(Access))
def test_correctness_is_whether_the_largest_is_the_label(access: Access) -> None:
    rows = [row for row in LOGITS if len(set(row[0])) == 3]
    answers = answered(rows, access)
    expected = [[float(logits.index(max(logits)) == label)] for logits, label in rows]
    for signal in (Correctness(Posteriors(access)), AugmentedCorrectness(Posteriors(access))):
        assert signal.measure(answers).tolist() == expected
    assert 0 < np.mean(expected) < 1
    assert labels(answers).tolist() == [label for _, label in rows]


class Sum(torch.nn.Module):
    """Logits that are the pixels of the top row: what a mirror image does is seen."""

    def forward(self, batch: Batch) -> torch.Tensor:
        return batch["pixels"][:, 0, 0].double() / 9


def of_images(access: Access) -> tuple[np.ndarray, np.ndarray, dict[str, Ragged]]:
    """Top rows (records, C), classes, and what is answered of the image and its mirror image."""
    rng = np.random.default_rng(5)
    pixels, label = rng.integers(0, 99, (17, 3, 4, 4), dtype=np.uint8), rng.integers(0, 4, 17)
    batch = {"pixels": torch.from_numpy(pixels), "label": torch.from_numpy(label)}
    found = Posteriors(access, 3, QUERIES).observe(Sum(), batch)
    rows = [{name: answer[i].numpy() for name, answer in found.items()} for i in range(17)]
    return pixels[:, 0, 0], label, ragged(rows)


@pytest.mark.parametrize("access", get_args(Access))
def test_every_query_counts_where_queries_are_read(access: Access) -> None:
    top, label, answers = of_images(access)
    both = [[list(row), list(row)[::-1]] for row in top.tolist()]
    right = [[float(row.index(max(row)) == y) for row in pair] for pair, y in zip(both, label.tolist(), strict=True)]
    assert predicted(answers).shape == (17, 2)
    found = AugmentedCorrectness(Posteriors(access, 3, QUERIES)).measure(answers)
    assert found.tolist() == [[sum(pair) / 2] for pair in right]
    assert Correctness(Posteriors(access, 3, QUERIES)).measure(answers).tolist() == [pair[:1] for pair in right]
    if access in ("logits", "probabilities"):
        gaps = LogitGap(Posteriors(access, 3, QUERIES)).measure(answers)
        with localcontext() as context:
            context.prec = 60
            expected = [
                [float(Exact([x / 9 for x in row], y).logit_gap()) for row in pair]
                for pair, y in zip(both, label.tolist(), strict=True)
            ]
        np.testing.assert_allclose(gaps, expected, rtol=1e-12 if access == "logits" else 1e-4)
        assert Loss().measure(answers).shape == (17, 1)
        assert Posterior().measure(answers).shape == (17, 4)


@pytest.mark.parametrize("signal", [kind() for kind in FROM_CHANCES], ids=repr)
def test_probabilities_give_what_logits_give_as_far_as_floats_go(signal: Signal) -> None:
    rows = [row for row in LOGITS if max(row[0]) - min(row[0]) < 60]
    found, expected = (signal.measure(answered(rows, access)) for access in ("probabilities", "logits"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("access", ["probabilities", "top-k"])
@pytest.mark.parametrize("signal", [kind() for kind in FROM_CHANCES], ids=repr)
def test_probabilities_of_0_and_1_are_finite(signal: Signal, access: Access) -> None:
    answers = answered(LOGITS, access)
    assert np.isfinite(signal.measure(answers)).all()
    if isinstance(signal, LogitGap) and access == "probabilities":  # p is 1, 0 and 0
        assert signal.measure(answers)[2, 0] == pytest.approx(149 * np.log(2) - np.log(2))


def spread(top: list[float], classes: list[int], count: int) -> list[float]:
    """The log-probabilities that are left when the rest is spread evenly, by a loop."""
    rest = max(1 - sum(top), 2**-25) / max(1, count - len(top))
    p = [dict(zip(classes, top, strict=True)).get(c, min(rest, top[-1])) for c in range(count)]
    return [np.log(max(one, 2**-149) / sum(max(other, 2**-149) for other in p)) for one in p]


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_what_the_top_leave_is_spread_evenly(k: int) -> None:
    rng = np.random.default_rng(2)
    rows = [(list(rng.normal(0, scale, 5)), int(rng.integers(5))) for scale in (0.1, 1, 3, 10, 100) for _ in range(4)]
    answers = answered(rows, "top-k", k)
    found = log_posteriors(answers)
    assert found.shape == (20, 1, 5)
    tops, classes = (np.split(answers[name].values, 20) for name in ("top", "classes"))
    for own, top, where in zip(found[:, 0], tops, classes, strict=True):
        np.testing.assert_allclose(own, spread(list(map(float, top)), where.tolist(), 5), rtol=1e-9, atol=1e-15)
        assert own[np.setdiff1d(range(5), where)].max(initial=-np.inf) <= own[where].min() + 1e-12
    if k >= 5:
        np.testing.assert_allclose(found, log_posteriors(answered(rows, "probabilities")), rtol=1e-12)


def test_the_top_of_several_queries_stand_in_blocks() -> None:
    top, _, answers = of_images("top-k")
    found = log_posteriors(answers)
    assert found.shape == (17, 2, 4)
    np.testing.assert_allclose(found[:, 1, ::-1], found[:, 0], rtol=1e-6)
    assert (found[:, 0].argmax(axis=1) == top.argmax(axis=1)).all()


@pytest.mark.parametrize("kind", FROM_CHANCES)
def test_labels_alone_hold_no_probabilities(kind: type[Distribution]) -> None:
    with pytest.raises(
        ValueError, match=rf"{kind.__name__} reads probabilities, and probe\.access = 'label' shows none"
    ):
        kind(Posteriors("label"))
    with pytest.raises(ValueError, match="labels alone are shown"):
        kind().measure(answered(LOGITS, "label"))
    assert Correctness(Posteriors("label")).probe.access == "label"


@pytest.mark.parametrize("signal", [*(kind() for kind in FROM_CHANCES), Correctness(), GradientNorm()], ids=repr)
def test_a_record_without_answers_is_an_error(signal: Signal) -> None:
    row = {"logits": np.zeros(3), "label": np.zeros(1, np.int64), "count": np.full(1, 3), "gradient": np.ones(2)}
    empty = {name: values[:0] for name, values in row.items()}
    with pytest.raises(ValueError, match="every record must have one row of answers"):
        signal.measure(ragged([row, empty]))


@pytest.mark.parametrize("signal", [kind() for kind in FROM_CHANCES], ids=repr)
def test_a_unit_of_several_records_is_their_mean(signal: Signal) -> None:
    chunks = [answered(LOGITS[:5]), answered(LOGITS[5:6]), answered(LOGITS[6:])]
    unit = np.arange(len(LOGITS)) % 4
    records = Dataset.from_dict({"label": [0] * len(LOGITS)})
    found = signal.read(chunks, Pool(records, unit, tuple("abcd")))
    alone: Floats = signal.measure(answered(LOGITS))
    np.testing.assert_allclose(found, [alone[unit == u].mean(axis=0) for u in range(4)], rtol=1e-12)


def test_gradient_norms_are_put_together() -> None:
    rows = [
        {"loss": np.array([0.5], np.float32), "gradient": np.array([3.0, 4.0], np.float32)},
        {"loss": np.array([0.0], np.float32), "gradient": np.zeros(2, np.float32)},
        {"loss": np.array([1e-20], np.float32), "gradient": np.array([1e-30, 0.0], np.float32)},
    ]
    found, whole = GradientNorm().measure(ragged(rows)), WhiteBox().measure(ragged(rows))
    floor = -149 * np.log(2)
    np.testing.assert_allclose(found[:, 0], [-np.log(5), -floor, 30 * np.log(10)], rtol=1e-6)
    expected = [[-0.5, np.log(3), np.log(4)], [0, floor, floor], [-1e-20, -30 * np.log(10), floor]]
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    assert found.dtype == whole.dtype == np.float64
    assert not np.signbit(whole[1, 0])


@pytest.mark.parametrize(
    ("signal", "changes", "expected"),
    [
        (Loss(), {"probe": {"access": "top-k", "k": 3}}, Loss(Posteriors("top-k", 3))),
        (
            LogitGap(),
            {"probe": {"queries": {"reach": 1, "mirror": True}}},
            LogitGap(Posteriors(queries=Shifts(1, True))),
        ),
        (Correctness(), {"probe": {"access": "label"}}, Correctness(Posteriors("label"))),
        (WhiteBox(), {"probe": {}}, WhiteBox(Gradients())),
    ],
    ids=repr,
)
def test_a_configuration_changes_what_is_asked(signal: Signal, changes: object, expected: Signal) -> None:
    changed = change(signal, changes, "signal")
    assert changed == expected
    assert change(signal, changes_of(changed, signal), "signal") == expected
    assert hash(changed) == hash(expected)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"probe": {"access": "label"}}, "signal: Loss reads probabilities"),
        ({"probe": {"access": "logit"}}, "access = 'logit' has the wrong type"),
        ({"probe": {"k": 0}}, "signal.probe: k must be at least 1"),
        ({"probe": {"queries": {"reach": -1}}}, "signal.probe.queries: reach must be 0"),
        ({"probe": {"rows": 3}}, "'rows' is no field of signal.probe"),
    ],
)
def test_a_wrong_configuration_names_its_place(changes: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        change(Loss(), changes, "signal")
