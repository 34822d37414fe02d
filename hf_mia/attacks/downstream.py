"""An attack on what is built on an encoder: the attacker sees a classifier's confidence, and never a feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_mia.attacks.wrapper import Wrapper
from hf_mia.core import Evidence, Scorer


@dataclass(frozen=True)
class Downstream(Wrapper):
    """Any attack, on the downstream classifiers of the encoders: a baseline of EncoderMI (Liu et al. 2021).

    A played experiment puts a classifier in each encoder's place, trained on labelled images outside of the game
    (`hf_mia.audits.downstream.classifying`), where this is the outermost attack. Everything else is the inner
    attack's, so `hf_mia.core.audit`, which knows of no labelled images, asks the models as they are: give it games of
    classifiers.
    """

    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        return self.attack.fit(shadows)
