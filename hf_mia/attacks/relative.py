"""Difficulty calibration: what a model says of a unit, less what models say that never saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hf_mia.core import Attack, Booleans, Evidence, Floats, Scorer, Signal


@dataclass(frozen=True)
class Relative(Attack):
    """Any attack on features less their mean over the shadows that were not trained on the unit.

    Every shadow is a reference: it is asked about the target's units, which it never saw. The inner attack learns on
    each shadow relative to the other shadows (Watson et al. 2022, difficulty calibration; Kandpal et al. 2024 for
    users). Needs 2 shadows or more.
    """

    least: ClassVar[int] = 2
    compares: ClassVar[bool] = True
    attack: Attack

    @property
    def signal(self) -> Signal:  # type: ignore[override]
        return self.attack.signal

    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        if len(shadows) < 2:
            raise ValueError(
                f"Relative compares each shadow with the others, so it needs 2 or more, not {len(shadows)}: "
                "raise shadows.count."
            )
        fitted = self.attack.fit([_known(shadow) for shadow in shadows])
        return Scorer(lambda evidence: fitted.score(_beyond(evidence, "Relative")), fitted.threshold)


@dataclass(frozen=True)
class Against(Attack):
    """Any attack that gives scores without shadows, on features less those of models that never saw the unit.

    A fine-tune is set against the model that it was tuned from: what is easy for both is no sign of membership
    (Mireshghallah et al. 2022, the pre-trained model as reference). Where an experiment names such a reference, it is
    the only one; else the references are the shadows, by their mean. None of them is learnt from, so there is no
    threshold. Needs 1 reference or more.
    """

    least: ClassVar[int] = 1
    compares: ClassVar[bool] = True
    attack: Attack

    @property
    def signal(self) -> Signal:  # type: ignore[override]
        return self.attack.signal

    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        fitted = self.attack.fit([])
        return Scorer(lambda evidence: fitted.score(_beyond(evidence, "Against")))


def _beyond(evidence: Evidence, who: str) -> Evidence:
    """The evidence less its references' level; ValueError for units that each of them saw."""
    level, found = _level(evidence)
    if not found.all():
        lost = [name for name, f in zip(evidence.names, found, strict=True) if not f]
        raise ValueError(
            f"{who} compares units across models, but {len(lost)} of {len(found)} units have no shadow that never saw "
            f"them, such as {lost[:3]}: ask every shadow about the target's pool, or raise shadows.count."
        )
    return replace(evidence, features=evidence.features - level)


def _known(shadow: Evidence) -> Evidence:
    """A shadow's evidence relative to the others', without the units that all the others saw."""
    level, found = _level(shadow)
    names = shadow.names if found.all() else tuple(name for name, f in zip(shadow.names, found, strict=True) if f)
    group = None if shadow.group is None else shadow.group[found]
    return Evidence((shadow.features - level)[found], shadow.member[found], names, group=group)


def _level(evidence: Evidence) -> tuple[Floats, Booleans]:
    """Mean features (units, f) over the references that never saw a unit, and whether there is one (units,)."""
    if not evidence.references:
        return np.zeros_like(evidence.features), np.zeros(len(evidence.names), dtype=np.bool_)
    out = np.array([reference.member == 0 for reference in evidence.references], dtype=np.float64)
    features = np.array([reference.features for reference in evidence.references])
    count = out.sum(axis=0)
    return np.einsum("ku,kuf->uf", out, features) / np.maximum(count, 1)[:, None], count > 0
