"""An attack fitted once more on the shadow evidence of a run folder, and asked about units that the run never saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_mia.attacks.downstream import Downstream
from hf_mia.audits.experiment import experiment
from hf_mia.audits.folder import file_name, read_evidence
from hf_mia.audits.plan import Experiment
from hf_mia.config import check_name, read_yaml
from hf_mia.core import Answers, Ask, Attack, Floats, Game, Model, Pool, Scorer, Signal, read
from hf_mia.data import Data


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


@dataclass(frozen=True)
class Unheld:
    """The attacker's own records, which a run folder does not hold: reading them says so."""

    attack: str
    others: tuple[str, ...]

    def __iter__(self) -> Iterator[Answers]:
        raise ValueError(
            f"attack: {self.attack!r} counts words in the attacker's own texts, which a run folder does not hold: name "
            f"another attack of the run, one of {list(self.others)}."
        )


def unfitted(name: str, attack: Attack) -> Fitted:
    """An attack that needs no shadows: scores only, without a threshold."""
    return Fitted(name, attack.signal, attack.fit([]))


def refitted(run: str | Path, data: Data, name: str | None = None) -> Fitted:
    """An attack of a run, by default its first, the headline, as the run itself fitted it.

    ValueError where the folder is none that `hf-mia audit` wrote, the run is about another kind of data, the attack is
    not in it, or compares models with each other, which the stored evidence does not allow.
    """
    folder = Path(run)
    described = _described(folder, data)
    chosen = next(iter(described.attacks)) if name is None else name
    check_name(chosen, described.attacks, "attack of the run")
    attack = described.attacks[chosen]
    others = tuple(other for other, one in described.attacks.items() if alone(one) and other != chosen)
    if not alone(attack):
        raise ValueError(
            f"attack: {chosen!r} asks the run's other models about every unit, and a run folder does not hold them: "
            f"name another attack of the run, one of {list(others)}, or repeat the audit with these units."
        )
    evidence = folder / "evidence" / file_name(chosen)
    paths = [path for path in evidence.glob("shadow-*.parquet") if ".reference-" not in path.name]
    shadows = [read_evidence(path) for path in sorted(paths, key=lambda path: (len(path.name), path.name))]
    if len(shadows) != described.shadows.count:
        raise ValueError(
            f"run: {str(folder)!r} holds the evidence of {len(shadows)} shadows for {chosen!r}, and its config.yaml "
            f"has {described.shadows.count}: write the run again."
        )
    signal = attack.signal.learn([Unheld(chosen, others)])
    return Fitted(chosen, signal, attack.fit(shadows), shadows[0].features.shape[1] if shadows else None)


def _described(folder: Path, data: Data) -> Experiment:
    """What the run was, by its resolved config."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"run: {str(folder)!r} has no config.yaml: name a folder that `hf-mia audit` wrote.")
    described = experiment(read_yaml(path))
    if described.data.columns != data.columns:
        raise ValueError(
            f"run: {str(folder)!r} is about {described.data.columns[0]}s, and these are {data.columns[0]}s: name a run "
            "about the same kind of data."
        )
    return described


def alone(attack: Attack) -> bool:
    """Whether the target's answers are all that an attack asks for about a new unit."""
    return not attack.compares and not isinstance(attack, Downstream)
