"""What a text becomes before all may read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_mia.publish.published import changed, reduced, without_places


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/data/texts.jsonl", "texts.jsonl"),
        ("/home/ann/folder/", "folder"),
        ("~/data/x.csv", "x.csv"),
        ("C:\\Users\\ann\\x.csv", "x.csv"),
        ("\\\\host\\share\\x.csv", "x.csv"),
        ("org/name", "org/name"),
        ("data/texts.jsonl", "data/texts.jsonl"),
        ("a user's texts / a day", "a user's texts / a day"),
        ("https://host/v1", "https://host/v1"),
        ("https://ann:secret@host:8000/v1?key=x#y", "https://host:8000/v1"),
        ("see https://a@host/ and /tmp", "see https://host/ and /tmp"),
        ("hf_" + "aB3" * 8, "***"),
        ("Bearer sk-" + "aB3-" * 8 + "x", "Bearer ***"),
        ("HF_TOKEN", "HF_TOKEN"),
        ("hf_mia", "hf_mia"),
        ("/", "***"),
        ("", ""),
    ],
)
def test_places_and_secrets_are_reduced(text: str, expected: str) -> None:
    assert reduced(text) == expected
    assert reduced(expected) == expected  # a second time changes nothing


def test_secrets_of_the_environment_and_the_home_are_struck_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "correct horse battery")
    monkeypatch.setenv("HF_TOKEN", "of no known form")
    monkeypatch.setenv("SHORT_KEY", "a")
    assert reduced("say correct horse battery, a b, of no known form") == "say ***, a b, ***"
    assert reduced(f"in {Path.home()}/x") == "in ~/x"


def test_what_names_units_stays_and_what_changed_is_named() -> None:
    given = {"members": ["/a/b"], "data": {"path": "/a/b", "x": 1}, "rows": ["/c/d", 2.5, None], "control": "/e/f"}
    assert without_places(given) == {
        "members": ["/a/b"], "data": {"path": "b", "x": 1}, "rows": ["d", 2.5, None], "control": "/e/f",
    }  # fmt: skip
    assert list(changed(given)) == ["data.path", "rows"]
