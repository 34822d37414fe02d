"""How exposed each unit is: its p-value against known non-members, and how often its decision flips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.core import Attack, Booleans, Evidence, Floats, Integers
from hf_mia.reports.estimates import checked
from hf_mia.reports.report import Report

if TYPE_CHECKING:
    import pyarrow as pa

LEAST = 4  # shadows that can be halved and compared
_ATTEMPTS = 10  # halves drawn for each that is asked for, where an attack refuses some


@dataclass(frozen=True, eq=False)
class Flips:
    """The share of draws (units,) in which a unit's decision was another than with all shadows, and their number."""

    rate: Floats = field(repr=False)
    draws: int


def p_values(scores: Floats, member: Booleans) -> Floats:
    """How unusual each unit's score is among non-members': one-sided conformal p-values (units,) float64.

    (1 + the non-members, other than the unit itself, with at least its score) / (1 + all of these). A non-member's is
    at most a with a chance of at most a. scores (units,), member (units,) bool; O(units log units). ValueError as in
    `checked`. Source: Vovk, Gammerman and Shafer 2005.
    """
    scores, member = checked(scores, member)
    others = np.sort(scores[~member])
    above = others.size - np.searchsorted(others, scores, side="left")
    return np.asarray((1 + above - ~member) / (1 + others.size - ~member), dtype=np.float64)


def q_values(p: Floats) -> Floats:
    """Benjamini and Hochberg's adjusted p-values (units,): the smallest false-discovery rate that takes in a unit.

    With all units of a report, at most a share q of those whose q-value is at most q are non-members.
    """
    from scipy.stats import false_discovery_control  # type: ignore[import-untyped, unused-ignore]

    return np.asarray(false_discovery_control(p), dtype=np.float64)


def exposures(report: Report, group: Integers | None = None, flips: Flips | None = None) -> pa.Table:
    """One row a unit, the highest score first and ties by name, as a table for Parquet.

    Columns: unit (string), score, p_value, q_value (float64), group (int64; null without groups), member (bool),
    decision (bool; null without a threshold), flip_rate (float64; null without flips). group (units,) and flips are in
    the order of the report's units. ValueError for other lengths.
    """
    import pyarrow as pa

    units = len(report.units)
    for name, given in (("group", group), ("flips", None if flips is None else flips.rate)):
        if given is not None and given.shape != (units,):
            raise ValueError(
                f"{name}: must be one value for each of the report's {units} units, not of shape {given.shape}. Give "
                "what belongs to the same evidence."
            )
    order = np.array(sorted(range(units), key=lambda i: (-report.scores[i], report.units[i])), dtype=np.int64)
    called = None if report.threshold is None else report.scores >= report.threshold
    p = p_values(report.scores, report.member)

    def column(values: Floats | Integers | Booleans | None, kind: pa.DataType) -> pa.Array:
        return pa.nulls(units, kind) if values is None else pa.array(values[order], kind)

    columns = {
        "unit": pa.array([report.units[i] for i in order], pa.string()),
        "score": column(report.scores, pa.float64()),
        "p_value": column(p, pa.float64()),
        "q_value": column(q_values(p), pa.float64()),
        "group": column(group, pa.int64()),
        "member": column(report.member, pa.bool_()),
        "decision": column(called, pa.bool_()),
        "flip_rate": column(None if flips is None else flips.rate, pa.float64()),
    }
    return pa.table(columns)


def flips(
    attack: Attack, target: Evidence, shadows: Sequence[Evidence], draws: int = 10, seed: int = 0
) -> Flips | None:
    """How much decisions hang on which shadows the attacker happens to have: fits to random halves against all.

    A half is at least `attack.least` shadows; an attack that compares loses the same shadows among its references.
    Where shadows come in complementary pairs, pairs are drawn, so that each unit keeps references of both sides. A half
    that the attack refuses is drawn anew, up to 10 times `draws` in all. Nothing is asked of a model again. None where
    the attack chooses no threshold, there are fewer than 4 shadows, or no half would do. ValueError where references
    are not one a shadow, or draws < 1.
    """
    if draws < 1:
        raise ValueError(f"draws: must be at least 1, not {draws}. 10 tell shares to a tenth.")
    _check_references(target, shadows)
    decided = _decide(attack, target, shadows) if len(shadows) >= LEAST else None
    if decided is None:
        return None
    changed, counted = np.zeros(decided.size), 0
    for kept in _halves(target, len(shadows), attack.least, draws * _ATTEMPTS, seed):
        try:
            found = _decide(attack, _without(target, kept), [_without(shadows[j], kept, j) for j in kept])
        except ValueError:  # such as a unit without a reference that saw it
            continue
        if found is not None:
            changed, counted = changed + (found != decided), counted + 1
        if counted == draws:
            break
    return Flips(changed / counted, counted) if counted else None


def _decide(attack: Attack, target: Evidence, shadows: Sequence[Evidence]) -> Booleans | None:
    scorer = attack.fit(shadows)
    return None if scorer.threshold is None else np.asarray(scorer.score(target) >= scorer.threshold, dtype=np.bool_)


def _without(evidence: Evidence, kept: Sequence[int], own: int | None = None) -> Evidence:
    """Evidence whose references are the kept shadows: a shadow's (`own`) are all others in order, a target's all."""
    if not evidence.references:
        return evidence
    places = [i - (own is not None and i > own) for i in kept if i != own]
    return replace(evidence, references=tuple(evidence.references[place] for place in places))


def _halves(target: Evidence, shadows: int, least: int, count: int, seed: int) -> Iterator[list[int]]:
    """Random halves of the shadows, in order: half of the complementary pairs, where there are only such."""
    rng = np.random.default_rng(seed)
    blocks = _pairs(target) or [(shadow,) for shadow in range(shadows)]
    size = max((len(blocks) + 1) // 2, -(-least // len(blocks[0])))
    if size < len(blocks):
        for _ in range(count):
            chosen = rng.choice(len(blocks), size, replace=False)
            yield sorted(shadow for block in chosen for shadow in blocks[block])


def _pairs(target: Evidence) -> list[tuple[int, ...]]:
    """The references in pairs of which each unit was in exactly one; none where some reference has no such partner."""
    open_: dict[bytes, int] = {}
    found: list[tuple[int, ...]] = []
    for i, reference in enumerate(target.references):
        partner = open_.pop((1 - reference.member).tobytes(), None)
        if partner is None:
            open_[reference.member.tobytes()] = i
        else:
            found.append((partner, i))
    return found if 2 * len(found) == len(target.references) else []


def _check_references(target: Evidence, shadows: Sequence[Evidence]) -> None:
    expected = [len(shadows), *[len(shadows) - 1] * len(shadows)]
    given = [len(one.references) for one in (target, *shadows)]
    if any(given) and given != expected:
        raise ValueError(
            f"target, shadows: references must be all other shadows in order, {expected} of them, but are {given}: "
            "give what `gather` gathered."
        )
