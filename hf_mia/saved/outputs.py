"""What classifiers said of units, as arrays: checked first, then shown to an attack as far as its access level goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hf_mia.core import Answers, Booleans, Evidence, Floats, Integers, Ragged, Signal
from hf_mia.probes.posteriors import Access, Posteriors, Shifts
from hf_mia.signals.classifier import SMALLEST, log_posteriors

Numbers = npt.NDArray[np.floating]

ROWS = 2**15  # at a time: what an attack makes of so many stays small, however many there are
CLOSE = 1e-3  # how far a row of probabilities may be from a sum of 1


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says of n units: logits (n, q, C) of q queries, float32 or float64, the true classes `labels` (n,),
    member (n,) as 1, 0 or NaN for unknown, and the units' names."""

    logits: Numbers = field(repr=False)
    labels: Integers = field(repr=False)
    member: Floats = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    def read(self, signals: Sequence[Signal], access: Access | None = None) -> list[Evidence]:
        """What each signal reads off as much of it as `access` shows, or else as the signal's own probe asks for.

        One pass over the units: what several signals read is worked out once.
        """
        probes = [_probe(signal, access) for signal in signals]
        rows: list[list[Floats]] = [[] for _ in signals]
        for start in range(0, len(self.names), ROWS):
            here = slice(start, start + ROWS)
            said = {probe: answers(probe, self.logits[here], self.labels[here]) for probe in set(probes)}
            for signal, probe, found in zip(signals, probes, rows, strict=True):
                found.append(signal.measure(said[probe]))
        once = np.ones((len(self.names), 1))
        features = [signal.fold(np.vstack(found), once) for signal, found in zip(signals, rows, strict=True)]
        return [Evidence(one, self.member, self.names, group=self.labels) for one in features]


def _probe(signal: Signal, access: Access | None) -> Posteriors:
    """How the signal asks, but for its queries, which have been made already."""
    assert isinstance(signal.probe, Posteriors)
    return replace(signal.probe, access=access or signal.probe.access, queries=Shifts())


def answers(probe: Posteriors, logits: Numbers, labels: Integers) -> Answers:
    """What the probe would answer of a model with these logits (rows, q, C), by the probe's own reduction, and, as far
    as that tells, its log-probabilities `logp`, which most signals read."""
    import torch

    said = probe.shown(torch.tensor(logits))
    shown = {name: tensor.flatten(1).numpy() for name, tensor in said.items()}
    shown |= {"label": labels[:, None], "count": np.full((len(labels), 1), logits.shape[2])}
    found = {name: _ragged(table) for name, table in shown.items()}
    return found if "predicted" in found else {**found, "logp": _ragged(log_posteriors(found))}


def outputs(
    labels: npt.ArrayLike,
    member: npt.ArrayLike | None,
    logits: npt.ArrayLike | None,
    probabilities: npt.ArrayLike | None,
    where: str = "",
    names: Sequence[str] | None = None,
) -> Outputs:
    """Outputs from what a user gives; ValueError that begins with `where` for anything that does not fit."""
    if (logits is None) == (probabilities is None):
        given = "both are" if logits is not None else "neither is"
        raise ValueError(f"{where}give logits or probabilities, and not both: {given} given. Logits tell more.")
    if logits is not None:
        found = _numbers(logits, where, "logits", names)
        _refuse_probabilities(found, where)
    else:
        found = _logs(_numbers(probabilities, where, "probabilities", names), where, names)
    n, classes = len(found), found.shape[2]
    if names is not None and len(names) != n:
        raise ValueError(f"{where}units must be a name for each of {n} rows, but are {len(names)}.")
    called = tuple(map(str, range(n) if names is None else names))
    return Outputs(found, _classes(labels, n, classes, where, names), _membership(member, n, where, names), called)


