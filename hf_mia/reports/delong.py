"""The interval of an AUC of many units: DeLong's variance, from counts by score instead of draws."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from hf_mia.reports.estimates import Bools, Estimate, Floats, Ints, aucs_of, checked, widened


def delong(scores: Floats, member: Bools, confidence: float = 0.95) -> Estimate:
    """The AUC with DeLong's interval, AUC +- z standard errors within [0, 1], no surer than perfect separation is.

    scores (U,) float64, member (U,) bool. O(U log U), and no random draws. It is asymptotic: for many units of either
    class. ValueError for NaN, infinities, under two units of a class, a confidence outside (0, 1).
    Source: DeLong, DeLong and Clarke-Pearson 1988; by counts of tied scores as in Sun and Xu 2014.
    """
    scores, member = checked(scores, member, least=2)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: must lie between 0 and 1, not {confidence}. Write 95 percent as 0.95.")
    distinct, group = np.unique(scores, return_inverse=True)
    ours = np.bincount(group[member], minlength=distinct.size)
    others = np.bincount(group, minlength=distinct.size) - ours
    error = math.sqrt(_variance(ours, others) / ours.sum() + _variance(others, ours) / others.sum())
    value = float(aucs_of(ours, others))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    pairs = int(min(ours.sum(), others.sum()))
    return widened(Estimate(value, max(value - reach, 0.0), min(value + reach, 1.0)), error == 0, pairs, confidence)


def _variance(ours: Ints, others: Ints) -> float:
    """The sample variance, over the units of one class, of the share of the other class that each is above.

    Both are counts by ascending score (distinct,); a tie counts one half.
    """
    placed = (np.cumsum(others) - others / 2) / others.sum()
    mean = np.average(placed, weights=ours)
    return float(np.dot(ours, (placed - mean) ** 2) / (ours.sum() - 1))
