"""Attacks on what a classifier said, as arrays: no model, no files.

`hf_mia.attack("rmia", logits=..., labels=..., member=..., references=[...])` is an audit in one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hf_mia.attacks.lira import Comparison
from hf_mia.attacks.threshold import Threshold
from hf_mia.audits.experiment import label
from hf_mia.config import change, check_name
from hf_mia.core import Attack, Evidence, Floats, Signal, decide
from hf_mia.papers import PAPERS
from hf_mia.probes.posteriors import Access, Posteriors
from hf_mia.reports.estimates import checked
from hf_mia.reports.report import Report
from hf_mia.saved.outputs import Outputs, outputs


@dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """What another model says of the target's own units, and which of them that model was trained on.

    logits or probabilities: shapes as the target's; member (n,): 1 or True in, 0 or False out, NaN unknown.
    """

    member: npt.ArrayLike
    logits: npt.ArrayLike | None = None
    probabilities: npt.ArrayLike | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Shadow:
    """What another model says of units of its own, m of them: labels (m,), and the rest as in a `Reference`."""

    labels: npt.ArrayLike
    member: npt.ArrayLike
    logits: npt.ArrayLike | None = None
    probabilities: npt.ArrayLike | None = None


@dataclass(frozen=True, eq=False)
class Heard:
    """What a target and other models said, as the attacker sees it; what a signal reads is kept for the next attack.

    `references` are about the target's units, `shadows` about others; `access` None: what the attack's own probe asks.
    """

    target: Outputs
    references: tuple[Outputs, ...] = ()
    shadows: tuple[Outputs, ...] = ()
    access: Access | None = None
    _seen: dict[Signal, list[Evidence]] = field(default_factory=dict, init=False, repr=False)

    def evidence(self, attack: Attack) -> tuple[Evidence, list[Evidence]]:
        """The target's evidence, membership unknown, and the others', known: as `hf_mia.core.gather` has it.

        ValueError where the attack takes more models than there are, or compares and has shadows about other units.
        """
        kind, others = type(attack).__name__, len(self.references) + len(self.shadows)
        if attack.compares and self.shadows:
            raise ValueError(
                f"{kind} compares models on the same units, but the shadows are about others: ask these models about "
                "the target's units, and give what they say as references."
            )
        if not self.answers(attack):
            raise ValueError(
                f"{kind} asks {attack.signal.probe.shows}, but there is one row of each unit: give logits of several "
                "queries, (n, q, C), the plain one first."
            )
        if others < attack.least:
            raise ValueError(
                f"{kind} needs {attack.least} other models or more, but has {others}: give references=["
                "Reference(logits=..., member=...), ...], what they say of the target's units"
                + ("." if attack.compares else ", or shadows=[Shadow(logits=..., labels=..., member=...), ...].")
            )
        self.hear([attack])
        target, *found = self._seen[attack.signal]
        if not attack.compares:
            return target, found
        compared = [replace(one, references=tuple(other for other in found if other is not one)) for one in found]
        return replace(target, references=tuple(found)), compared

    def hear(self, attacks: Iterable[Attack]) -> None:
        """Read what these attacks will ask for, in one pass over each model's units."""
        signals = list({one.signal: None for one in attacks if one.signal not in self._seen})
        if signals:
            read = [model.read(signals, self.access) for model in (self.target, *self.references, *self.shadows)]
            self._seen.update({signal: [found[place] for found in read] for place, signal in enumerate(signals)})

    def answers(self, attack: Attack) -> bool:
        """Whether there are several queries of a unit where the attack asks for some."""
        probe = attack.signal.probe
        return self.target.logits.shape[1] > 1 or not isinstance(probe, Posteriors) or probe.queries.n == 1

    def by_default(self) -> dict[str, Attack]:
        """The attacks of PAPERS that what was said suffices for, but for those that train a classifier of their own."""
        known = {name: PAPERS[name] for name in fitting()}
        return {
            name: one
            for name, one in known.items()
            if self.answers(one) and (one.least == 0 or (one.compares and one.least <= len(self.references)))
        }

    def scores(self, attack: Attack) -> Floats:
        """The attack's scores (n,)."""
        target, others = self.evidence(attack)
        only_a_threshold = isinstance(attack, (Comparison, Threshold))  # is what these learn, and no score hangs on it
        return attack.fit([] if only_a_threshold else others).score(target)

    def report(self, attack: Attack, member: npt.ArrayLike, name: str) -> Report:
        """The attack's scores beside the truth, which it never sees: member (n,). ValueError as in `checked`."""
        truth = checked(np.zeros(len(self.target.names)), np.asarray(member), self.target.names, least=2)[1]
        return decide(attack, *self.evidence(attack), truth.astype(np.float64), name)


