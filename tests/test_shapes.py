"""The shapes and dtypes that docstrings state, checked at run time for every named attack: answers to scores.

jaxtyping and beartype read the annotations here, so that the package itself needs neither.
"""

from __future__ import annotations

import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Float64, Int64, Shaped, TypeCheckError, jaxtyped
from test_invariants import EVERY, of

from hf_mia.core import Evidence, gather
from hf_mia.papers import PAPERS

Rows, Offsets = Float64[np.ndarray, "records d"], Int64[np.ndarray, "records+1"]
Features, Units = Float64[np.ndarray, "units f"], Float64[np.ndarray, "units"]
Flat = Shaped[np.ndarray, "total"]
checked = jaxtyped(typechecker=beartype)


@checked
def answer(rows: Rows, offsets: Offsets) -> None:
    """What `Signal.measure` makes of a chunk, and one of the answers that it was made of."""


@checked
def flat(values: Flat) -> None:
    """The numbers of a `Ragged`."""


@checked
def evidence(features: Features, member: Units, names: tuple[str, ...]) -> None:
    """What an attack sees of one model."""
    assert len(names) == len(features)


@checked
def scores(found: Units, features: Features) -> None:
    """What `Scorer.score` makes of evidence."""


def check(found: Evidence, width: int) -> None:
    evidence(found.features, found.member, found.names)
    assert found.features.shape[1] == width
    assert found.group is None or found.group.shape == found.member.shape
    for reference in found.references:
        check(reference, width)
        assert reference.names == found.names


@EVERY
def test_every_shape_is_the_one_that_is_stated(request: pytest.FixtureRequest, name: str) -> None:
    world, attack = of(name, request, "untrained"), PAPERS[name]
    records = world.target.pool.records
    signal = attack.signal.learn([world.ask(world.target.model, attack.signal.probe, records)])
    seen = 0
    for answers in world.ask(world.target.model, signal.probe, records):
        with np.errstate(all="ignore"):
            rows = signal.measure(answers)
        seen += len(rows)
        for column in answers.values():
            flat(column.values)
            answer(rows, column.offsets)
    assert seen == len(records)
    target, shadows = gather(attack, world.target, world.shadows, world.ask)
    for one in (target, *shadows):
        check(one, target.features.shape[1])
    scorer = attack.fit(shadows)
    scores(scorer.score(target), target.features)
    assert scorer.threshold is None or isinstance(float(scorer.threshold), float)


def test_a_shape_that_is_not_stated_is_found() -> None:
    with pytest.raises(TypeCheckError):
        scores(np.zeros((3, 1)), np.zeros((3, 2)))
    with pytest.raises(TypeCheckError):
        scores(np.zeros(3, np.float32), np.zeros((3, 2)))
    with pytest.raises(TypeCheckError):
        answer(np.zeros((3, 2)), np.zeros(3, np.int64))
