"""An attack for every class: what models say of a cat is compared with what they say of cats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hf_mia.attacks.lira import aligned
from hf_mia.attacks.wrapper import Wrapper
from hf_mia.core import Attack, Evidence, Floats, Integers, Scorer


@dataclass(frozen=True)
class PerGroup(Wrapper):
    """Any attack, fitted for each group (class) by itself, on the shadows' units of that group (Shokri et al. 2017).

    Scores are the inner attack's less the group's threshold, so that the threshold 0 serves all groups. A group falls
    back on the inner attack as fitted on the units of all groups, and scored among them, where all shadows together
    hold fewer than `smallest` known members of it or fewer known non-members (so where they never saw it), or where the
    inner attack refuses the group's units or finds no threshold on them. Where it has no threshold on all units either,
    as without shadows, the scores are its own, and there is no threshold. Raises ValueError for evidence without
    groups, for references about other units, and for a `smallest` below 1.
    """

    smallest: int = 5

    def __post_init__(self) -> None:
        if self.smallest < 1:
            raise ValueError(f"smallest must be at least 1 unit, such as 5, but is {self.smallest}.")

    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        every = self.attack.fit(shadows)
        groups = np.unique(np.concatenate([np.empty(0, np.int64), *map(self._groups, shadows)]))
        alone = {int(group): self._alone(shadows, int(group)) for group in groups if every.threshold is not None}
        fitted = {group: scorer for group, scorer in alone.items() if scorer is not None}

        def score(evidence: Evidence) -> Floats:
            parts = _parts(self._groups(evidence))
            if every.threshold is None:
                return every.score(evidence)
            scores, left = np.empty(len(evidence.names)), []
            for group, here in parts:
                if group in fitted:
                    scores[here] = _margin(fitted[group], _only(self, evidence, here))
                else:
                    left.append(here)
            if left:
                rest = np.concatenate(left)
                scores[rest] = _margin(every, evidence)[rest]
            return scores

        return Scorer(score, None if every.threshold is None else 0.0)

    def _alone(self, shadows: Sequence[Evidence], group: int) -> Scorer | None:
        """The inner attack fitted on one group, if that can be."""
        own = [_only(self, shadow, np.flatnonzero(shadow.group == group)) for shadow in shadows]
        member = np.concatenate([shadow.member for shadow in own])
        if min((member == 1).sum(), (member == 0).sum()) < self.smallest:
            return None
        try:
            scorer = self.attack.fit(own)
        except ValueError:  # it took all groups' units together, so it is this group's that do not suffice
            return None
        return None if scorer.threshold is None else scorer

    def _groups(self, evidence: Evidence) -> Integers:
        if evidence.group is None:
            inner = type(self.attack).__name__
            raise ValueError(
                f"PerGroup fits an attack for each group, but the evidence tells no unit's group: give the Pool a "
                f"group for each unit, such as an image's class, or take {inner} without PerGroup."
            )
        return evidence.group


def _parts(group: Integers) -> Iterator[tuple[int, Integers]]:
    """Each group and the positions of its units, ascending."""
    order = np.argsort(group, kind="stable")
    found, starts = np.unique(group[order], return_index=True)
    return zip(map(int, found), np.split(order, starts[1:]), strict=True)


def _only(attack: Attack, evidence: Evidence, here: Integers) -> Evidence:
    """The evidence of some units, and what its references say of them."""
    names = tuple(map(evidence.names.__getitem__, here.tolist()))

    def cut(one: Evidence) -> Evidence:
        group = None if one.group is None else one.group[here]
        return Evidence(one.features[here], one.member[here], names, group=group)

    if not evidence.references:
        return cut(evidence)
    aligned(attack, evidence)
    return replace(cut(evidence), references=tuple(map(cut, evidence.references)))


def _margin(scorer: Scorer, evidence: Evidence) -> Floats:
    assert scorer.threshold is not None
    return scorer.score(evidence) - scorer.threshold
