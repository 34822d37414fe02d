"""The overlap of both sides' texts against a loop over all runs, and samples of it."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from test_twins import NEWS, naive_runs

from hf_mia.controls.overlap import Overlap, text_overlap
from hf_mia.core import Booleans, Pool


def pool(users: int, each: int, seed: int, columns: tuple[str, ...] = ("text",)) -> tuple[Pool, Booleans]:
    """Users who all cut pieces of 1 to 30 words out of the same few long texts."""
    rng = np.random.default_rng(seed)
    books = [rng.choice(NEWS, 300).tolist() for _ in range(3)]

    def piece() -> str:
        start = int(rng.integers(270))
        return " ".join(books[rng.integers(3)][start : start + rng.integers(1, 31)]).upper() + "!"

    records = Dataset.from_dict({column: [piece() for _ in range(users * each)] for column in columns})
    names = tuple(f"user {i}" for i in range(users))
    return Pool(records, rng.permutation(np.arange(users * each) % users), names), rng.random(users) < 0.5


def naive(ours: list[str], others: list[str]) -> float:
    there = {run for text in others for run in naive_runs(text, 7)}
    shares = [np.mean([run in there for run in runs]) for text in ours if (runs := naive_runs(text, 7))]
    return float(np.mean(shares))


@pytest.mark.parametrize("columns", [("text",), ("source", "target")])
def test_shares_are_those_of_a_loop(columns: tuple[str, ...]) -> None:
    made, member = pool(20, 4, seed=1, columns=columns)
    sides: dict[bool, list[str]] = {True: [], False: []}
    for row, unit in enumerate(made.unit):
        sides[bool(member[unit])] += [made.records[row][column] for column in columns]
    found = text_overlap(made, member, columns)
    assert found.members == pytest.approx(naive(sides[True], sides[False]))
    assert found.non_members == pytest.approx(naive(sides[False], sides[True]))
    assert 0.1 < naive(sides[True], sides[False]) < 0.9
    assert found.read == found.of == (len(sides[True]), len(sides[False]))


def test_a_sample_is_bounded_seeded_and_said() -> None:
    made, member = pool(40, 10, seed=2, columns=("source", "target"))
    whole, some = (text_overlap(made, member, ("source", "target"), most) for most in (10_000, 61))
    assert some.read == (60, 60)
    assert some.of == whole.of == whole.read
    assert some == text_overlap(made, member, ("source", "target"), 61)
    others = [text_overlap(made, member, ("source", "target"), 61, seed).members for seed in range(1, 5)]
    assert len({some.members, *others}) > 1
    assert "(60 and 60 texts, drawn at random)" in str(some)
    assert "drawn" not in str(whole)
    with pytest.raises(ValueError, match="most: must be at least 2"):
        text_overlap(made, member, ("source", "target"), 1)


def test_texts_that_are_too_short_say_nothing() -> None:
    made = Pool(Dataset.from_dict({"text": ["a b c"] * 3}), np.arange(3), ("x", "y", "z"))
    found = text_overlap(made, np.array([True, False, False]), ("text",))
    assert found == Overlap(None, None, 7, (1, 2), (1, 2))
    assert str(found).startswith("n/a of a member's runs of 7 words")
