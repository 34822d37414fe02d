"""A signal against a threshold: the attack that needs no model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_mia.core import Attack, Evidence, Floats, Scorer, Signal
from hf_mia.reports.estimates import best_threshold


@dataclass(frozen=True)
class Threshold(Attack):
    """One number a unit, larger = more likely a member; the threshold is the shadows' best accuracy (Yeom et al. 2018).

    Without shadows, and with such as hold no known members or no known non-members, it gives scores only. The threshold
    is chosen over all shadows' units together.
    """

    signal: Signal

    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        if not shadows:
            return Scorer(_single)
        known = [~np.isnan(shadow.member) for shadow in shadows]
        scores = np.concatenate([_single(shadow)[k] for shadow, k in zip(shadows, known, strict=True)])
        member = np.concatenate([shadow.member[k] == 1 for shadow, k in zip(shadows, known, strict=True)])
        return Scorer(_single, best_threshold(scores, member) if member.any() and not member.all() else None)


def _single(evidence: Evidence) -> Floats:
    if evidence.features.shape[1] != 1:
        raise ValueError(
            f"Threshold needs a signal of one number a unit, but this one gives {evidence.features.shape[1]}"
            ": take ShadowClassifier."
        )
    return evidence.features[:, 0]
