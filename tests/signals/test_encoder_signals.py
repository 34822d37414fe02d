"""What is read off an encoder's answers, against loops over images, and what a configuration may change."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from datasets import Dataset
from worlds import ragged

from hf_mia.config import change, changes_of
from hf_mia.core import Floats, Pool, Signal
from hf_mia.probes.augmentation import Augmentation
from hf_mia.probes.views import Anchored, ViewFeatures, Views
from hf_mia.signals.encoder import (
    ConcatenatedFeatures,
    Feature,
    MeanSimilarity,
    Pairwise,
    PlainSimilarity,
    Similarity,
    ViewSimilarity,
)

N, IMAGES = 6, 23
PAIRS = [(later, earlier) for later in range(N) for earlier in range(later)]
RNG = np.random.default_rng(0)
WIDTHS = {"cosine": len(PAIRS), "correlation": len(PAIRS), "euclidean": len(PAIRS), "feature": 9, "features": 18}
ROWS = [{name: RNG.normal(size=w).astype(np.float32) for name, w in WIDTHS.items()} for _ in range(IMAGES)]
CHUNKS = [ragged(ROWS[:1]), ragged(ROWS[1:15]), ragged(ROWS[15:])]
PROBE = Views(n=N)
SIGNALS: list[Signal] = [
    ViewSimilarity(probe=PROBE),
    MeanSimilarity(probe=PROBE),
    Feature(),
    ConcatenatedFeatures(),
    PlainSimilarity(),
]


def pool(unit: list[int]) -> Pool:
    records = Dataset.from_dict({"image": [b""] * len(unit)})
    return Pool(records, np.array(unit, dtype=np.int64), tuple(f"image {i}" for i in range(max(unit) + 1)))


EACH = pool([int(i) for i in np.random.default_rng(1).permutation(IMAGES)])


def read(signal: Signal) -> Floats:
    """The features of each record, in the records' order."""
    return signal.read(CHUNKS, EACH)[EACH.unit]


def similar(row: dict[str, np.ndarray], similarity: str, first: int | None) -> list[float]:
    """The similarities of the first views, by a loop over pairs."""
    sign = -1.0 if similarity == "euclidean" else 1.0
    views = range(N if first is None else first)
    return [
        sign * float(row[similarity][PAIRS.index((later, earlier))])
        for later, earlier in PAIRS
        if later in views and earlier in views
    ]


@pytest.mark.parametrize("first", [None, 2, 3, 5, 6])
@pytest.mark.parametrize("similarity", get_args(Similarity))
def test_similarities_are_sorted_and_their_mean_taken(similarity: Similarity, first: int | None) -> None:
    vectors = read(ViewSimilarity(similarity, first, PROBE))
    means = read(MeanSimilarity(similarity, first, PROBE))
    m = first or N
    assert vectors.shape == (IMAGES, m * (m - 1) // 2)
    assert vectors.dtype == means.dtype == np.float64
    assert means.shape == (IMAGES, 1)
    for row, vector, mean in zip(ROWS, vectors, means, strict=True):
        expected = similar(row, similarity, first)
        assert vector.tolist() == sorted(expected, reverse=True)
        np.testing.assert_allclose(mean, [sum(expected) / len(expected)], rtol=1e-12)


@pytest.mark.parametrize(
    ("signal", "name"), [(Feature(), "feature"), (ConcatenatedFeatures(), "features"), (PlainSimilarity(), "cosine")]
)
def test_features_are_read_as_they_are(signal: Signal, name: str) -> None:
    expected = np.array([row[name] for row in ROWS], dtype=np.float64)
    if isinstance(signal, PlainSimilarity):
        expected = np.array([[sum(map(float, row)) / len(row)] for row in expected])
    found = read(signal)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("signal", SIGNALS, ids=repr)
def test_a_unit_of_several_images_is_their_mean(signal: Signal) -> None:
    unit = [i % 4 for i in range(IMAGES)]
    alone = read(signal)
    for u, found in enumerate(signal.read(CHUNKS, pool(unit))):
        own = [alone[i] for i in range(IMAGES) if unit[i] == u]
        np.testing.assert_allclose(found, np.mean(own, axis=0), rtol=1e-12)


@pytest.mark.parametrize("signal", SIGNALS, ids=repr)
def test_an_image_without_answers_is_an_error(signal: Signal) -> None:
    empty = {name: values[:0] for name, values in ROWS[0].items()}
    with pytest.raises(ValueError, match="every image must have one row of answers"):
        signal.measure(ragged([ROWS[0], empty]))
    with pytest.raises(ValueError, match="every image must have one row of answers"):
        signal.measure(ragged([empty]))


@pytest.mark.parametrize("kind", [ViewSimilarity, MeanSimilarity])
@pytest.mark.parametrize("first", [1, 0, 7])
def test_the_first_views_must_be_there(kind: type[Pairwise], first: int) -> None:
    with pytest.raises(ValueError, match=f"first must be 2 to the 6 views that the probe draws, but is {first}"):
        kind(first=first, probe=PROBE)


def test_an_unknown_similarity_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"must be one of .*correlation.* but is 'dot'"):
        ViewSimilarity("dot")  # type: ignore[arg-type]


def test_signals_that_ask_the_same_share_one_run() -> None:
    sweep = [ViewSimilarity(first=m, probe=Views(n=50)) for m in (2, 10, 50)] + [MeanSimilarity(probe=Views(n=50))]
    assert len({repr(signal.probe) for signal in sweep}) == 1


@pytest.mark.parametrize(
    ("signal", "changes", "expected"),
    [
        (
            ViewSimilarity(),
            {"similarity": "euclidean", "first": 3, "probe": {"n": 20, "seed": 4, "augmentation": {"gray": 0.0}}},
            ViewSimilarity("euclidean", 3, Views(20, Augmentation(gray=0.0), 4)),
        ),
        (
            MeanSimilarity(),
            {"probe": {"augmentation": {"scale": [0.5, 1], "jitter": [0, 0, 0, 0.2]}}},
            MeanSimilarity(probe=Views(augmentation=Augmentation(scale=(0.5, 1.0), jitter=(0.0, 0.0, 0.0, 0.2)))),
        ),
        (PlainSimilarity(), {"probe": {"n": 5, "seed": 2}}, PlainSimilarity(Anchored(5, seed=2))),
        (ConcatenatedFeatures(), {"probe": {"n": 1}}, ConcatenatedFeatures(ViewFeatures(1))),
        (Feature(), {"probe": {}}, Feature()),
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
        ({"similarity": "dot"}, "similarity = 'dot' has the wrong type"),
        ({"probe": {"n": 1}}, "signal.probe: n must be 2 to 50 .* similarities need two views, but is 1"),
        ({"first": 11}, "signal: first must be 2 to the 10 views"),
        ({"probe": {"views": 3}}, "'views' is no field of signal.probe"),
        ({"probe": {"augmentation": {"grey": 0.0}}}, "did you mean 'gray'"),
        ({"probe": {"augmentation": {"scale": [0.5]}}}, "scale = .* has the wrong type"),
        ({"probe": 3}, "must be fields and values"),
    ],
)
def test_a_wrong_configuration_names_its_place(changes: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        change(ViewSimilarity(), changes, "signal")
