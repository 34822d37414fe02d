"""Scores and membership to a flat dictionary, against counting by hand; and every kind of bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_mia import membership_inference
from hf_mia.reports.membership import flat
from hf_mia.reports.report import Report

SCORES = [0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1]
MEMBER = [1, 1, 1, 0, 0, 0, 0]


def test_the_figures_are_those_of_counting() -> None:
    found = membership_inference(SCORES, MEMBER, fpr=[0.25, 0.01], threshold=0.4)
    assert found["auc"] == pytest.approx(11 / 12)  # of 12 pairs only 0.4 against 0.7 is out of order
    assert found["tpr@0.25"] == 1.0  # one false alarm allowed: the bar is 0.3
    assert "tpr@0.01" not in found  # four non-members cannot tell a rate of one percent
    assert found["accuracy"] == pytest.approx(6 / 7)
    assert found["precision"] == pytest.approx(3 / 4)
    assert found["recall"] == 1.0
    assert found["advantage"] == pytest.approx(1 - 1 / 4)
    assert (found["n"], found["members"], found["non_members"], found["threshold"]) == (7, 3, 4, 0.4)
    figures = [name for name in found if f"{name}_low" in found]
    assert figures == ["auc", "accuracy", "precision", "recall", "tpr@0.25", "advantage"]
    assert all(found[f"{name}_low"] <= found[name] <= found[f"{name}_high"] for name in figures)


def test_what_is_not_known_is_left_out_and_every_value_is_a_number() -> None:
    plain = membership_inference(SCORES, MEMBER)
    assert set(plain) == {"auc", "auc_low", "auc_high", "n", "members", "non_members"}
    nobody = membership_inference(SCORES, MEMBER, threshold=2.0)
    assert "precision" not in nobody  # nobody is called a member
    assert nobody["recall"] == 0.0
    for found in (plain, nobody):
        assert {type(value) for value in found.values()} <= {int, float}
        assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_it_is_the_report() -> None:
    report = Report("a", np.array(SCORES), np.array(MEMBER) == 1, tuple("abcdefg"), 0.4, (0.25,), 0.9)
    assert membership_inference(SCORES, MEMBER, [0.25], 0.9, 0.4) == flat(report)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda values: np.array(values, dtype=np.float32)])
def test_any_list_of_numbers_will_do(kind) -> None:
    scores = [0.75, 0.5, 0.25, 0.0]
    expected = membership_inference(scores, [1, 1, 0, 0])
    assert membership_inference(kind(scores), kind([1, 1, 0, 0])) == expected
    assert membership_inference(kind(scores), kind([True, True, False, False])) == expected


def test_constant_scores_tell_nothing() -> None:
    found = membership_inference([0.5] * 6, [1, 1, 1, 0, 0, 0], fpr=[0.4])
    assert found["auc"] == 0.5
    assert found["tpr@0.4"] == 0.0  # tied units enter together, and all are too many
    assert found["auc_low"] < 0.3
    assert found["auc_high"] > 0.7


BAD = {
    "one class": ([0.1, 0.2, 0.3], [1, 1, 1], "at least 2 of each class are needed; got 3 members and 0"),
    "a single member": ([0.1, 0.2, 0.3], [1, 0, 0], "at least 2 of each class are needed; got 1 members"),
    "NaN scores": ([0.1, float("nan"), 0.3, 0.4], [1, 1, 0, 0], "every score must be finite; got nan"),
    "infinite scores": ([0.1, float("inf"), 0.3, 0.4], [1, 1, 0, 0], "every score must be finite; got inf"),
    "None as a score": ([0.1, None, 0.3, 0.4], [1, 1, 0, 0], "scores: must be numbers, but position 1 holds None"),
    "strings as scores": (["0.1", "0.2"], [1, 0], "scores: must be numbers, but position 0 holds '0.1'"),
    "lengths that differ": ([0.1, 0.2, 0.3], [1, 0], r"one value a score.*\(2,\) for scores of shape \(3,\)"),
    "strings as labels": ([0.1, 0.2], ["1", "0"], "member: must be numbers, but position 0 holds '1'. Write 1"),
    "names as labels": ([0.1, 0.2], ["in", "out"], "member: must be numbers, but position 0 holds 'in'. Write 1"),
    "labels -1/+1": ([0.1, 0.2, 0.3, 0.4], [1, -1, 1, -1], "but position 1 holds -1. Write 1 .* in place of -1 and"),
    "labels in between": ([0.1, 0.2, 0.3], [1, 0.5, 0], "but position 1 holds 0.5"),
    "None as a label": ([0.1, 0.2], [1, None], "member: must be numbers, but position 1 holds None.*is unknown"),
    "NaN as a label": ([0.1, 0.2], [1.0, float("nan")], "but position 1 holds nan.*is unknown"),
    "nothing": ([], [], "scores: there are none"),
    "None": (None, [1, 0], "scores: must be a list, one number a unit, not None"),
    "a table": ([[0.1, 0.2], [0.3, 0.4]], [1, 0], "one value a score"),
}


@pytest.mark.parametrize(("scores", "member", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(scores: object, member: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        membership_inference(scores, member)  # type: ignore[arg-type]


def test_bad_settings_are_refused() -> None:
    for change, message in (
        ({"fpr": 0.01}, r"fpr: must be a list of rates, not 0.01. Write \[0.01\]"),
        ({"fpr": [2]}, "fpr: must lie between 0 and 1, not 2"),
        ({"confidence": 95}, "confidence: must lie between 0 and 1, not 95"),
        ({"threshold": float("nan")}, "threshold: must be finite, not nan"),
    ):
        with pytest.raises(ValueError, match=message):
            membership_inference(SCORES, MEMBER, **change)  # type: ignore[arg-type]
