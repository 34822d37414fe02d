"""An audit as a config describes it: whose records, which target, which shadows, which attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal, cast

from hf_mia.attacks.relative import Against
from hf_mia.audits.targets import Elsewhere, Hosted, Provenance
from hf_mia.config import change, check_name
from hf_mia.core import Attack
from hf_mia.data import Data
from hf_mia.data.texts import Texts
from hf_mia.papers import PAPERS
from hf_mia.recipes import Recipe
from hf_mia.recipes.named import RECIPES
from hf_mia.reports.privacy import check_levels, check_randomised

Value = float | int | str | None


@dataclass(frozen=True, kw_only=True)
class Users:
    """Who is in: N members, N non-members and 2N for the attacker, drawn by `seed`; an image is a user of one record.

    A model trains on a random `trained` share of each of its users' records; of the records that are asked about, a
    share `held_out` is from the rest (0: all were trained on, 1: none was). Non-members' records are cut the same way.
    With `coin` each of the 2N candidates is a member by an independent fair coin, as a bound on epsilon from one model
    needs (Steinke et al. 2023): N of them on average.
    """

    members: int = 100
    seed: int = 0
    coin: bool = False
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
class Shadows:
    """`count` shadows by the target's recipe, or by `recipe`; the i-th with the i-th of `changes`, over and over.

    `data` are other records to train them on (cross-domain); without, they get units of the target's data: the
    attacker's `own`, as in AuditMI and Shokri et al., or the `same` that the target's members were drawn from, as in
    LiRA and RMIA. Of the same, each shadow has a random half, and every second one the other half of the one before.
    """

    count: int = 10
    pool: Literal["own", "same"] = "own"
    recipe: Recipe | None = None
    changes: tuple[Mapping[str, object], ...] = ()
    data: Data | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must be 0 or more shadows, but is {self.count}.")
        if self.pool == "same" and self.data is not None:
            raise ValueError("pool = same takes the target's own records, so data must be null: drop one of the two.")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Attacks, with `changes`, run over and over with a (dotted) field set to each of `values`: a table and a curve."""

    attacks: tuple[str, ...] = ("auditmi",)
    changes: Mapping[str, object] = field(default_factory=dict)
    field: str = "signal.top"
    values: tuple[Value, ...] = ()

    def attack(self, name: str, value: Value) -> Attack:
        """The named attack with the changes, and the field at the dotted path set to a value."""
        check_name(name, PAPERS, "attack")
        changes: object = value
        for part in reversed(self.field.split(".")):
            changes = {part: changes}
        return change(change(PAPERS[name], self.changes, name), changes, name)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """EncoderMI's settings of background knowledge: what a shadow takes where the attacker does not know the target's.

    `distribution`: other data; `architecture`: changes of the recipe; `algorithm`: another recipe. The grid runs every
    combination of known and not known, 8 where all three are given (Liu et al. 2021, section 3.2).
    """

    distribution: Data | None = None
    architecture: Mapping[str, object] | None = None
    algorithm: Recipe | None = None

    def settings(self, known: Shadows) -> dict[str, Shadows]:
        """Each setting's shadows by what is known in it, from the `known` ones, which know everything."""
        axes = {"distribution": self.distribution, "architecture": self.architecture, "algorithm": self.algorithm}
        given = [name for name, value in axes.items() if value is not None]
        found = {}
        for knows in product((True, False), repeat=len(given)):
            kept = [name for name, known_ in zip(given, knows, strict=True) if known_]
            found[", ".join(kept) or "nothing"] = self._shadows(known, set(given) - set(kept))
        return found

    def _shadows(self, known: Shadows, unknown: set[str]) -> Shadows:
        data = self.distribution if "distribution" in unknown else known.data
        recipe = self.algorithm if "algorithm" in unknown else known.recipe
        changes = (self.architecture or {},) if "architecture" in unknown else known.changes
        return replace(known, data=data, recipe=recipe, changes=changes)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides an audit's numbers.

    `controls` are targets that an attack must not find members in: `untrained`, and `swapped`, trained on the
    non-members. `trials`: how often an attack's classifier is fitted, each time from another seed. With `delta`, every
    attack also bounds epsilon from below (`hf_mia.reports.privacy`); ValueError unless membership was drawn at random.
    """

    data: Data = Texts()
    split: Users = Users()
    target: Recipe | Elsewhere = RECIPES["lstm"]
    shadows: Shadows = Shadows()
    attacks: Mapping[str, Attack] = field(default_factory=lambda: {name: PAPERS[name] for name in Texts.beside})
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)
    grid: Grid | None = None
    controls: tuple[Literal["untrained", "swapped"], ...] = ()
    trials: int = 1
    fprs: tuple[float, ...] = (0.01, 0.001)
    confidence: float = 0.95
    delta: float | None = None

    def __post_init__(self) -> None:
        if not all(0 < fpr < 1 for fpr in (*self.fprs, self.confidence)):
            raise ValueError(f"fprs and confidence must lie between 0 and 1, but are {self.fprs}, {self.confidence}: "
                             "write one percent as 0.01.")  # fmt: skip
        if self.delta is not None:
            check_levels(self.delta, self.confidence)
            check_randomised(self.provenance, "threshold")
        if self.trials < 1:
            raise ValueError(f"trials must be at least 1, but is {self.trials}.")
        swept = [PAPERS[name] for sweep in self.sweeps.values() for name in sweep.attacks if name in PAPERS]
        for attack in (*self.attacks.values(), *swept):
            if attack.least > self.shadows.count and not (isinstance(attack, Against) and self._reference):
                raise ValueError(f"{attack} takes {attack.least} shadows or more, but shadows.count is "
                                 f"{self.shadows.count}: raise it, or leave the attack out.")  # fmt: skip
        self._check_kinds()

    def _check_kinds(self) -> None:
        """Every part must be about the same kind of records; ValueError names the first that is not."""
        recipes = {"target": self.target, "shadows.recipe": self.shadows.recipe}
        recipes |= {"grid.algorithm": self.grid.algorithm} if self.grid else {}
        for place, recipe in recipes.items():
            if isinstance(recipe, Recipe) and recipe.columns != self.data.columns:
                raise ValueError(f"{place} trains on {kind(recipe.columns)}, but data.kind is "
                                 f"{kind(self.data.columns)}: set data.kind, or name another recipe.")  # fmt: skip
        if self.shadows.data is not None and self.shadows.data.columns != self.data.columns:
            raise ValueError(f"shadows.data are {kind(self.shadows.data.columns)}, but data.kind is "
                             f"{kind(self.data.columns)}: a shadow is asked what the target is asked.")  # fmt: skip
        asked = {f"attack {name!r}": attack for name, attack in self.attacks.items()}
        for title, sweep in self.sweeps.items():
            asked |= {f"attack {name!r} of sweeps.{title}": PAPERS[name] for name in sweep.attacks if name in PAPERS}
        for place, attack in asked.items():
            if not self.data.takes(attack.signal.probe):
                raise ValueError(f"{place} asks by {attack.signal.probe}, which is not for data.kind = "
                                 f"{kind(self.data.columns)}: name others, as {list(self.data.beside)}.")  # fmt: skip
        if isinstance(self.target, Elsewhere) and (self.controls or self.grid):
            raise ValueError(
                "a checkpoint or a service was trained elsewhere: controls and grid need a target that is trained here."
            )
        if isinstance(self.target, Hosted) and self.data.columns != ("text",):
            raise ValueError(f"a service is asked about texts, but data.kind is {kind(self.data.columns)}: set "
                             "data.kind to texts, or name a checkpoint.")  # fmt: skip

    def every(self) -> dict[str, Attack]:
        """Every attack by its name, and those of the sweeps, one a value, by the sweep's name and theirs."""
        swept = {
            f"{title}: {name} ({sweep.field}={value})": sweep.attack(name, value)
            for title, sweep in self.sweeps.items()
            for name in sweep.attacks
            for value in sweep.values
        }
        return {**self.attacks, **swept}

    @property
    def _reference(self) -> bool:
        return isinstance(self.target, Elsewhere) and self.target.reference is not None

    @property
    def based(self) -> bool:
        """Whether an attack sets the target against the model that it was tuned from."""
        return self._reference and any(isinstance(attack, Against) for attack in self.every().values())

    def shadow(self, number: int) -> Recipe:
        """How a shadow is trained, counted from 0; ValueError for changes that its recipe does not take."""
        changes = self.shadows.changes[number % len(self.shadows.changes)] if self.shadows.changes else {}
        place = f"shadows.changes[{number % max(len(self.shadows.changes), 1)}]"
        return change(self.shadows.recipe or cast(Recipe, self.target), changes, place)

    @property
    def provenance(self) -> Provenance:
        """How membership came about: drawn here, or as the config says of a target that was trained elsewhere."""
        drawn: Provenance = "coin" if self.split.coin else "random_split"
        return self.target.provenance if isinstance(self.target, Elsewhere) else drawn


def kind(columns: Sequence[str]) -> str:
    """What records of some columns are called, as `data.kind` names them."""
    if columns[0] == "source":
        return "pairs"
    return f"classified-{columns[0]}s" if "label" in columns else f"{columns[0]}s"
