"""Whose membership a checkpoint's auditor gives: by name, in a file, by a column; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_mia.audits.members import members_of
from hf_mia.audits.targets import Checkpoint
from hf_mia.data.texts import Texts, load_texts

USERS = ["ann", "bob", "cy", "dee"]


@pytest.fixture
def data(tmp_path: Path) -> Texts:
    rows = [{"user": user, "text": f"text {i}", "in": int(user in "ann dee")} for i in range(2) for user in USERS]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Texts(path=str(tmp_path / "t.jsonl"))


def found(target: Checkpoint, data: Texts) -> list[str]:
    corpus = load_texts(data)
    return [corpus.names[i] for i in members_of(target, corpus, data)]


def test_the_three_ways_to_name_members_agree(data: Texts, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("dee\n\n  ann \r\ndee\n", encoding="utf-8")
    for target in (
        Checkpoint(members=("dee", "ann", "dee")),
        Checkpoint(members_file=str(tmp_path / "list.txt")),
        Checkpoint(members_column="in"),
    ):
        assert found(target, data) == ["ann", "dee"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Checkpoint(), r"exactly one.*none is set"),
        (Checkpoint(members=("ann",), members_column="in"), r"exactly one.*members.*members_column"),
        (Checkpoint(members=("ann", "bobb", "zz")), r"2 of 3 members.*\['bobb', 'zz'\].*did you mean 'bob'"),
        (Checkpoint(members_file="nowhere.txt"), r"target\.members_file = 'nowhere\.txt'"),
        (Checkpoint(members_column="out"), r"target\.members_column = 'out' is no column.*'in'"),
    ],
)
def test_members_that_do_not_fit_are_refused(data: Texts, target: Checkpoint, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(target, data)


def test_a_list_that_is_not_utf_8_is_said_to_be(data: Texts, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("jürgen\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        found(Checkpoint(members_file=str(tmp_path / "list.txt")), data)


def test_a_marked_user_that_was_left_out_is_no_unknown_user(tmp_path: Path) -> None:
    rows = [{"user": u, "text": f"text {i}", "in": int(u in "ann dee")} for i in range(2) for u in USERS][:-1]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert found(Checkpoint(members_column="in"), Texts(path=str(tmp_path / "t.jsonl"), least=2)) == ["ann"]
