"""Whatever is a valid experiment survives YAML, and whatever field is misspelt is refused with the one that was meant.

The experiments are drawn from the classes themselves: every field, by its type, to the depth that the classes have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given, reject
from hypothesis import strategies as st

from hf_mia.audits.experiment import DATA, ELSEWHERE, experiment, mapping
from hf_mia.audits.plan import Experiment, Users
from hf_mia.config import read_yaml
from hf_mia.papers import PAPERS
from hf_mia.recipes.named import RECIPES

hints_of = cache(get_type_hints)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
NUMBERS = {int: st.integers(1, 9), float: st.sampled_from([0.25, 0.5, 1e-3, 3e-7]), bool: st.booleans(), str: TEXT}


def values(hint: object, default: object) -> st.SearchStrategy[object]:
    """What a field of a type may hold, as YAML would write it; a dataclass's as changes of the default."""
    if is_dataclass(default):
        return changes(default)
    origin, inner = get_origin(hint), get_args(hint)
    if hint is NoneType:
        return st.none()
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, UnionType):
        return st.one_of(values(one, None) for one in inner)
    if origin is tuple and inner[-1] is ...:
        return st.lists(values(inner[0], None), min_size=1, max_size=3)
    if origin is tuple:
        return st.tuples(*(values(one, None) for one in inner)).map(list)
    return NUMBERS[hint] if hint in NUMBERS else st.just(default)  # type: ignore[index]


def changes(value: object) -> st.SearchStrategy[object]:
    """Some fields of a dataclass with other values."""
    hints = hints_of(type(value))
    known = {field.name: getattr(value, field.name) for field in fields(value) if field.init and field.repr}  # type: ignore[arg-type]
    drawn = {name: values(hints[name], old) for name, old in known.items() if plain(hints[name], old)}
    return st.fixed_dictionaries({}, optional=drawn)


def plain(hint: object, default: object) -> bool:
    """Whether a value of a type can be written down: a dataclass that is there, or plain values all the way."""
    if is_dataclass(default):
        return True
    if inner := [one for one in get_args(hint) if one is not ...]:
        return get_origin(hint) is Literal or all(plain(one, None) for one in inner)
    return hint in NUMBERS or hint is NoneType


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    """Any experiment that a config can describe; what the classes refuse is not one."""
    kind = draw(st.sampled_from(sorted(DATA)))
    data = DATA[kind]
    recipes = sorted(name for name, recipe in RECIPES.items() if recipe.columns == data.columns)
    place = draw(st.sampled_from([*recipes, *ELSEWHERE]))
    attacks = sorted(name for name, attack in PAPERS.items() if data.takes(attack.signal.probe))
    some = st.lists(st.sampled_from(attacks), min_size=1, max_size=3, unique=True)
    config: dict[str, object] = {
        "data": {"kind": kind, **draw(changes(data))},  # type: ignore[dict-item]
        "split": draw(changes(Users())),
        "target": {"name": place, **draw(changes({**RECIPES, **ELSEWHERE}[place]))},  # type: ignore[dict-item]
        "shadows": {"count": draw(st.integers(2, 5)), "pool": draw(st.sampled_from(["own", "same"]))},
        "attacks": [{"name": name, **draw(changes(PAPERS[name]))} for name in draw(some)],  # type: ignore[dict-item]
        "trials": draw(st.integers(1, 3)),
        "fprs": draw(st.lists(st.floats(1e-6, 0.5), max_size=3)),
    }
    if draw(st.booleans()) and place not in ELSEWHERE:
        config["controls"] = draw(st.lists(st.sampled_from(["untrained", "swapped"]), unique=True))
    if draw(st.booleans()):
        recipe = draw(st.sampled_from(recipes))
        config["shadows"] = {**config["shadows"], "recipe": {"name": recipe, **draw(changes(RECIPES[recipe]))}}  # type: ignore[dict-item]
    try:
        return experiment(config)
    except ValueError:
        reject()


@given(made=experiments())
def test_an_experiment_survives_yaml(made: Experiment, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(yaml.safe_dump(mapping(made), sort_keys=False), encoding="utf-8")  # as a run folder holds it
    again = experiment(read_yaml(path))
    assert again == made
    assert mapping(again) == mapping(made)


def places(content: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where the fields of a config are: the way to each."""
    if isinstance(content, list):
        return [place for i, inner in enumerate(content) for place in places(inner, (*path, i))]
    if not isinstance(content, Mapping):
        return []
    return [place for name, inner in content.items() for place in ((*path, name), *places(inner, (*path, name)))]


def misspelt(content: object, path: tuple[str | int, ...], name: str) -> object:
    """A config with one field under another name."""
    if isinstance(content, list):
        return [misspelt(inner, path[1:], name) if i == path[0] else inner for i, inner in enumerate(content)]
    assert isinstance(content, Mapping)
    if len(path) == 1:
        return {name if key == path[0] else key: inner for key, inner in content.items()}
    return {key: misspelt(inner, path[1:], name) if key == path[0] else inner for key, inner in content.items()}


@given(made=experiments(), data=st.data())
def test_a_misspelt_field_is_refused_with_the_one_that_was_meant(made: Experiment, data: st.DataObject) -> None:
    config = mapping(made)
    way = data.draw(st.sampled_from([way for way in places(config) if way[-1] not in ("kind", "name")]))
    meant = str(way[-1])
    letter = data.draw(st.integers(0, len(meant) - 1))
    wrong = meant[:letter] + meant[letter] + meant[letter:]  # a letter twice
    given = misspelt(config, way, wrong)
    with pytest.raises(ValueError, match=rf"'{wrong}' is no field of .*did you mean '{meant}'\?") as caught:
        experiment(given)  # type: ignore[arg-type]
    assert "Known: [" in str(caught.value)
