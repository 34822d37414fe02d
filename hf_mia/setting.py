"""From an experiment to its games: load the texts, split the users, train what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from hf_mia.config import change
from hf_mia.core import Booleans, Game, Integers, Pool
from hf_mia.experiment import Checkpoint, Experiment, Users
from hf_mia.models import language_model
from hf_mia.recipes.language import LanguageRecipe
from hf_mia.shadows import Job, Split, game, halves, split_users, train
from hf_mia.texts import load_texts, of_users, shuffled_share
from hf_mia.units import places


@dataclass(frozen=True, eq=False)
class Setting:
    """Whose texts are whose: the target's candidates and the attacker's users, before any model is trained."""

    experiment: Experiment
    corpus: Pool
    foreign: Pool | None
    split: Split

    @property
    def attackers(self) -> Pool:
        """The texts that shadows are made from: of the same data, or of other data."""
        return self.corpus if self.foreign is None else self.foreign

    def candidates(self) -> Pool:
        """What the target is asked about."""
        return asked(self.corpus, self.split.candidates, self.experiment.split)

    def shadow_pool(self) -> Pool:
        """What every shadow is asked about."""
        return asked(self.attackers, self.split.attackers, self.experiment.split)

    def outside(self) -> Iterator[str]:
        """Texts of users who are not in question: what a vocabulary may be counted on."""
        rows = np.flatnonzero(~np.isin(self.corpus.unit, self.split.candidates))
        for batch in self.corpus.records.select(rows).iter(batch_size=4096):
            yield from batch["text"]


def setting(experiment: Experiment) -> Setting:
    """Load the texts and split the users; trains and asks nothing."""
    corpus = load_texts(experiment.data)
    shadows, users = experiment.shadows, experiment.split
    foreign = load_texts(shadows.data) if shadows.data and shadows.count else None
    if foreign:  # equal names in two corpora are not one user
        foreign = replace(foreign, names=tuple(f"shadows.data/{name}" for name in foreign.names))
    own = 0 if foreign else shadows.count
    if isinstance(experiment.target, Checkpoint):
        split = _given(corpus, experiment, own)
    else:
        split = split_users(len(corpus.names), users.members, own, users.seed)
    if foreign:
        others = np.random.default_rng([users.seed, 1]).permutation(len(foreign.names))
        if len(others) < 2 * len(split.members):
            raise ValueError(
                f"shadows.data has {len(others)} users, and {len(split.members)} members take twice as many"
                ": lower split.members or shadows.data.texts_per_user."
            )
        split = replace(halves(split.members, split.nonmembers, others, shadows.count, users.seed), rest=split.rest)
    return Setting(experiment, corpus, foreign, split)


def _given(corpus: Pool, experiment: Experiment, shadows: int) -> Split:
    """The split of a target trained elsewhere: its members as given, as many others as non-members, then attackers."""
    from hf_mia.members import members_of

    target = cast(Checkpoint, experiment.target)
    members = members_of(target, corpus, experiment.data)
    others = np.random.default_rng(experiment.split.seed).permutation(
        np.setdiff1d(np.arange(len(corpus.names)), members)
    )
    count = len(members) if shadows else len(others)
    needed = (3 if shadows else 1) * (len(members) if shadows else 2)
    if len(members) < 2 or len(others) < needed:
        raise ValueError(
            f"target has {len(members)} members in the data and {len(others)} other users, and this audit "
            f"takes at least 2 and {needed}: name fewer members, add users, or set shadows.count to 0."
        )
    return halves(members, others[:count], others[count:], shadows, experiment.split.seed)


def asked(corpus: Pool, users: Integers, share: Users) -> Pool:
    """The texts of some users that are asked about: trained-on and held-out ones in the proportion `held_out`."""
    if share.trained == 1:
        return of_users(corpus, users)
    trained = shuffled_share(corpus, share.trained, share.seed)
    rows = trained if share.held_out == 0 else ~trained if share.held_out == 1 else _mixed(corpus, trained, share)
    silent = np.setdiff1d(users, corpus.unit[rows])
    if len(silent):
        raise ValueError(
            f"split.trained = {share.trained} and held_out = {share.held_out} leave {len(silent)} users "
            f"without a text to ask about, such as {corpus.names[silent[0]]!r}: set data.least higher."
        )
    return of_users(corpus, users, rows)


def _mixed(corpus: Pool, trained: Booleans, share: Users) -> Booleans:
    """As many texts of each user as keep the proportion: `held_out` of them not trained on."""
    h, size = share.held_out, len(corpus.names)
    inside = np.bincount(corpus.unit[trained], minlength=size)
    outside = np.bincount(corpus.unit[~trained], minlength=size)
    total = np.floor(np.minimum(inside / (1 - h), outside / h))
    rows = np.zeros(len(corpus.unit), dtype=bool)
    for part, wanted in ((trained, np.round((1 - h) * total)), (~trained, np.round(h * total))):
        index = np.flatnonzero(part)
        unit = corpus.unit[index]
        rows[index[places(unit, index.astype(np.float64)) < wanted[unit]]] = True
    return rows


def jobs(setting: Setting) -> list[Job]:
    """The models to train: the target, unless it was trained elsewhere, then the shadows."""
    experiment, split = setting.experiment, setting.split
    target, shadows = experiment.target, experiment.shadows
    found, seed = [], 1000 * experiment.split.seed
    trained = None if experiment.split.trained == 1 else experiment.split
    recipe = target if isinstance(target, LanguageRecipe) else shadows.recipe
    if recipe is None:
        if shadows.count:
            raise ValueError(
                "the target is a checkpoint, so shadows.recipe must say how shadows are trained, such as "
                "{name: fine-tune, model: ...}; or set shadows.count to 0."
            )
        return []
    processor = recipe.processor(setting.outside())
    if isinstance(target, LanguageRecipe):
        records = _training(setting.corpus, split.members, trained).records
        found.append(Job("target", target, records, processor, seed))
    base = shadows.recipe or recipe
    for number, members in enumerate(split.shadows):
        changes = shadows.changes[number % len(shadows.changes)] if shadows.changes else {}
        made = change(base, changes, f"shadows.changes[{number % max(len(shadows.changes), 1)}]")
        records = _training(setting.attackers, members, trained).records
        found.append(Job(f"shadow {number + 1}", made, records, processor, seed + 1 + number))
    return found


def _training(corpus: Pool, users: Integers, share: Users | None) -> Pool:
    return of_users(corpus, users, shuffled_share(corpus, share.trained, share.seed) if share else None)


def games(setting: Setting, cache: Path) -> tuple[Game, list[Game]]:
    """The target's game and the shadows', every model trained or taken from the cache."""
    experiment, split = setting.experiment, setting.split
    made = jobs(setting)
    folders = train(made, cache)
    candidates = setting.candidates()
    inside = {setting.corpus.names[i] for i in split.members}
    if isinstance(experiment.target, LanguageRecipe):
        target = game("target", experiment.target, folders[0], candidates, inside, known=False)
        made, folders = made[1:], folders[1:]
    else:
        model = language_model(experiment.target.model, experiment.target.revision)
        target = Game(model, candidates, np.array([float(name in inside) for name in candidates.names]))
    pool = setting.shadow_pool() if made else candidates
    shadows = []
    for job, folder, members in zip(made, folders, split.shadows, strict=True):
        names = {setting.attackers.names[i] for i in members}
        shadows.append(game(job.name, job.recipe, folder, pool, names, known=True))
    return target, shadows
