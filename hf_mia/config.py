"""Strict YAML to frozen dataclasses and back: unknown fields and wrong types are errors that name the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar, cast, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def change(value: T, changes: object, where: str) -> T:
    """A frozen dataclass with some fields changed, nested as the changes are nested.

    Raises ValueError for an unknown field (naming the nearest one), a wrong type, or a value that the class refuses.
    """
    if not isinstance(changes, Mapping):
        raise ValueError(f"{where} takes fields and values, but is {changes!r}.")
    known = {field.name for field in fields(value) if field.init and field.repr}  # type: ignore[arg-type]
    hints = get_type_hints(type(value))
    new = {}
    for key, given in changes.items():
        check_name(str(key), known, f"field of {where}")
        old, place = getattr(value, key), f"{where}.{key}"
        if isinstance(given, Mapping) and old is None:
            old = next((kind() for kind in get_args(hints[key]) if is_dataclass(kind) and isinstance(kind, type)), None)
        nested = is_dataclass(old) and isinstance(given, Mapping)
        new[key] = change(old, given, place) if nested else _checked(hints[key], given, place)
    try:
        return replace(value, **new)  # type: ignore[type-var]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def changes_of(value: object, default: object) -> dict[str, object]:
    """The fields in which a dataclass differs from another one of its class: what `change` would take."""
    found: dict[str, object] = {}
    for field in fields(value):  # type: ignore[arg-type]
        new, old = getattr(value, field.name), getattr(default, field.name)
        if field.compare and new != old:
            found[field.name] = changes_of(new, old) if is_dataclass(old) and type(new) is type(old) else new
    return found


def named(table: Mapping[str, T], spec: object, where: str, key: str = "name") -> T:
    """An entry of a table by its name, or with changes: `{name: auditmi, signal: {top: 10}}`; `key` holds the name."""
    if isinstance(spec, str):
        spec = {key: spec}
    if not isinstance(spec, Mapping) or key not in spec:
        raise ValueError(
            f"{where} takes a {key}, or fields with a `{key}`, but is {spec!r}: {key}s are {sorted(table)}."
        )
    check_name(str(spec[key]), table, where)
    changes = {name: value for name, value in spec.items() if name != key}
    return change(table[str(spec[key])], changes, where)


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Raise ValueError with the nearest known name and the list unless the name is known."""
    names = sorted(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ValueError(f"{name!r} is no {what}{f': did you mean {near[0]!r}' if near else ''}? Known: {names}.")


class Loader(yaml.SafeLoader):
    """The safe loader, which also reads 1e-3 as a number, as YAML 1.2 does."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, object]:
    """A mapping from a YAML file, by the safe loader."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506  a SafeLoader
    except UnicodeDecodeError as error:
        raise ValueError(f"config {path} is not UTF-8: save it as UTF-8 first.") from error
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"config {path} could not be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"config {path} must hold fields and values, but holds {type(content).__name__}.")
    return content


def override(config: dict[str, object], overrides: Iterable[str]) -> dict[str, object]:
    """A config with `path.to.field=value` overrides put in; values are YAML."""
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"override {item!r} must be FIELD=VALUE, such as target.epochs=5.")
        try:
            value = yaml.load(text, Loader)  # noqa: S506  a SafeLoader
        except yaml.YAMLError as error:
            raise ValueError(f"override {item!r} is not YAML after the `=`: {error}") from error
        config = _put(config, path.split("."), value, item)
    return config


def _put(config: object, path: list[str], value: object, item: str) -> dict[str, object]:
    if isinstance(config, str):  # `target: lstm` is short for `target: {name: lstm}`
        config = {"name": config}
    if config is not None and not isinstance(config, Mapping):
        raise ValueError(f"override {item!r} goes into {config!r}, which has no fields.")
    old = dict(config or {})
    return {**old, path[0]: value if len(path) == 1 else _put(old.get(path[0]), path[1:], value, item)}


def _checked(hint: object, value: object, where: str) -> object:
    value = _tuples(value)
    if isinstance(hint, type) and hint.__module__.startswith("hf_mia"):
        raise ValueError(f"{where} = {value!r} must be fields and values, such as {{field: value}}.")
    try:
        return cast(object, TypeAdapter(hint).validate_python(value, strict=True))  # type: ignore[arg-type]
    except ValidationError as error:
        reasons = "; ".join(sorted({problem["msg"] for problem in error.errors()}))
        raise ValueError(f"{where} = {value!r} has the wrong type: {reasons}.") from error


def _tuples(value: object) -> object:
    """YAML's lists are our tuples, in each other too."""
    return tuple(_tuples(inner) for inner in value) if isinstance(value, (list, tuple)) else value
