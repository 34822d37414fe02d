"""What an encoder is good for: how well its features tell the classes of images apart, by their nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_mia.core import Ask, Integers, Model, Pool
from hf_mia.signals.encoder import Feature

if TYPE_CHECKING:
    from datasets import Dataset

FITTED, TESTED = 2000, 1000  # images at most
NEIGHBOURS = 20


def judged(pool: Pool) -> Integers:
    """The rows of up to 3,000 labelled images of a pool, the same ones whoever asks.

    None of them where the pool has no labels, or fewer than 120 labelled images.
    """
    labels = np.array(pool.records["label"] if "label" in pool.records.column_names else [], dtype=np.int64)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(labels >= 0))[: FITTED + TESTED]
    return rows if len(rows) >= 6 * NEIGHBOURS else rows[:0]


def labelled(pool: Pool) -> tuple[Dataset, Integers] | None:
    """The `judged` images of a pool and their classes (images,); None where there are none."""
    records = pool.records.select(judged(pool))
    return (records, np.array(records["label"], dtype=np.int64)) if len(records) else None


def knn_accuracy(model: Model, pool: Pool, ask: Ask) -> float | None:
    """The share of images whose class the 20 nearest of 2,000 others tell, by the cosine of their features.

    Takes up to 3,000 labelled images of the pool, the same for every model; None where it has no labels, or fewer than
    120. The usual probe of contrastive encoders (Wu et al. 2018).
    """
    found = labelled(pool)
    if found is None:
        return None
    from sklearn.neighbors import KNeighborsClassifier

    signal, (records, labels) = Feature(), found
    features = np.concatenate([signal.measure(chunk) for chunk in ask(model, signal.probe, records)])
    cut = len(records) * FITTED // (FITTED + TESTED)
    nearest = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(features[:cut], labels[:cut])
    return float(nearest.score(features[cut:], labels[cut:]))
