"""Dataset inference: whether a model saw a whole set of texts, against a held-out set of the same distribution.

One text gives little away, a set of them much: a small shift of all scores shows in their mean (Maini et al. 2024,
arXiv 2406.06443). The one condition is that, had the model seen neither set, nothing would tell them apart: they must
be random halves of one collection. Sets that were collected apart differ anyhow, and then a small p-value proves
nothing; the control here cannot see that, only a blind baseline or an older model can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEVEL = 0.05  # a p-value below it counts as an alarm in the control
_BLOCK = 1_000_000  # random numbers at once: bounds the memory, does not change the result


@dataclass(frozen=True)
class DatasetInference:
    """The p-value of a suspect set, and how often sets that nobody suspects get one below `LEVEL`.

    `p_value` in (0, 1]. `false_alarms` is the share of `repeats` splits of the held-out set in random halves in which
    the same test calls one half seen; a sound test gives about `LEVEL` or less. `suspect` and `held_out` are the
    numbers of texts.
    """

    p_value: float
    false_alarms: float
    repeats: int
    suspect: int
    held_out: int


def infer(suspect: Floats, held_out: Floats, draws: int = 999, repeats: int = 200, seed: int = 0) -> DatasetInference:
    """Test whether the suspect texts' scores are larger on the whole, with the false-positive control beside it.

    suspect (n,), held_out (m,): one score a text, larger = more likely seen, by the same attack on the same model.
    ValueError for scores that are not finite, for no suspect text, fewer than 4 held-out ones, draws that cannot reach
    `LEVEL`, or repeats < 1.
    """
    suspect, held_out = _checked("suspect", suspect, 1), _checked("held_out", held_out, 4)
    if draws < 1 / LEVEL:
        raise ValueError(
            f"draws: must be at least {1 / LEVEL:.0f}, for no p-value is below 1 / (1 + draws), but is {draws}."
        )
    if repeats < 1:
        raise ValueError(f"repeats: must be at least 1 split of the held-out set, but is {repeats}.")
    own, *others = np.random.default_rng(seed).spawn(1 + repeats)
    alarms = sum(_p(*_halves(held_out, rng), draws, rng) < LEVEL for rng in others)
    return DatasetInference(_p(suspect, held_out, draws, own), alarms / repeats, repeats, suspect.size, held_out.size)


def permutation_p(suspect: Floats, held_out: Floats, draws: int = 999, seed: int = 0) -> float:
    """The one-sided p-value of a difference of means, by permutation: (1 + count) / (1 + draws).

    Counted are the random ways to call as many texts suspect whose mean is at least the suspect texts' own. If the two
    sets are exchangeable, it is at most a with a chance of at most a. ValueError for scores that are not finite, an
    empty set, or draws < 1. Source: Phipson and Smyth 2010.
    """
    suspect, held_out = _checked("suspect", suspect, 1), _checked("held_out", held_out, 1)
    if draws < 1:
        raise ValueError(f"draws: must be at least 1, but is {draws}: 999 resolve p-values of a thousandth.")
    return _p(suspect, held_out, draws, np.random.default_rng(seed))


def _p(suspect: Floats, held_out: Floats, draws: int, rng: np.random.Generator) -> float:
    scores = np.concatenate([suspect, held_out])
    scores = scores - scores.mean()  # the total is the same in every draw, so the suspects' sum orders as the means do
    observed = scores[: suspect.size].sum()
    rounding = 1e-12 * np.abs(scores).sum()  # sums of the same texts in another order are no smaller
    count = sum(
        int((scores[chosen].sum(axis=1) >= observed - rounding).sum())
        for chosen in _subsets(scores.size, suspect.size, draws, rng)
    )
    return (1 + count) / (1 + draws)


def _subsets(size: int, count: int, draws: int, rng: np.random.Generator) -> Iterator[Integers]:
    """Random subsets of `count` of `size` texts, in blocks (b, count)."""
    rows = max(1, _BLOCK // size)
    for start in range(0, draws, rows):
        numbers = rng.random((min(rows, draws - start), size))
        yield np.argpartition(numbers, count - 1, axis=1)[:, :count]


def _halves(scores: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    mixed = rng.permutation(scores)
    return mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]


def _checked(name: str, scores: Floats, least: int) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size < least:
        raise ValueError(
            f"{name}: must be one score a text, of shape (texts,) with at least {least}, but is of shape "
            f"{values.shape}."
        )
    if not np.isfinite(values).all():
        wrong = np.flatnonzero(~np.isfinite(values))
        raise ValueError(
            f"{name}: every score must be finite, but {wrong.size} are not, such as that at position {wrong[0]}: leave "
            "these texts out."
        )
    return values
