"""Which attacks of a run can be asked about new units, and where the models are that they ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hf_mia.attacks.downstream import Downstream
from hf_mia.attacks.groups import PerGroup
from hf_mia.attacks.relative import Against
from hf_mia.audits.targets import Checkpoint, Elsewhere, Hosted
from hf_mia.core import Attack, Model
from hf_mia.models.checkpoints import folder_of
from hf_mia.queries.keeping import LIMIT, REFERENCE, shadow_name
from hf_mia.queries.learnt import taught, unlearnt
from hf_mia.queries.opened import AGAIN, Place, Run
from hf_mia.recipes import Recipe

SENT = (
    "its target is a service, and a run folder, which may come from anyone, does not decide where texts and keys are "
    "sent: add the units to the data and run `hf-mia audit` again, which pays for those alone."
)


def obstacles(run: Run, cache: Path | None = None) -> dict[str, str]:
    """Why each of a run's attacks cannot be asked from its folder and the cache, by name; "" for those that can."""
    return {name: _obstacle(run, name, cache) for name in run.experiment.attacks}


def target(run: Run, given: str | Path | None = None, cache: Path | None = None) -> Model:
    """The model that was audited: the one `given`, or the folder's, or the cache's, or the one that the config names.

    ValueError where there is none, or where it is another.
    """
    target = run.experiment.target
    if isinstance(target, Hosted):
        raise ValueError(f"run {str(run.folder)!r} cannot be asked: {SENT}")
    named = target if isinstance(target, Checkpoint) else None
    source = given or _folder(run, "target", run.target, cache) or (named.model if named else None)
    if source is None:
        raise ValueError(
            f"the target of run {str(run.folder)!r} is neither in its folder nor in the cache: name its folder or Hub "
            f"id by --model, or audit again with --keep above {LIMIT} megabytes."
        )
    revision = named.revision if named and source == named.model else None
    if isinstance(target, Recipe):
        return _checked(target.load(folder_of(source)), run.target.key, run.name)  # with the recipe's own prompt
    return _checked(target.opened(run.experiment.data, source, revision), run.target.key, run.name)


def references(run: Run, attack: Attack, cache: Path | None = None) -> tuple[Model, ...]:
    """The models that an attack sets the target against: all shadows, the base, or none; ValueError as those."""
    if not attack.compares:
        return ()
    return (base(run),) if against_base(run, attack) else shadows(run, cache)


def against_base(run: Run, attack: Attack) -> bool:
    """Whether an attack of the run sets the target against the model that it was tuned from."""
    return isinstance(attack, Against) and run.experiment.based


def base(run: Run) -> Model:
    """The model that the target was tuned from: the folder's, or what the audit loaded, by the same folder or Hub id.

    ValueError where it is not to be had, or is another.
    """
    if run.base is None:
        raise ValueError(f"run {str(run.folder)!r} does not tell which model its target was tuned from. {AGAIN}")
    source, data, target = run.model(REFERENCE) or run.base.source, run.experiment.data, run.experiment.target
    try:
        model = target.opened(data, source, None) if isinstance(target, Elsewhere) else data.model(source, None)
    except ValueError as error:
        raise ValueError(
            f"the target of run {str(run.folder)!r} was tuned from {run.base.source!r}, which is not in its folder and "
            f"cannot be loaded: {error}"
        ) from error
    return _checked(model, run.base.key, run.base.source)


def shadows(run: Run, cache: Path | None = None) -> tuple[Model, ...]:
    """All shadows' models, in order; ValueError where one is missing, or is another."""
    found = []
    for number, place in enumerate(run.shadows, 1):
        folder = _folder(run, shadow_name(number), place, cache)
        if folder is None:
            raise ValueError(f"shadow {number} of run {str(run.folder)!r} is neither in its folder nor in the cache.")
        found.append(_checked(run.experiment.shadow(number - 1).load(folder), place.key, f"shadow {number}"))
    return tuple(found)


def _obstacle(run: Run, name: str, cache: Path | None) -> str:
    attack = run.experiment.attacks[name]
    if isinstance(run.experiment.target, Hosted):
        return SENT
    if isinstance(attack, Downstream):
        return "the classifiers that were trained on the encoders are not kept."
    if against_base(run, attack) and (lost := _baseless(run)):
        return lost
    if isinstance(attack, PerGroup):
        return "it decides class by class, and a run folder tells no unit's class."
    calibration = run.calibration(name)
    if calibration is None:
        return f"nothing is kept of what it read off known non-members. {AGAIN}"
    if lacking := unlearnt(taught(attack.signal, calibration.learnt)):
        return f"its signal learnt from the attacker's texts, and {', '.join(lacking)} is not kept. {AGAIN}"
    if attack.compares and not against_base(run, attack):
        missing = [i for i, place in enumerate(run.shadows, 1) if _folder(run, shadow_name(i), place, cache) is None]
        if missing:
            return (
                f"it compares the target with {len(run.shadows)} shadows, and the models of {len(missing)} are neither "
                f"in the folder nor in the cache: audit again with --keep above {LIMIT} megabytes."
            )
    return ""


def _baseless(run: Run) -> str:
    """Why the model that the target was tuned from cannot be had; "" where it is there, or may be on the Hub."""
    if run.base is None:
        return f"report.json does not tell which model the target was tuned from. {AGAIN}"
    source = run.base.source
    local = source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source
    if run.model(REFERENCE) is None and local and not Path(source).is_dir():
        return (
            f"it compares the target with the model that it was tuned from, {source!r}, which is neither in the run "
            f"folder nor there: put it there, or audit again with --keep above {LIMIT} megabytes."
        )
    return ""


def _folder(run: Run, name: str, place: Place, cache: Path | None) -> Path | None:
    """Where a model of the run is: in its folder, or in the cache."""
    cached = None if cache is None or place.cached is None else cache / "models" / place.cached
    return run.model(name) or (cached if cached is not None and cached.is_dir() else None)


def _checked(model: Model, key: str, name: str) -> Model:
    if model.key != key:
        raise ValueError(
            f"model {model.name!r} has other weights or another processor than the {name!r} that was audited, so the "
            "non-members' scores say nothing about it: name the model of the audit, or audit this one."
        )
    return replace(model, name=name)
