"""An attack fitted once more on the shadow evidence of a run folder, and asked about units that the run never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_mia.attacks.downstream import Downstream
from hf_mia.config import check_name
from hf_mia.core import Ask, Attack, Evidence, Floats, Game, Model, Pool, Scorer, Signal, read
from hf_mia.data import Data
from hf_mia.queries.learnt import Array, taught, unlearnt
from hf_mia.queries.opened import described, learnt_arrays, shadow_evidence


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted attack: its name, the signal that it reads, how it scores, and how many features it learnt from."""

    name: str
    signal: Signal
    scorer: Scorer
    features: int | None = None

    def scores(self, model: Model, pool: Pool, ask: Ask) -> Floats:
        """The scores (units,) of a pool whose membership is unknown; ValueError where the model scores nothing."""
        evidence = read(self.signal, Game(model, pool, np.zeros(len(pool.names))), ask)
        width = evidence.features.shape[1]
        if self.features not in (None, width):
            raise ValueError(
                f"run: {self.name!r} learnt from {self.features} features a unit, and model {model.name!r} gives "
                f"{width}: take a run about models of the same width, or an attack that does not hang on it."
            )
        return self.scorer.score(evidence)


def fitted(name: str, attack: Attack, shadows: Sequence[Evidence], learnt: Mapping[str, Array]) -> Fitted:
    """An attack as a run fitted it: on its shadows' evidence, its signal with what that `learnt` in the run.

    Without shadows, scores only, and no threshold.
    """
    width = shadows[0].features.shape[1] if shadows else None
    return Fitted(name, taught(attack.signal, learnt), attack.fit(shadows), width)


def refitted(run: str | Path, data: Data, name: str | None = None) -> Fitted:
    """An attack of a run, by default its first, the headline, as the run itself fitted it.

    Config and evidence are enough, so a run that was fetched from the Hub will do. ValueError where the folder is none
    that `hf-mia audit` wrote or is damaged, the run is about another kind of data, the attack is not in it, compares
    models with each other, which are not asked here, or learnt from texts of which the folder keeps nothing.
    """
    folder = Path(run)
    told = described(folder)
    if told.data.columns != data.columns:
        raise ValueError(
            f"run: {str(folder)!r} is about {told.data.columns[0]}s, and these are {data.columns[0]}s: name a run "
            "about the same kind of data."
        )
    chosen = next(iter(told.attacks)) if name is None else name
    check_name(chosen, told.attacks, "attack of the run")
    attack, learnt = told.attacks[chosen], learnt_arrays(folder, chosen)
    others = [other for other, one in told.attacks.items() if alone(one) and other != chosen]
    if not alone(attack):
        raise ValueError(
            f"attack: {chosen!r} asks the run's other models about every unit, and only one model is asked here: "
            f"name another attack of the run, one of {others}, or ask the run by `hf-mia query`."
        )
    if unlearnt(taught(attack.signal, learnt)):
        raise ValueError(
            f"attack: {chosen!r} counts words in the attacker's own texts, of which this folder keeps nothing: name "
            f"another attack of the run, one of {others}, or the folder that `hf-mia audit` wrote."
        )
    return fitted(chosen, attack, shadow_evidence(folder, chosen, told.shadows.count), learnt)


def alone(attack: Attack) -> bool:
    """Whether the target's answers are all that an attack asks for about a new unit."""
    return not attack.compares and not isinstance(attack, Downstream)
