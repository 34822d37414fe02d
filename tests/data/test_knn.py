"""The probe of an encoder's use against a brute-force vote, whatever the chunks, labels and sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest
from datasets import Dataset
from worlds import ragged

from hf_mia.core import Answers, Floats, Integers, Model, Pool, Probe
from hf_mia.data.knn import knn_accuracy, labelled
from hf_mia.models.vision import ImageCollate
from hf_mia.probes.views import Plain

MODEL = Model("m", "key", ImageCollate(8), lambda: pytest.fail("the stub below answers"))


@dataclass
class Known:
    """Answers with features (images, d) that are known, and keeps which images it was asked about."""

    features: Floats
    asked: list[list[int]] = field(default_factory=list)

    def __call__(self, model: Model, probe: Probe, records: Dataset) -> Iterable[Answers]:
        assert probe == Plain()
        rows = list(records["row"])
        self.asked.append(rows)
        singles = [{"feature": self.features[row].astype(np.float32)} for row in rows]
        return [ragged(singles[at : at + 77]) for at in range(0, len(rows), 77)]


def pool(labels: Integers) -> Pool:
    count = len(labels)
    records = Dataset.from_dict({"row": np.arange(count), "label": labels})
    return Pool(records, np.arange(count), tuple(map(str, range(count))))


def world(count: int, classes: int, away: float, seed: int = 0) -> tuple[Pool, Floats]:
    """Features around one direction a class, of any length: a cosine must not see it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    features = rng.normal(size=(count, 6)) + away * np.eye(classes, 6)[labels]
    return pool(labels), features * rng.uniform(0.01, 100, (count, 1))


def naive(features: Floats, labels: Integers, order: Integers) -> float:
    """Two thirds vote on the last third, by the 20 of the largest cosine."""
    single = features.astype(np.float32).astype(np.float64)
    unit = [row / np.sqrt((row**2).sum()) for row in single]
    cut = len(order) * 2 // 3
    right = 0
    for i in order[cut:]:
        near = sorted(order[:cut], key=lambda j: -float(unit[i] @ unit[j]))[:20]
        votes = [int(labels[j]) for j in near]
        right += max(sorted(set(votes)), key=votes.count) == labels[i]
    return right / (len(order) - cut)


@pytest.mark.parametrize(("count", "classes", "away"), [(120, 2, 1.0), (300, 5, 3.0), (301, 3, 0.0)])
def test_the_probe_is_a_vote_by_cosine(count: int, classes: int, away: float) -> None:
    given, features = world(count, classes, away)
    labels = np.array(given.records["label"])
    found = knn_accuracy(MODEL, given, Known(features))
    assert found == naive(features, labels, np.random.default_rng(0).permutation(count))
    chance = 1 / classes
    assert found == pytest.approx(chance, abs=0.15) if away == 0 else found > chance + 0.15


def test_every_model_is_judged_by_the_same_3000_images() -> None:
    given, features = world(3200, 4, 2.0)
    one, other = Known(features), Known(features[::-1].copy())
    knn_accuracy(MODEL, given, one), knn_accuracy(MODEL, given, other)
    assert one.asked == other.asked
    (rows,) = one.asked
    assert len(set(rows)) == 3000


def test_images_without_a_label_are_left_out() -> None:
    given, features = world(400, 3, 2.0)
    labels = np.array(given.records["label"])
    labels[::4] = -1
    ask = Known(features)
    found = knn_accuracy(MODEL, pool(labels), ask)
    assert set(ask.asked[0]) == set(np.flatnonzero(labels >= 0))
    assert found == naive(features, labels, np.random.default_rng(0).permutation(np.flatnonzero(labels >= 0)))


def test_without_labels_or_with_too_few_there_is_no_probe() -> None:
    given, features = world(150, 3, 2.0)
    ask = Known(features)
    bare = Pool(given.records.remove_columns("label"), given.unit, given.names)
    few = np.where(np.arange(150) < 119, np.array(given.records["label"]), -1)
    assert knn_accuracy(MODEL, bare, ask) is labelled(bare) is None
    assert knn_accuracy(MODEL, pool(few), ask) is labelled(pool(few)) is None
    assert ask.asked == []
    few[119] = 0
    assert knn_accuracy(MODEL, pool(few), ask) is not None
