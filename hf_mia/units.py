"""Records within their units."""

from __future__ import annotations

import numpy as np

from hf_mia.core import Floats, Integers


def places(unit: Integers, by: Floats) -> Integers:
    """Each record's place (n,), from 0, among the records of its unit in ascending order of `by` (n,)."""
    order = np.lexsort((by, unit))
    counts = np.bincount(unit)
    place = np.empty(len(unit), dtype=np.int64)
    place[order] = np.arange(len(unit)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place
