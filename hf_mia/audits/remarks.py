"""What stands beside an audit's figures, a sentence each: near-duplicates, shared words, the members as one set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from hf_mia.controls.overlap import Overlap
from hf_mia.controls.twins import Twins
from hf_mia.reports.inference import LEVEL

Json = Mapping[str, object]


def remarks(twins: Twins | None, found: Json | None, overlap: Overlap | None) -> tuple[str, ...]:
    """The sentences on what is known; of near-duplicates one where there are any. `found`: dataset inference."""
    said = []
    if twins is not None and twins.near:
        said.append(
            f"{twins.near} of {twins.of} members have an equal or near-equal non-member, "
            f"{twins.exact} an equal one: no attack can tell these apart."
        )
    if found is not None:
        said.append(
            f"As one set the members score above the non-members with p = {found['p_value']:.3g} by {found['attack']} "
            f"(dataset inference); of random halves of the non-members {found['false_alarms']:.0%} have p < {LEVEL}."
        )
    if overlap is not None:
        said.append(str(overlap))
    return tuple(said)


def read_remarks(told: Json) -> tuple[str, ...]:
    """The same sentences from what report.json tells; ValueError where that is not what an audit writes."""
    twins, found, overlap = (told.get(name) for name in ("near_duplicates", "dataset_inference", "ngram_overlap"))
    return remarks(
        None if twins is None else _twins(mapping(twins, "near_duplicates")),
        None if found is None else _set(mapping(found, "dataset_inference")),
        None if overlap is None else _overlap(mapping(overlap, "ngram_overlap")),
    )


def _twins(told: Json) -> Twins:
    exact, near, of = (_count(told.get(name), f"near_duplicates.{name}") for name in ("exact", "near", "of"))
    return Twins(exact, near, of)


def _set(told: Json) -> Json:
    shares = {name: _share(told.get(name), f"dataset_inference.{name}") for name in ("p_value", "false_alarms")}
    if None in shares.values() or not isinstance(told.get("attack"), str):
        raise ValueError(f"dataset_inference must name an attack and two shares, not {dict(told)!r}.")
    return {"attack": told["attack"], **shares}


def _overlap(told: Json) -> Overlap:
    members, others = (_share(told.get(name), f"ngram_overlap.{name}") for name in ("members", "non_members"))
    read, of = (_pair(told.get(name), f"ngram_overlap.{name}") for name in ("read", "of"))
    return Overlap(members, others, _count(told.get("n"), "ngram_overlap.n"), read, of)


def _pair(value: object, where: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{where} must be two counts, not {value!r}.")
    return _count(value[0], where), _count(value[1], where)


def _count(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{where} must be a whole number, 0 or more, not {value!r}.")
    return value


def _share(value: object, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{where} must lie between 0 and 1, not {value!r}.")
    return float(value)


def mapping(value: object, where: str) -> Json:
    """What report.json holds there, if it is a mapping; else a ValueError that names the place."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a mapping, not {type(value).__name__}.")
    return cast("Json", value)
