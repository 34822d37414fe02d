"""From an experiment to its games: load the records, split the units, train what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from hf_mia.audits.plan import Experiment, Users
from hf_mia.audits.targets import Elsewhere, Hosted
from hf_mia.core import Booleans, Integers, Pool
from hf_mia.recipes import Recipe
from hf_mia.recipes.named import RECIPES
from hf_mia.shadows import Job, Split, halves, same_halves, split_users
from hf_mia.units import of_units, places, shuffled_share

if TYPE_CHECKING:
    from datasets import Dataset


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

    def inside(self) -> set[str]:
        """The names of the members."""
        return {self.corpus.names[i] for i in self.split.members}

    def rest(self) -> Pool:
        """Units of the target's data that are not in the game."""
        return of_units(self.corpus, np.sort(self.split.rest))

    def outside(self) -> Iterator[str]:
        """Records of units that are not in question, what a vocabulary may be counted on: of a pair, both in turn."""
        columns = [column for column in self.experiment.data.columns if column != "label"]
        rows = np.flatnonzero(~np.isin(self.corpus.unit, self.split.candidates))
        for batch in self.corpus.records.select(rows).iter(batch_size=4096):
            for record in zip(*(batch[column] for column in columns), strict=True):
                yield from record


def setting(experiment: Experiment, corpus: Pool | None = None) -> Setting:
    """Load the records, unless the corpus is given, and split the units; trains and asks nothing."""
    corpus = experiment.data.load() if corpus is None else corpus
    shadows, users, unit = experiment.shadows, experiment.split, experiment.data.unit
    foreign = shadows.data.load() if shadows.data and shadows.count else None
    if foreign:  # equal names in two corpora are not one user
        foreign = replace(foreign, names=tuple(f"shadows.data/{name}" for name in foreign.names))
    same = shadows.pool == "same"
    own = 0 if foreign or same else shadows.count
    if isinstance(experiment.target, Elsewhere):
        split = _given(corpus, experiment, own)
    else:
        split = split_users(len(corpus.names), users.members, own, users.seed, unit, users.coin)
    if same:
        split = same_halves(split, shadows.count, users.seed)
    if foreign:
        others = np.random.default_rng([users.seed, 1]).permutation(len(foreign.names))
        if len(others) < len(split.candidates):
            raise ValueError(
                f"shadows.data has {len(others)} {unit}s, and {len(split.members)} members take twice as many: "
                "lower split.members, or name more data."
            )
        split = replace(halves(split.members, split.nonmembers, others, shadows.count, users.seed), rest=split.rest)
    made = Setting(experiment, corpus, foreign, split)
    if experiment.based:
        cast(Elsewhere, experiment.target).tuned_from()  # what a card lacks is said before anything is trained
    if isinstance(experiment.target, Hosted):
        from hf_mia.services.rehearsal import rehearse

        rehearse(experiment.target.service(), experiment.every(), shadows.count)
    experiment.data.check(made.candidates(), None if same else made.shadow_pool(), made.rest())
    return made


def _given(corpus: Pool, experiment: Experiment, shadows: int) -> Split:
    """The split of a target trained elsewhere: its members as given, as many others as non-members, then attackers."""
    from hf_mia.audits.members import members_of

    unit = experiment.data.unit
    target = cast(Elsewhere, experiment.target)
    members = members_of(target, corpus, experiment.data)
    others = np.random.default_rng(experiment.split.seed).permutation(
        np.setdiff1d(np.arange(len(corpus.names)), members)
    )
    count = len(members) if shadows else len(others)
    needed = (3 if shadows else 1) * (len(members) if shadows else 2)
    if len(members) < 2 or len(others) < needed:
        raise ValueError(
            f"target has {len(members)} members in the data and {len(others)} other {unit}s, and this audit "
            f"takes at least 2 and {needed}: name fewer members, add {unit}s, or set shadows.count to 0."
        )
    return halves(members, others[:count], others[count:], shadows, experiment.split.seed)


def asked(corpus: Pool, users: Integers, share: Users) -> Pool:
    """The texts of some users that are asked about: trained-on and held-out ones in the proportion `held_out`."""
    if share.trained == 1:
        return of_units(corpus, users)
    trained = shuffled_share(corpus, share.trained, share.seed)
    rows = trained if share.held_out == 0 else ~trained if share.held_out == 1 else _mixed(corpus, trained, share)
    silent = np.setdiff1d(users, corpus.unit[rows])
    if len(silent):
        raise ValueError(
            f"split.trained = {share.trained} and held_out = {share.held_out} leave {len(silent)} users "
            f"without a text to ask about, such as {corpus.names[silent[0]]!r}: set data.least higher."
        )
    return of_units(corpus, users, rows)


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
    """The models to train: the target, unless it was trained elsewhere, the shadows, then the controls."""
    experiment, split = setting.experiment, setting.split
    target, shadows = experiment.target, experiment.shadows
    seed = 1000 * experiment.split.seed
    if not isinstance(target, Recipe) and not shadows.count:
        return []
    if not isinstance(target, Recipe) and shadows.recipe is None:
        names = [name for name, recipe in RECIPES.items() if recipe.columns == experiment.data.columns]
        raise ValueError(
            "the target was trained elsewhere, so shadows.recipe must name how shadows are trained, one of "
            f"{names}; or set shadows.count to 0."
        )
    found = []
    if isinstance(target, Recipe):
        processor = target.processor(setting.outside())
        found.append(Job("target", target, _training(setting, split.members), processor, seed))
    base = shadows.recipe or cast(Recipe, target)
    if shadows.recipe or not found:
        processor = base.processor(setting.outside())
    for number, members in enumerate(split.shadows):
        records = _training(setting, members, setting.attackers)
        found.append(Job(f"shadow {number + 1}", experiment.shadow(number), records, processor, seed + 1 + number))
    return found + [control(setting, found[0], name) for name in experiment.controls]


def control(setting: Setting, target: Job, name: str) -> Job:
    """The target as it is without training, or `swapped`: trained on the non-members in the members' place."""
    if name == "untrained":
        return replace(target, name=name, recipe=target.recipe.blank())
    return replace(target, name=name, records=_training(setting, setting.split.nonmembers))


def _training(setting: Setting, units: Integers, corpus: Pool | None = None) -> Dataset:
    """The records of some units, of the target's data or another corpus, that a model is trained on."""
    corpus, share = setting.corpus if corpus is None else corpus, setting.experiment.split
    rows = None if share.trained == 1 else shuffled_share(corpus, share.trained, share.seed)
    return of_units(corpus, units, rows).records
