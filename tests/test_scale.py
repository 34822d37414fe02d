"""Memory does not grow with the records: what `python tests/scale.py` measures at length, on few of them."""

from __future__ import annotations

import scale


def test_four_times_as_many_records_take_hardly_more_memory() -> None:
    """About 230 bytes a record are held, its unit's name, place and scores; its answers as objects would be far more.

    And the answers' files are mapped: of their bytes, none goes through read calls.
    """
    few, many = (scale.measure("logits", count) for count in (10_000, 40_000))
    assert many["peak"] / few["peak"] < 1.25
    assert max(few["read"], many["read"]) < scale.MAPPED


def test_evidence_of_a_run_folder_makes_no_object_a_number() -> None:
    """Of 45 numbers of 8 bytes a unit, with its report's JSON; objects, one a number, would take above 4,000 bytes."""
    few, many = (scale.measure("folder", count) for count in (20_000, 80_000))
    assert (many["peak"] - few["peak"]) / 60_000 < 2_500
    assert max(few["read"], many["read"]) < scale.MAPPED
