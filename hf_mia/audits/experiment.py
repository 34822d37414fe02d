"""An experiment from the fields of a config, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import cast

from hf_mia.audits.plan import Experiment, Grid, Shadows, Sweep
from hf_mia.audits.targets import Checkpoint, Elsewhere, Hosted
from hf_mia.config import change, changes_of, check_name, named
from hf_mia.core import Attack
from hf_mia.data import Data
from hf_mia.data.classified import ClassifiedImages, ClassifiedTexts
from hf_mia.data.classified_sounds import ClassifiedSounds
from hf_mia.data.images import Images
from hf_mia.data.pairs import Pairs
from hf_mia.data.texts import Texts
from hf_mia.papers import PAPERS
from hf_mia.recipes import Recipe
from hf_mia.recipes.named import RECIPES

DATA: dict[str, Data] = {
    "texts": Texts(),
    "pairs": Pairs(),
    "images": Images(),
    "classified-images": ClassifiedImages(),
    "classified-texts": ClassifiedTexts(),
    "classified-sounds": ClassifiedSounds(),
}
ELSEWHERE: dict[str, Recipe | Elsewhere] = {"checkpoint": Checkpoint(), "service": Hosted()}


def experiment(config: Mapping[str, object]) -> Experiment:
    """An experiment from the fields of a config; ValueError for anything that does not fit."""
    given = dict(config)
    for name in given:  # before any part is made: a misspelt `data` must not be told as a target that does not fit
        check_name(str(name), (field.name for field in fields(Experiment)), "field of the config")
    parts = {name: given.pop(name, None) for name in ("data", "target", "shadows", "attacks", "sweeps", "grid")}
    data = _data(parts["data"] or {}, "texts", "data")
    target = named({**RECIPES, **ELSEWHERE}, parts["target"] or data.recipe, "target")
    shadows = _shadows(parts["shadows"] or {}, data)
    made = Experiment(
        data=data,
        target=target,
        shadows=shadows,
        attacks=_beside(data, target, shadows.count) if parts["attacks"] is None else _attacks(parts["attacks"]),
        sweeps=_sweeps(parts["sweeps"] or {}),
        grid=None if parts["grid"] is None else _grid(parts["grid"], data, target),
        controls=data.controls if isinstance(target, Recipe) else (),
    )
    return change(made, given, "the config")


def _beside(data: Data, target: Recipe | Elsewhere, shadows: int) -> dict[str, Attack]:
    """The attacks of a config that names none: those of the data's kind that the shadows suffice for and, of a service,
    that read no more than it shows."""
    names = [name for name in data.beside if PAPERS[name].least <= shadows]
    if isinstance(target, Hosted) and data.columns == ("text",):
        from hf_mia.services.rehearsal import served

        names = served(target.service(), names, shadows)
    return {name: PAPERS[name] for name in names}


def kind_of(data: Data) -> str:
    """What `data.kind` is in a config."""
    return next(name for name, known in DATA.items() if type(known) is type(data))


def _data(given: object, kind: str, where: str) -> Data:
    """Data of the `kind` that is given in the fields, or else of this one."""
    spec = {"kind": kind, **given} if isinstance(given, Mapping) else given
    return named(DATA, spec, where, key="kind")


def _recipe(given: object, where: str) -> Recipe | None:
    return None if given is None else named(RECIPES, given, where)


def _mapping(given: object, where: str, known: Sequence[str]) -> dict[str, object]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} takes fields and values, but is {given!r}: fields are {sorted(known)}.")
    return dict(given)


def _shadows(given: object, data: Data) -> Shadows:
    rest = _mapping(given, "shadows", ["count", "recipe", "changes", "data"])
    recipe, own = (rest.pop(name, None) for name in ("recipe", "data"))
    other = None if own is None else _data(own, kind_of(data), "shadows.data")
    return replace(
        change(Shadows(count=data.shadows), rest, "shadows"), recipe=_recipe(recipe, "shadows.recipe"), data=other
    )


def _grid(given: object, data: Data, target: Recipe | Elsewhere) -> Grid:
    """What is not known, each axis as changes of what is: other data is the target's with other fields."""
    rest = _mapping(given, "grid", ["distribution", "architecture", "algorithm"])
    other, algorithm = (rest.pop(name, None) for name in ("distribution", "algorithm"))
    made = change(Grid(), rest, "grid")
    distribution = None if other is None else change(data, other, "grid.distribution")
    made = replace(made, distribution=distribution, algorithm=_recipe(algorithm, "grid.algorithm"))
    if made == Grid():
        raise ValueError("grid takes at least one of distribution, architecture and algorithm, but has none.")
    for recipe in (target, made.algorithm):
        if isinstance(recipe, Recipe):
            change(recipe, made.architecture or {}, "grid.architecture")  # a wrong field shows now
    return made


