"""Records within their units."""

from __future__ import annotations

import numpy as np

from hf_mia.core import Booleans, Floats, Integers, Pool


def places(unit: Integers, by: Floats) -> Integers:
    """Each record's place (n,), from 0, among the records of its unit in ascending order of `by` (n,)."""
    order = np.lexsort((by, unit))
    counts = np.bincount(unit)
    place = np.empty(len(unit), dtype=np.int64)
    place[order] = np.arange(len(unit)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def of_units(corpus: Pool, units: Integers, rows: Booleans | None = None) -> Pool:
    """The part of a pool that belongs to some of its units (indices), and to the given rows (n,) if any."""
    wanted = np.isin(corpus.unit, units)
    chosen = np.flatnonzero(wanted if rows is None else wanted & rows)
    order = np.sort(units)
    unit = np.searchsorted(order, corpus.unit[chosen])
    group = None if corpus.group is None else corpus.group[order]
    return Pool(corpus.records.select(chosen), unit, tuple(corpus.names[i] for i in order), group)


def shuffled_share(corpus: Pool, share: float, seed: int) -> Booleans:
    """A random `share` of each unit's records (n,), rounded up: the same rows whatever the order of the units."""
    place = places(corpus.unit, np.random.default_rng(seed).random(len(corpus.unit)))
    return np.asarray(place < np.ceil(share * np.bincount(corpus.unit))[corpus.unit], dtype=np.bool_)