def _ragged(table: npt.NDArray[np.generic]) -> Ragged:
    return Ragged(table.ravel(), np.arange(len(table) + 1) * (table.size // len(table)))


def _numbers(given: npt.ArrayLike | None, where: str, name: str, names: Sequence[str] | None) -> Numbers:
    """Numbers (n, q, C), float32 as it is and all else as float64."""
    found = np.asarray(given)
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{where}{name} must be float16, float32 or float64, but are {found.dtype}: convert them.")
    if found.ndim not in (2, 3) or 0 in found.shape:
        raise ValueError(
            f"{where}{name} must be one row of classes a unit, (n, C), or a row for each of q queries, (n, q, C), but "
            f"are of shape {found.shape}."
        )
    if found.shape[-1] < 2:
        raise ValueError(
            f"{where}{name} must be of two classes or more, but are of 1, of which every model is sure: a binary "
            "classifier's one logit z is the two logits 0 and z."
        )
    found = found if found.ndim == 3 else found[:, None]
    if (wrong := ~np.isfinite(found).all(axis=(1, 2))).any():
        raise ValueError(
            f"{where}{name} must be finite, but are NaN or infinite in {_rows(wrong, names)}: compute them anew, in "
            "float32 where float16 overflows, or leave these units out of all arrays and say so."
        )
    return found if found.dtype == np.float32 else found.astype(np.float64, copy=False)


def _refuse_probabilities(logits: Numbers, where: str) -> None:
    if (logits >= 0).all() and (np.abs(logits.sum(axis=2, dtype=np.float64) - 1) <= CLOSE).all():
        raise ValueError(
            f"{where}logits must be what the model gives before its softmax, but every row is 0 or more and sums to 1, "
            "as probabilities do: pass them as probabilities=, or their logarithms as logits=. (Logits that do so by "
            "chance mean the same with 1 added.)"
        )


def _logs(found: Numbers, where: str, names: Sequence[str] | None) -> Floats:
    """Logits of probabilities: their logarithms, in which 0 counts as 2^-149."""
    total = found.sum(axis=2, dtype=np.float64)
    wrong = ((found < 0).any(axis=2) | (np.abs(total - 1) > CLOSE)).any(axis=1)
    if wrong.any():
        raise ValueError(
            f"{where}probabilities must be 0 or more and sum to 1 in each row, within {CLOSE}, but do not in "
            f"{_rows(wrong, names)}: pass what the model gives before its softmax as logits=."
        )
    return np.asarray(np.log(np.maximum(found.astype(np.float64), SMALLEST)), dtype=np.float64)


def _classes(given: npt.ArrayLike, n: int, classes: int, where: str, names: Sequence[str] | None) -> Integers:
    found = np.asarray(given)
    if found.shape != (n,):
        raise ValueError(f"{where}labels must be one class for each of {n} rows, but are of shape {found.shape}.")
    if found.dtype.kind not in "iu":
        raise ValueError(
            f"{where}labels must be whole numbers, 0 to {classes - 1}, but are {found.dtype}: number the classes in "
            "the order of the logits."
        )
    if (wrong := (found < 0) | (found >= classes)).any():
        raise ValueError(
            f"{where}labels must be 0 to {classes - 1}, for there are {classes} classes, but are "
            f"{np.unique(found[wrong])[:5].tolist()} in {_rows(wrong, names)}: number the classes from 0 in the order "
            "of the logits, and leave out units of no class."
        )
    return found.astype(np.int64, copy=False)


def _membership(given: npt.ArrayLike | None, n: int, where: str, names: Sequence[str] | None) -> Floats:
    """Membership (n,) as 1, 0 or NaN; None: unknown of all."""
    if given is None:
        return np.full(n, np.nan)
    found = np.asarray(given)
    if found.shape != (n,):
        raise ValueError(f"{where}member must be one value for each of {n} rows, but is of shape {found.shape}.")
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{where}member must be 1 or True, 0 or False, or NaN for unknown, but is {found.dtype}.")
    found = found.astype(np.float64)
    if (wrong := ~np.isnan(found) & (found != 0) & (found != 1)).any():
        raise ValueError(
            f"{where}member must be 1 or True, 0 or False, or NaN for unknown, but is "
            f"{np.unique(found[wrong])[:5].tolist()} in {_rows(wrong, names)}."
        )
    return found


def _rows(wrong: Booleans, names: Sequence[str] | None) -> str:
    """How many rows, and which: by their numbers from 0, or by their units' names."""
    rows = np.flatnonzero(wrong)
    shown = [names[row] for row in rows[:5]] if names is not None and len(names) == len(wrong) else rows[:5].tolist()
    return f"{len(rows)} of {len(wrong)} {'rows' if names is None else 'units'}, such as {shown}"