def _attacks(specs: object) -> dict[str, Attack]:
    if not isinstance(specs, Sequence) or isinstance(specs, str) or not specs:
        raise ValueError(
            f"attacks takes a list of names, or of fields with a `name`, but is {specs!r}: {sorted(PAPERS)}."
        )
    found: dict[str, Attack] = {}
    for spec in specs:
        attack = named(PAPERS, spec, "attack")
        called = label(spec["name"] if isinstance(spec, Mapping) else spec, attack)
        if called in found:
            raise ValueError(f"attacks lists {called!r} twice: leave one out, or change a field of it.")
        found[called] = attack
    return found


def _sweeps(specs: object) -> dict[str, Sweep]:
    if not isinstance(specs, Mapping):
        raise ValueError(f"sweeps takes a table's name and its fields, but is {specs!r}.")
    sweeps = {str(name): change(Sweep(), spec, f"sweeps.{name}") for name, spec in specs.items()}
    for name, sweep in sweeps.items():
        if not sweep.attacks or not sweep.values:
            raise ValueError(f"sweeps.{name} takes attacks and values, at least one of each, but has "
                             f"{list(sweep.attacks)} and {list(sweep.values)}.")  # fmt: skip
        for attack in sweep.attacks:
            for value in sweep.values:
                sweep.attack(attack, value)  # a wrong field shows now, not after hours
    return sweeps


def label(name: str, attack: Attack) -> str:
    """What a report calls an attack: its name in PAPERS, and what was changed."""
    changes = ", ".join(_flat(changes_of(attack, PAPERS[name])))
    return f"{name} ({changes})" if changes else name


def _flat(changes: Mapping[str, object], prefix: str = "") -> list[str]:
    parts: list[str] = []
    for key, value in changes.items():
        parts += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}={value}"]
    return parts


def mapping(experiment: Experiment) -> dict[str, object]:
    """The fields of a config that `experiment` turns back into the same value: the resolved config."""
    target, shadows, grid = experiment.target, experiment.shadows, experiment.grid
    found: dict[str, object] = {"data": _source(experiment.data), "split": plain(experiment.split)}
    found["target"] = _spelt(target)
    found["shadows"] = {
        "count": shadows.count,
        "pool": shadows.pool,
        "recipe": _spelt(shadows.recipe) if shadows.recipe else None,
        "changes": plain(shadows.changes),
        "data": _source(shadows.data) if shadows.data else None,
    }
    found["attacks"] = [_spec(name, attack) for name, attack in experiment.attacks.items()]
    found["sweeps"] = {name: plain(sweep) for name, sweep in experiment.sweeps.items()}
    if grid is not None:
        found["grid"] = {
            "distribution": _fields(grid.distribution) if grid.distribution else None,
            "architecture": plain(grid.architecture),
            "algorithm": _spelt(grid.algorithm) if grid.algorithm else None,
        }
    found |= {"controls": list(experiment.controls), "trials": experiment.trials, "fprs": list(experiment.fprs)}
    return found | {"confidence": experiment.confidence, "delta": experiment.delta}


def plain(value: object) -> object:
    """A value as YAML holds it: dataclasses and mappings as mappings, tuples as lists, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (tuple, list)) else value


def _fields(value: object) -> dict[str, object]:
    kept = [item for item in fields(value) if item.init and item.repr]  # type: ignore[arg-type]
    return {item.name: plain(getattr(value, item.name)) for item in kept}


def _source(data: Data) -> dict[str, object]:
    return {"kind": kind_of(data), **_fields(data)}


def _spelt(model: Recipe | Elsewhere) -> dict[str, object]:
    name = next(name for name, known in {**RECIPES, **ELSEWHERE}.items() if type(known) is type(model))
    return {"name": name, **_fields(model)}


def _spec(called: str, attack: Attack) -> object:
    """The name of an attack and what differs from its entry of PAPERS."""
    name = called.split(" (")[0]
    changes = cast("dict[str, object]", plain(changes_of(attack, PAPERS[name])))
    return {"name": name, **changes} if changes else name
