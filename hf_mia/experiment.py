"""An audit as a config describes it: whose texts, which target, which shadows, which attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from hf_mia.config import change, changes_of, check_name, named
from hf_mia.core import Attack
from hf_mia.papers import PAPERS
from hf_mia.recipes.language import LanguageRecipe
from hf_mia.recipes.named import RECIPES
from hf_mia.texts import Data

Provenance = Literal["random_split", "canary", "post_hoc", "unknown"]
BESIDE = ("auditmi", "auditmi-relative", "reference", "mean-rank", "mean-log-rank", "mean-loss")


@dataclass(frozen=True, kw_only=True)
class Users:
    """Who is in: N members, N non-members and 2N for the attacker, drawn by `seed`.

    A model trains on a random `trained` share of each of its users' texts; of the texts that are asked about, a share
    `held_out` is from the rest (0: all were trained on, 1: none was). Non-members' texts are cut the same way.
    """

    members: int = 100
    seed: int = 0
    trained: float = 1.0
    held_out: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.trained <= 1 or not 0 <= self.held_out <= 1:
            raise ValueError(
                f"trained must be in (0, 1] and held_out in [0, 1], but are {self.trained}, {self.held_out}."
            )
        if self.held_out > 0 and self.trained == 1:
            raise ValueError(
                "held_out > 0 asks about texts that were not trained on, and trained = 1 leaves none: lower trained."
            )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A target that was trained elsewhere, and who its members are: by name, in a file, or by a column of the data.

    `provenance` says how membership came about: `random_split`, `canary`, `post_hoc` (members and non-members
    were collected apart: a difference between them can look like a leak) or `unknown`.
    """

    model: str = ""
    revision: str | None = None
    members: tuple[str, ...] = ()
    members_file: str | None = None
    members_column: str | None = None
    provenance: Provenance = "unknown"


@dataclass(frozen=True, kw_only=True)
class Shadows:
    """`count` shadows by the target's recipe, or by `recipe`; the i-th with the i-th of `changes`, over and over.

    `data` are other texts to train them on (cross-domain); without, they get users of the target's data.
    """

    count: int = 10
    recipe: LanguageRecipe | None = None
    changes: tuple[Mapping[str, object], ...] = ()
    data: Data | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must be 0 or more shadows, but is {self.count}.")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Attacks run over and over with one field (dotted) set to each of `values`: a table and a curve."""

    attacks: tuple[str, ...] = ("auditmi",)
    field: str = "signal.top"
    values: tuple[float | int | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides an audit's numbers."""

    data: Data = Data()
    split: Users = Users()
    target: LanguageRecipe | Checkpoint = RECIPES["lstm"]
    shadows: Shadows = Shadows()
    attacks: Mapping[str, Attack] = field(default_factory=lambda: {name: PAPERS[name] for name in BESIDE})
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)
    fprs: tuple[float, ...] = (0.01, 0.001)
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not all(0 < fpr < 1 for fpr in (*self.fprs, self.confidence)):
            raise ValueError(f"fprs and confidence must lie between 0 and 1, but are {self.fprs}, {self.confidence}: "
                             "write one percent as 0.01.")  # fmt: skip
        swept_ = [PAPERS[name] for sweep in self.sweeps.values() for name in sweep.attacks if name in PAPERS]
        for attack in (*self.attacks.values(), *swept_):
            if attack.least > self.shadows.count:
                raise ValueError(f"{attack} takes {attack.least} shadows or more, but shadows.count is "
                                 f"{self.shadows.count}: raise it, or leave the attack out.")  # fmt: skip

    @property
    def provenance(self) -> Provenance:
        """How membership came about: drawn here, or as the config says of a checkpoint."""
        return self.target.provenance if isinstance(self.target, Checkpoint) else "random_split"


def experiment(config: Mapping[str, object]) -> Experiment:
    """An experiment from the fields of a config; ValueError for anything that does not fit."""
    given = dict(config)
    target, own, specs, sweeps = (given.pop(name, None) for name in ("target", "shadows", "attacks", "sweeps"))
    targets: dict[str, LanguageRecipe | Checkpoint] = {**RECIPES, "checkpoint": Checkpoint()}
    shadows = _shadows(own or {})
    beside = {name: PAPERS[name] for name in BESIDE if PAPERS[name].least <= shadows.count}
    parts = replace(
        Experiment(),
        target=named(targets, target or "lstm", "target"),
        shadows=shadows,
        attacks=beside if specs is None else _attacks(specs),
        sweeps=_sweeps(sweeps or {}),
    )
    return change(parts, given, "the config")


def _shadows(given: object) -> Shadows:
    if not isinstance(given, Mapping):
        raise ValueError(f"shadows takes fields and values, but is {given!r}.")
    recipe = named(RECIPES, given["recipe"], "shadows.recipe") if given.get("recipe") else None
    return replace(change(Shadows(), {k: v for k, v in given.items() if k != "recipe"}, "shadows"), recipe=recipe)


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
    for sweep in sweeps.values():
        for attack in sweep.attacks:
            for value in sweep.values:
                swept(attack, sweep.field, value)  # a wrong field shows now, not after hours
    return sweeps


def swept(attack: str, path: str, value: float | int | None) -> Attack:
    """The named attack with the field at a dotted path changed."""
    check_name(attack, PAPERS, "attack")
    changes: object = value
    for part in reversed(path.split(".")):
        changes = {part: changes}
    return change(PAPERS[attack], changes, attack)


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
    target, shadows = experiment.target, experiment.shadows
    found: dict[str, object] = {"data": _plain(experiment.data), "split": _plain(experiment.split)}
    if isinstance(target, Checkpoint):
        found["target"] = {"name": "checkpoint", **_plain(target)}
    else:
        found["target"] = _recipe(target)
    found["shadows"] = {
        "count": shadows.count,
        "recipe": _recipe(shadows.recipe) if shadows.recipe else None,
        "changes": [dict(change) for change in shadows.changes],
        "data": _plain(shadows.data) if shadows.data else None,
    }
    found["attacks"] = [_spec(name, attack) for name, attack in experiment.attacks.items()]
    found["sweeps"] = {name: _plain(sweep) for name, sweep in experiment.sweeps.items()}
    return found | {"fprs": list(experiment.fprs), "confidence": experiment.confidence}


def _plain(value: object) -> dict[str, object]:
    """A dataclass as YAML holds it: tuples as lists."""
    values = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _recipe(recipe: LanguageRecipe) -> dict[str, object]:
    name = next(name for name, known in RECIPES.items() if type(known) is type(recipe))
    return {"name": name, **_plain(recipe)}


def _spec(called: str, attack: Attack) -> object:
    """The name of an attack and what differs from its entry of PAPERS."""
    name = called.split(" (")[0]
    changes = changes_of(attack, PAPERS[name])
    return {"name": name, **changes} if changes else name
