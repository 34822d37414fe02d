"""What stands beside the figures: the same words on the console and on the card, from numbers alone."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from hf_mia.audits.remarks import read_remarks, remarks
from hf_mia.controls.overlap import Overlap
from hf_mia.controls.twins import Twins

TWINS, SET = Twins(1, 3, 20, (("a", "b"),)), {"attack": "loss", "p_value": 0.001, "false_alarms": 0.04}
OVERLAP = Overlap(0.125, None, 7, (10, 12), (10, 20))
SENTENCES = (
    "3 of 20 members have an equal or near-equal non-member, 1 an equal one: no attack can tell these apart.",
    "As one set the members score above the non-members with p = 0.001 by loss (dataset inference); of random halves "
    "of the non-members 4% have p < 0.05.",
    "12.5 % of a member's runs of 7 words also stand in a non-member's text, and n/a the other way round (10 and 12 "
    "texts, drawn at random).",
)


def written(**changes: object) -> dict[str, object]:
    told = {"near_duplicates": asdict(TWINS), "dataset_inference": SET, "ngram_overlap": asdict(OVERLAP), **changes}
    return dict(json.loads(json.dumps(told)))


def test_the_sentences_are_the_same_once_they_are_read_back() -> None:
    assert remarks(TWINS, SET, OVERLAP) == SENTENCES == read_remarks(written())


def test_what_is_not_known_is_not_said() -> None:
    assert remarks(None, None, None) == remarks(Twins(0, 0, 5), None, None) == read_remarks({}) == ()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("near_duplicates", {"exact": 1, "near": "<b>", "of": 2}, "near_duplicates.near must be a whole number"),
        ("near_duplicates", [1], "near_duplicates must be a mapping, not list"),
        ("dataset_inference", {"attack": "a", "p_value": 7, "false_alarms": 0}, "p_value must lie between 0 and 1"),
        ("dataset_inference", {"p_value": 0.5, "false_alarms": 0}, "must name an attack"),
        ("ngram_overlap", {**asdict(OVERLAP), "read": [1]}, "ngram_overlap.read must be two counts"),
        ("ngram_overlap", {**asdict(OVERLAP), "n": True}, "ngram_overlap.n must be a whole number"),
    ],
)
def test_what_an_audit_would_not_write_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_remarks(written(**{name: value}))
