"""Classes from columns of names, numbers and ClassLabels; what repeats or is missing is left out and said."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset

from hf_mia.data.classes import classes_of, frequent, once, refuse_shared, with_classes


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        ([2, 0, None, 1, -5], [2, 0, -1, 1, -1], ["0", "1", "2"]),
        (["b", "a", None, "b"], [1, 0, -1, 1], ["a", "b"]),
        ([True, False, True], [1, 0, 1], ["0", "1"]),
    ],
    ids=["numbers", "names", "booleans"],
)
def test_a_column_gives_classes(values: list[object], labels: list[int], names: list[str]) -> None:
    found, called = classes_of(Dataset.from_dict({"kind": values}), "kind")
    assert (found.tolist(), called) == (labels, names)


def test_a_class_label_keeps_its_names_and_order() -> None:
    records = Dataset.from_dict({"y": [1, 0, 2, None]}).cast_column("y", ClassLabel(names=["z", "a", "m"]))
    found, names = classes_of(records, "y")
    assert (found.tolist(), names) == ([1, 0, 2, -1], ["z", "a", "m"])
    beside = with_classes(Dataset.from_dict({"x": [7, 8, 9]}), found[:3], names)
    assert beside.features["label"] == ClassLabel(names=["z", "a", "m"])
    assert beside["label"][:] == [1, 0, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 1.5], r"holds double, and classes must be names or whole numbers"),
        ([3, 3], r"fewer than two classes"),
        ([None, "a"], r"fewer than two classes"),
    ],
)
def test_a_column_that_holds_no_classes_is_refused(values: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classes_of(Dataset.from_dict({"kind": values}), "kind")
    with pytest.raises(ValueError, match=r"data\.label = 'other' is no column of the data: it has \['kind'\]"):
        classes_of(Dataset.from_dict({"kind": values}), "other")


def test_the_most_frequent_classes() -> None:
    labels = np.array([3, 3, 1, 1, 0, -1, 2, 2, 2])
    assert frequent(labels, 1).tolist() == (labels == 2).tolist()
    assert frequent(labels, 2).tolist() == np.isin(labels, [1, 2]).tolist()  # of 1 and 3, equally frequent, the first
    assert frequent(labels, 9).tolist() == (labels >= 0).tolist()


def test_repeated_and_empty_records_are_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    contents = [b"a", None, b"b", b"a", b"c", b"b"]
    wanted = np.array([True, True, True, True, False, True])
    with caplog.at_level(logging.WARNING):
        assert once(contents, wanted, "text").tolist() == [0, 2]
    assert "1 of 5 rows have no text, and are left out." in caplog.text
    assert "2 of 5 texts repeat an earlier one, and are left out." in caplog.text


def test_shared_records_are_refused_with_their_number() -> None:
    refuse_shared(0, "text")
    with pytest.raises(ValueError, match=r"^3 texts of the target's .* leave these texts out\.$"):
        refuse_shared(3, "text")
