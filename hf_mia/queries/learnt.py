"""What a signal learnt from the attacker's pools, as arrays by name, and put back into one that has yet to learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hf_mia.core import Signal

Array = npt.NDArray[np.generic]
S = TypeVar("S", bound=Signal)


def learnt(signal: Signal) -> dict[str, Array]:
    """The arrays that `learn` filled in, in the signal and in those it wraps, by their dotted path.

    They are the fields that take no part in a signal's name: `field(repr=False, compare=False)`.
    """
    own = {name: value for name, value in _own(signal) if isinstance(value, np.ndarray)}
    for name, inner in _inner(signal):
        own |= {f"{name}.{path}": array for path, array in learnt(inner).items()}
    return own


def unlearnt(signal: Signal) -> list[str]:
    """The dotted paths of what the signal has yet to learn."""
    own = [name for name, value in _own(signal) if value is None]
    return own + [f"{name}.{path}" for name, inner in _inner(signal) for path in unlearnt(inner)]


def taught(signal: S, arrays: Mapping[str, Array]) -> S:
    """The signal with arrays that `learnt` gave put back; those that are missing stay unlearnt."""
    changes: dict[str, object] = {name: arrays[name] for name, _ in _own(signal) if name in arrays}
    inner = {name: taught(one, _under(arrays, name)) for name, one in _inner(signal)}
    for item in _fields(signal):
        value = getattr(signal, item.name)
        if isinstance(value, Signal):
            changes[item.name] = inner[item.name]
        elif isinstance(value, tuple) and any(isinstance(one, Signal) for one in value):
            changes[item.name] = tuple(inner.get(f"{item.name}.{i}", one) for i, one in enumerate(value))
    return replace(signal, **changes) if changes else signal  # type: ignore[type-var]


def _fields(signal: Signal) -> tuple[Field[object], ...]:
    return fields(signal) if is_dataclass(signal) else ()


def _own(signal: Signal) -> Iterator[tuple[str, object]]:
    for item in _fields(signal):
        if not item.compare and not item.repr:
            yield item.name, getattr(signal, item.name)


def _inner(signal: Signal) -> Iterator[tuple[str, Signal]]:
    """The signals that a signal wraps: a field, or an item of a field that is a tuple."""
    for item in _fields(signal):
        value = getattr(signal, item.name)
        if isinstance(value, Signal):
            yield item.name, value
        elif isinstance(value, tuple):
            yield from ((f"{item.name}.{i}", one) for i, one in enumerate(value) if isinstance(one, Signal))


def _under(arrays: Mapping[str, Array], name: str) -> dict[str, Array]:
    return {path.removeprefix(f"{name}."): array for path, array in arrays.items() if path.startswith(f"{name}.")}
