"""Who trains on what, and the training itself: the only place that trains."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from hf_mia.core import Floats, Game, Integers, Model, Pool
from hf_mia.launch.processes import agreed, joined, meet, settled, shared
from hf_mia.models.alignment import repeatable
from hf_mia.models.placing import fits
from hf_mia.progress import bar
from hf_mia.storage.keys import content_key, folder_key, records_key
from hf_mia.storage.locks import locked

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

    from hf_mia.recipes import Processor, Recipe


COINS, HALVES = 2**32 - 1, 2**32 - 2  # streams of random numbers apart from those of the shadows
ABOUT = "training.json"


@dataclass(frozen=True)
class Split:
    """AuditMI's split of users (indices into a list of all users): 4N of them, and k random halves of the last 2N.

    `members` and `nonmembers` (N each) are the target's; `attackers` (2N) are the attacker's, each shadow trains on
    one row of `shadows` (k, N) and has the other N attackers as non-members; `rest` are in no one's hands.
    """

    members: Integers
    nonmembers: Integers
    attackers: Integers
    shadows: tuple[Integers, ...]
    rest: Integers

    @property
    def candidates(self) -> Integers:
        return np.concatenate([self.members, self.nonmembers])


def split_users(users: int, members: int, shadows: int, seed: int, unit: str = "user", coin: bool = False) -> Split:
    """Shuffle the users, then: N members, N non-members, 2N for the attacker (Song and Shmatikov 2019; public code).

    With `coin`, each of the first 2N is a member by a fair coin of its own. `unit` is what a user is called in
    messages: an image is a user of one record. Raises ValueError where there are fewer than 2 users a side, or fewer
    than the 4N (2N without shadows) it takes.
    """
    needed = (4 if shadows else 2) * members
    if members < 2:
        raise ValueError(f"split.members must be at least 2 {unit}s a side, but is {members}.")
    if needed > users:
        raise ValueError(
            f"split.members = {members} takes {needed} {unit}s (members, as many non-members"
            f"{', twice as many for the shadows' if shadows else ''}), but the data has {users}: "
            f"set split.members to {users // (needed // members)} or less."
        )
    order = np.random.default_rng(seed).permutation(users)
    candidates, others = order[: 2 * members], order[2 * members :]
    inside = np.arange(2 * members) < members
    if coin:
        inside = np.random.default_rng([seed, COINS]).random(2 * members) < 0.5
        if min(inside.sum(), (~inside).sum()) < 2:
            raise ValueError(f"split.coin left fewer than 2 of {2 * members} {unit}s on a side: raise split.members.")
    return halves(candidates[inside], candidates[~inside], others, shadows, seed)


def halves(members: Integers, nonmembers: Integers, others: Integers, shadows: int, seed: int) -> Split:
    """The split for members and non-members already chosen: as many `others` go to the attacker's k shadows."""
    attackers = others[: len(members) + len(nonmembers)] if shadows else others[:0]
    draws = (np.random.default_rng([seed, shadow]).permutation(attackers) for shadow in range(shadows))
    trained = tuple(np.sort(draw[: len(attackers) // 2]) for draw in draws)
    return Split(members, nonmembers, attackers, trained, others[len(attackers) :])


def same_halves(split: Split, shadows: int, seed: int) -> Split:
    """The split whose k shadows train on random halves of the target's own candidates (Carlini et al. 2022).

    Every second shadow has the half that the one before has not, so that of an even number each candidate is in half.
    The halves hang on who the candidates are, and not on who of them is a member.
    """
    candidates, trained = np.sort(split.candidates), []
    for pair in range(-(-shadows // 2)):
        drawn = np.random.default_rng([seed, HALVES, pair]).permutation(candidates)
        trained += [np.sort(drawn[: len(drawn) // 2]), np.sort(drawn[len(drawn) // 2 :])]
    return replace(split, attackers=candidates, shadows=tuple(trained[:shadows]))


@dataclass(frozen=True, eq=False)
class Job:
    """One model to train: the recipe, the rows it sees, its seed, and what to call it."""

    name: str
    recipe: Recipe
    records: Dataset
    processor: Processor
    seed: int

    def folder(self, cache: Path) -> Path:
        """Where the cache keeps the model: a name made of everything that decides its weights."""
        key = content_key(
            [
                self.recipe.key(),
                records_key(self.records, self.recipe.columns),
                self.recipe.processor_key(self.processor),
                str(self.seed),
            ]
        )
        return cache / "models" / key


def train(jobs: Sequence[Job], cache: Path) -> list[Path]:
    """Train what the cache lacks and return every model's folder, in order.

    Under `torchrun` or `accelerate launch`, process r trains missing jobs r, r + world, ...; a recipe with
    `together` trains each job on all processes instead. Where a recipe can, a process trains jobs that are alike side
    by side. A finished model appears in one rename; an interrupted one resumes from its last epoch; a damaged one is
    named in a warning and trained again. What another run trains is left to it as long as that one lives.
    """
    accelerator = joined()
    shared(cache)
    folders = [job.folder(cache) for job in jobs]
    wanted = {folder: job for job, folder in zip(jobs, folders, strict=True)}  # each model once
    missing = [(wanted[folder], folder) for folder in _lacking(list(wanted), accelerator)]
    own = [
        pair
        for i, pair in enumerate(missing)
        if pair[0].recipe.together or i % accelerator.num_processes == accelerator.process_index
    ]
    done, busy = 0, list[list[tuple[Job, Path]]]()
    for wait, groups in ((False, _alike(own, accelerator)), (True, busy)):  # what another run is at comes last
        for group in groups:
            name = group[0][0].name if len(group) == 1 else f"{len(group)} models side by side"
            title = f"{name} ({done + len(group)} of {len(own)} here)"
            if _train(group, cache, accelerator, title, wait):
                done += len(group)
            else:
                busy.append(group)
    settled(folders)
    return folders


def _lacking(folders: Sequence[Path], accelerator: Accelerator) -> list[Path]:
    """Those that hold no whole model, as the first process sees it: another run may put one there at any time."""
    agreed(content_key(folder.name for folder in folders), "train other models")
    names = [folder.name for folder in folders if accelerator.is_main_process and not _whole(folder)]
    missing = cast(list[str], meet(names)[0])
    return [folder for folder in folders if folder.name in missing]


def _whole(folder: Path) -> bool:
    """Whether a model is there, and is what was written."""
    if not folder.exists():
        return False
    try:
        found, about = _content(folder), json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about.get("content", found) == found:  # early versions did not write it down
            return True
        error = "its content is not what was written"
    except (OSError, ValueError, AttributeError) as problem:
        error = repr(problem)
    warnings.warn(f"model {folder.name} is damaged and is trained again: {error}", stacklevel=2)
    return False


def _content(folder: Path) -> str:
    """The content of a trained model, and of the same after some epochs where they are kept."""
    kept = sorted(path for path in folder.iterdir() if path.is_dir())
    return content_key([folder_key(folder), *(part for path in kept for part in (path.name, folder_key(path)))])


def _alike(own: Sequence[tuple[Job, Path]], accelerator: Accelerator) -> list[list[tuple[Job, Path]]]:
    """Jobs in groups that are trained at once: as many as the recipe wants, alike but for seeds and records."""
    groups: dict[tuple[str, ...], list[list[tuple[Job, Path]]]] = {}
    for job, folder in own:
        most = job.recipe.side_by_side(job.records, job.processor, accelerator)
        if most == 1:
            groups[str(folder),] = [[(job, folder)]]
            continue
        features = {name: job.records.features.get(name) for name in job.recipe.columns}
        alike = (job.recipe.key(), job.recipe.processor_key(job.processor), str(len(job.records)), repr(features))
        parts = groups.setdefault(alike, [[]])
        if len(parts[-1]) == most:
            parts.append([])
        parts[-1].append((job, folder))
    return [part for parts in groups.values() for part in parts]


def _train(group: Sequence[tuple[Job, Path]], cache: Path, accelerator: Accelerator, title: str, wait: bool) -> bool:
    """Train models, one or several at once, each in a folder of its own; False where another run is at one of them."""
    together = group[0][0].recipe.together
    names = [folder.name for _, folder in group if accelerator.is_main_process or not together]
    with locked(cache, names, wait or together, f"training {group[0][0].name}") as held:
        if not held:
            return False
        folders = [folder for _, folder in group]
        lacking = _lacking(folders, accelerator) if together else [one for one in folders if not _whole(one)]
        todo = [(job, folder) for job, folder in group if folder in lacking]  # others, another run has finished
        if todo:
            _train_here(todo, accelerator, title)
    return True


def _train_here(group: Sequence[tuple[Job, Path]], accelerator: Accelerator, title: str) -> None:
    unfinished = [folder.with_suffix(".unfinished") for _, folder in group]
    for place in unfinished:
        place.mkdir(parents=True, exist_ok=True)
    first, seeds, records = group[0][0], [job.seed for job, _ in group], [job.records for job, _ in group]
    lower = f"lower the recipe's batch, which is {first.recipe.batch}; what was trained is kept."
    fitting, shown = fits(f"training {first.name}", accelerator.device, lower), f"training {title}"
    with fitting, repeatable(), bar(shown, position=accelerator.process_index) as progress:
        if len(group) == 1:
            first.recipe.train(first.records, first.processor, first.seed, unfinished[0], accelerator, progress)
        else:
            first.recipe.train_side_by_side(records, first.processor, seeds, unfinished, accelerator, progress)
    if first.recipe.together and not accelerator.is_main_process:
        return
    for (job, folder), place in zip(group, unfinished, strict=True):
        _finish(job, place, folder)


def _finish(job: Job, unfinished: Path, folder: Path) -> None:
    """Put a trained model, and what it was trained on, in its place in one rename."""
    from hf_mia.recipes.checkpoint import writing

    for leftover in unfinished.glob("checkpoint.safetensors*"):
        leftover.unlink()
    about = {"name": job.name, "recipe": repr(job.recipe), "seed": job.seed, "records": len(job.records)}
    with writing(unfinished):
        (unfinished / ABOUT).write_text(json.dumps({**about, "content": _content(unfinished)}, indent=2))
    if folder.exists():  # damaged
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def game(name: str, model: Model, pool: Pool, members: set[str], known: bool) -> Game:
    """A model, by the name it shall have, beside a pool: a shadow where membership is `known`, else a target."""
    member: Floats = np.array([float(name in members) for name in pool.names])
    return Game(replace(model, name=name), pool, member, known)
