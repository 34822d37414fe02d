"""Anything may be given as scores: finite numbers come out, or one refusal that names the argument."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mia.reports.membership import membership_inference

STRANGE = st.one_of(
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.integers(-(10**400), 10**400),
    st.sampled_from(
        [math.nan, math.inf, -math.inf, 10**400, -0.0, 5e-324, 1.7e308, 1j, b"1", np.float32(0.1), object()]
    ),
)
LISTS = st.recursive(
    STRANGE | st.lists(STRANGE, max_size=8) | st.lists(st.floats(-1, 1), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=10,
)
SCORES, MEMBER = [0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0]
ARGUMENTS = {
    "scores": LISTS,
    "member": LISTS,
    "fpr": LISTS,
    "confidence": STRANGE | LISTS,
    "threshold": STRANGE | LISTS,
}


def numbers_or_refusal(ask: Callable[[], dict[str, float]], name: str) -> None:
    """Finite plain numbers, or a ValueError or TypeError that names the argument, in a line one can read."""
    try:
        found = ask()
    except (ValueError, TypeError) as refusal:
        said = f"{type(refusal).__name__}: {refusal}"
        found = {}
    if not found:
        assert name in said, said
        assert len(said) < 3000
        return
    assert found["n"] == found["members"] + found["non_members"]
    for key, value in found.items():
        assert type(value) in (int, float), key
        assert math.isfinite(value), key


@pytest.mark.parametrize("name", ARGUMENTS)
@given(data=st.data())
def test_anything_as_an_argument(name: str, data: st.DataObject) -> None:
    given_ = {"scores": SCORES, "member": MEMBER, "fpr": [0.5], name: data.draw(ARGUMENTS[name])}
    numbers_or_refusal(lambda: membership_inference(**given_), name)  # type: ignore[arg-type]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=12), st.data())
def test_any_finite_scores_are_told(scores: list[float], data: st.DataObject) -> None:
    """Also the least and the largest that float64 holds, whose differences it does not."""
    member = [
        1,
        1,
        0,
        0,
        *data.draw(st.lists(st.sampled_from([0, 1]), min_size=len(scores) - 4, max_size=len(scores) - 4)),
    ]
    threshold = data.draw(st.none() | st.floats(allow_nan=False, allow_infinity=False))
    found = membership_inference(scores, member, [0.5, 0.0, 1.0], threshold=threshold)
    numbers_or_refusal(lambda: found, "nothing")
    assert 0 <= found["auc_low"] <= found["auc"] <= found["auc_high"] <= 1


@given(scores=st.lists(st.floats(-1, 1), max_size=6), member=st.lists(st.sampled_from([0, 1]), max_size=6))
def test_lengths_that_differ(scores: list[float], member: list[int]) -> None:
    numbers_or_refusal(lambda: membership_inference(scores, member, [0.5]), "" if scores else "scores")
