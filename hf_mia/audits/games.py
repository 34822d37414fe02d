"""From a setting to its games: every model trained or taken from the cache, beside the units it is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from hf_mia.attacks.relative import Against
from hf_mia.audits.setting import Setting, jobs
from hf_mia.audits.targets import Elsewhere
from hf_mia.core import Attack, Game, Model
from hf_mia.shadows import Job, game, train


@dataclass(frozen=True, eq=False)
class Trained:
    """A setting whose models all exist, each in its folder."""

    setting: Setting
    jobs: tuple[Job, ...]
    folders: tuple[Path, ...]
    cache: Path

    @cached_property
    def elsewhere(self) -> Model | None:
        """The target, if it was trained elsewhere: one for all who ask, so that they share a service's budget."""
        target, data = self.setting.experiment.target, self.setting.experiment.data
        return target.load(data, self.setting.corpus.records, self.cache) if isinstance(target, Elsewhere) else None

    @cached_property
    def base(self) -> Game | None:
        """The model that the target was tuned from, beside the same units, none of which it saw, if one is asked."""
        experiment = self.setting.experiment
        if not experiment.based or self.elsewhere is None:
            return None
        target = cast(Elsewhere, experiment.target)
        model = target.base(experiment.data, self.setting.corpus.records, self.elsewhere)
        return None if model is None else game(model.name, model, self.setting.candidates(), set(), known=True)

    def games(self, epoch: int | None = None) -> tuple[Game, list[Game]]:
        """The target's game and the shadows', as after an `epoch` where a recipe has kept it, else as in the end."""
        setting, controls = self.setting, self.setting.experiment.controls
        models = {job.name: self._model(i, epoch) for i, job in enumerate(self.jobs) if job.name not in controls}
        name, candidates = "target", setting.candidates()
        if self.elsewhere is not None:
            models["target"], name = self.elsewhere, self.elsewhere.name
        own = setting.split.shadows and setting.experiment.shadows.pool == "own"
        pool = setting.shadow_pool() if own else candidates
        shadows = []
        for number, members in enumerate(setting.split.shadows, 1):
            names = {setting.attackers.names[i] for i in members}
            shadows.append(game(f"shadow {number}", models[f"shadow {number}"], pool, names, known=True))
        return game(name, models["target"], candidates, setting.inside(), known=False), shadows

    def controls(self, target: Game) -> dict[str, Game]:
        """The target's game with models in its place in which no attack may find the members."""
        found: dict[str, Game] = {}
        for i, job in enumerate(self.jobs):
            if job.name in self.setting.experiment.controls:
                member = {name for name, inside in zip(target.pool.names, target.member, strict=True) if inside}
                found[job.name] = game(job.name, self._model(i, None), target.pool, member, known=False)
        return found

    def _model(self, number: int, epoch: int | None) -> Model:
        recipe, folder = self.jobs[number].recipe, self.folders[number]
        return recipe.load(recipe.after(folder, epoch) if epoch in recipe.kept() and epoch is not None else folder)


def opponents(attack: Attack, shadows: Sequence[Game], base: Game | None) -> Sequence[Game]:
    """The games that an attack is given: that of the base alone where it is one that is set against it."""
    return [base] if isinstance(attack, Against) and base is not None else shadows


def trained(settings: Sequence[Setting], cache: Path) -> list[Trained]:
    """Train what the cache lacks of all the settings' models, each model once; ValueError before any is trained."""
    each = [jobs(setting) for setting in settings]
    missing = {folder: job for made in each for job in made if not (folder := job.folder(cache)).exists()}
    for job in missing.values():
        job.recipe.steps(job.records, job.processor)  # raises where the records are too few
    folders = iter(train([job for made in each for job in made], cache))
    return [
        Trained(setting, tuple(made), tuple(next(folders) for _ in made), cache)
        for setting, made in zip(settings, each, strict=True)
    ]


def games(setting: Setting, cache: Path) -> tuple[Game, list[Game]]:
    """The target's game and the shadows', every model trained or taken from the cache."""
    return trained([setting], cache)[0].games()
