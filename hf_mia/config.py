"""Strict YAML to frozen dataclasses and back: unknown fields and wrong types are errors that name the way out."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar, cast, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

T = TypeVar("T")
LONGEST = 1 << 20  # bytes of a config
DEEPEST = 64  # levels of a config: ours have seven


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
    """The safe loader, stricter: no aliases, by which a few lines unfold to gigabytes, no field twice, nothing deeper
    than `DEEPEST`, and a value that is not of its tag is a YAMLError. It also reads 1e-3 as a number, as YAML 1.2 does.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        place = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "it holds an alias (*name): write out what it stands for", place)
        if self.depth == DEEPEST:
            raise ComposerError(None, None, f"it is nested deeper than {DEEPEST} levels", place)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, count in Counter(key.value for key in keys).items():
            if count > 1:
                last = next(k for k in reversed(keys) if k.value == key)
                raise ConstructorError(None, None, f"{key!r} stands in it twice: leave one out", last.start_mark)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"{str(node.value)[:80]!r} is no {node.tag.split(':')[-1]} ({error})"
            raise ConstructorError(None, None, problem, node.start_mark) from error


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, object]:
    """A mapping from a YAML file of at most `LONGEST` bytes, by the strict loader; ValueError for anything else."""
    try:
        if path.stat().st_size > LONGEST:
            raise ValueError(f"config {path} has {path.stat().st_size:,} bytes, and at most {LONGEST:,} are read.")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506  a SafeLoader
    except UnicodeDecodeError as error:
        raise ValueError(f"config {path} is not UTF-8: save it as UTF-8 first.") from error
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"config {path} could not be read: {' '.join(str(error).split())}") from error
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
