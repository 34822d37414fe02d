"""Faults on a whole audit: what is tried at length by `python tests/faults.py`, a few times over."""

from __future__ import annotations

import random
from pathlib import Path

import faults
import pytest

Whole = tuple[faults.Place, bytes, float]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("faults")
    return faults.undisturbed(faults.prepared(folder), folder / "whole")


def test_an_audit_killed_thrice_ends_as_one_that_was_not(whole: Whole, tmp_path: Path) -> None:
    """SIGKILL at random moments: the same report byte for byte, and nothing that was whole is made again."""
    place, expected, takes = whole
    tried = faults.kills(place.config, tmp_path, expected, takes, 3, random.Random(1))
    assert (tried.survived, tried.lost) == (3, 0)


@pytest.mark.parametrize("fault", ["a shard with a flipped bit", "a truncated model"])
def test_what_is_damaged_is_named_and_made_again_and_nothing_else(whole: Whole, tmp_path: Path, fault: str) -> None:
    tried = faults.damage(whole[0], tmp_path, fault)
    assert (tried.survived, tried.lost) == (1, 0), whole[0].log


def test_two_runs_on_one_cache_end_alike(whole: Whole, tmp_path: Path) -> None:
    place, expected, _ = whole
    assert faults.two_at_once(place.config, tmp_path, expected).survived


def test_the_table_adds_up() -> None:
    """A fault that was not survived is seen."""
    rows = [faults.Tried("one", 2, 1, 3), faults.Tried("other", 1, 1)]
    assert faults.table(rows).splitlines()[-1].split() == ["all", "3", "2", "3"]
