"""What an encoder is good for: how well its features tell the classes of images apart, by their nearest neighbours."""

from __future__ import annotations

import numpy as np

from hf_mia.core import Ask, Integers, Model, Pool
from hf_mia.signals.encoder import Feature

FITTED, TESTED = 2000, 1000  # images at most
NEIGHBOURS = 20


def knn_accuracy(model: Model, pool: Pool, ask: Ask) -> float | None:
    """The share of images whose class the 20 nearest of 2,000 others tell, by the cosine of their features.

    Takes up to 3,000 labelled images of the pool, the same for every model; None where it has no labels, or fewer than
    120. The usual probe of contrastive encoders (Wu et al. 2018).
    """
    if "label" not in pool.records.column_names:
        return None
    labels: Integers = np.array(pool.records["label"], dtype=np.int64)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(labels >= 0))[: FITTED + TESTED]
    if len(rows) < 6 * NEIGHBOURS:
        return None
    from sklearn.neighbors import KNeighborsClassifier

    signal = Feature()
    some = pool.records.select(rows)
    features = np.concatenate([signal.measure(chunk) for chunk in ask(model, signal.probe, some)])
    cut = len(rows) * FITTED // (FITTED + TESTED)
    nearest = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(features[:cut], labels[rows[:cut]])
    return float(nearest.score(features[cut:], labels[rows[cut:]]))