def heard(
    *,
    labels: npt.ArrayLike,
    logits: npt.ArrayLike | None = None,
    probabilities: npt.ArrayLike | None = None,
    references: Sequence[Reference] = (),
    shadows: Sequence[Shadow] = (),
    access: Access | None = None,
    units: Sequence[str] | None = None,
) -> Heard:
    """What `attack` takes, checked, for several attacks; arguments and errors as there."""
    if access is not None:
        Posteriors(access=access)  # an unknown one shows now
    target = outputs(labels, None, logits, probabilities, names=units)
    others = []
    for place, one in enumerate(references):
        where = f"references[{place}]: "
        shape = np.asarray(one.probabilities if one.logits is None else one.logits).shape
        if shape and shape[0] != len(target.names):
            raise ValueError(
                f"{where}must be about the target's {len(target.names)} units, but is about {shape[0]}: ask every "
                "reference about these units, in this order. What models say of other units are shadows=."
            )
        others.append(outputs(labels, one.member, one.logits, one.probabilities, where, target.names))
    own = [
        outputs(one.labels, one.member, one.logits, one.probabilities, f"shadows[{place}]: ")
        for place, one in enumerate(shadows)
    ]
    for kind, found in (("references", others), ("shadows", own)):
        for place, model in enumerate(found):
            if model.logits.shape[1:] != target.logits.shape[1:]:
                asked = "{0} queries of {1} classes".format
                raise ValueError(
                    f"{kind}[{place}]: must answer as the target, {asked(*target.logits.shape[1:])}, but answers "
                    f"{asked(*model.logits.shape[1:])}: ask all models the same."
                )
    same = tuple(replace(model, names=target.names) for model in others)
    return Heard(target, same, tuple(own), access)


def attack(
    attack: str | Attack,
    /,
    *,
    labels: npt.ArrayLike,
    member: npt.ArrayLike,
    logits: npt.ArrayLike | None = None,
    probabilities: npt.ArrayLike | None = None,
    references: Sequence[Reference] = (),
    shadows: Sequence[Shadow] = (),
    access: Access | None = None,
    changes: Mapping[str, object] | None = None,
    units: Sequence[str] | None = None,
) -> Report:
    """How well an attack tells a classifier's members from what it said of them.

    attack: a name of PAPERS, or an Attack; changes: fields of it, nested, such as {"gamma": 1.5}.
    logits: (n, C), or (n, q, C) for q queries of each unit, the plain one first; float64, float32, or float16, which is
    raised to float64. What float16 has rounded away stays lost: near 16 its steps are 1/64, so records that a model is
    sure of tie, and TPRs at low FPRs suffer most: save logits as float32. probabilities, instead: rows that sum to 1;
    0 counts as 2^-149. labels: (n,) whole numbers, the true classes. member: (n,) bool, which the attack never sees.
    references: what other models say of the same units, for attacks that compare, and to choose a threshold on.
    shadows: what other models say of other units. access: how much the attacker sees of all of these, by the reduction
    of `Posteriors`; None: as much as the attack's own probe asks for. units: the n names, by default the rows' numbers.

    ValueError for an unknown attack, one that does not read a classifier's outputs, or lacks models; for arrays that do
    not fit each other, NaN and infinities, labels outside of 0 to C - 1, probabilities passed as logits, and fewer than
    two members or non-members.
    """
    chosen, name = named(attack, changes)
    given = heard(
        labels=labels, logits=logits, probabilities=probabilities, references=references, shadows=shadows,
        access=access, units=units,
    )  # fmt: skip
    return given.report(chosen, member, name if access is None else f"{name}, access={access}")


def scores(
    attack: str | Attack,
    /,
    *,
    labels: npt.ArrayLike,
    logits: npt.ArrayLike | None = None,
    probabilities: npt.ArrayLike | None = None,
    references: Sequence[Reference] = (),
    shadows: Sequence[Shadow] = (),
    access: Access | None = None,
    changes: Mapping[str, object] | None = None,
) -> Floats:
    """An attack's scores (n,) float64 where nobody knows who is a member: larger = more likely one. As `attack`."""
    given = heard(
        labels=labels, logits=logits, probabilities=probabilities, references=references, shadows=shadows,
        access=access,
    )  # fmt: skip
    return given.scores(named(attack, changes)[0])


def fitting() -> list[str]:
    """The names in PAPERS of attacks on a classifier's outputs."""
    return [name for name, one in PAPERS.items() if isinstance(one.signal.probe, Posteriors)]


def named(attack: str | Attack, changes: Mapping[str, object] | None = None) -> tuple[Attack, str]:
    """An attack on a classifier's outputs and what its report calls it; ValueError for an unknown or another one."""
    if isinstance(attack, str) and attack not in PAPERS:
        check_name(attack, fitting(), "attack on a classifier's outputs")
    if not isinstance(attack, (str, Attack)):
        raise ValueError(f"attack must be a name or an Attack, but is {attack!r}: names are {fitting()}.")
    known = PAPERS[attack] if isinstance(attack, str) else attack
    if not isinstance(probe := known.signal.probe, Posteriors):
        called = repr(attack) if isinstance(attack, str) else type(attack).__name__
        raise ValueError(
            f"{called} asks {type(probe).__name__} of a model, which a classifier's outputs do not tell: audit the "
            f"model itself, or take one of {fitting()}."
        )
    chosen = change(known, changes, "attack") if changes else known
    return chosen, label(attack, chosen) if isinstance(attack, str) else repr(chosen)
