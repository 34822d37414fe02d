"""Texts and users from every kind of file, and what is said where a file does not fit."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mia.core import Pool
from hf_mia.data.texts import Texts, load_texts, marked_users
from hf_mia.units import of_units, shuffled_share

ROWS = [("bob", "two words"), ("ann", "one"), ("bob", "Ünï 漢字 🙂"), ("ann", 'a, "quoted" text'), ("cy", "x y z")]
EXPECTED = {"ann": ["one", 'a, "quoted" text'], "bob": ["two words", "Ünï 漢字 🙂"], "cy": ["x y z"]}


def write(path: Path, rows: list[tuple[object, object]] = ROWS, user: str = "user", text: str = "text") -> Path:  # type: ignore[assignment]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({user: [u for u, _ in rows], text: [t for _, t in rows]}), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([(user, text), *rows])
    else:
        path.write_text("\n".join(json.dumps({user: u, text: t}) for u, t in rows), encoding="utf-8")
    return path


def by_user(pool: Pool) -> dict[str, list[str]]:
    texts = pool.records["text"]
    return {name: [t for t, u in zip(texts, pool.unit, strict=True) if u == i] for i, name in enumerate(pool.names)}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv"])
def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path, suffix: str) -> None:
    pool = load_texts(Texts(path=str(write(tmp_path / f"texts{suffix}"))))
    assert pool.names == ("ann", "bob", "cy")
    assert by_user(pool) == EXPECTED
    assert pool.records.column_names == ["text"]


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    write(tmp_path / "train-1.jsonl", ROWS[:2])
    write(tmp_path / "train-2.jsonl", ROWS[2:])
    assert by_user(load_texts(Texts(path=str(tmp_path)))) == EXPECTED


def test_columns_have_the_names_that_the_config_says(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", user="author", text="body")
    assert by_user(load_texts(Texts(path=str(path), user="author", text="body"))) == EXPECTED


def test_numbers_are_users_too(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", [(2, "a"), (10, "b"), (2, "c")])
    assert by_user(load_texts(Texts(path=str(path)))) == {"10": ["b"], "2": ["a", "c"]}


@pytest.mark.parametrize(("field", "value"), [("text", "body"), ("user", "author")])
def test_an_unknown_column_is_named_beside_those_there_are(tmp_path: Path, field: str, value: str) -> None:
    path = write(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=rf"data\.{field} = '{value}' is no column.*\['user', 'text'\]"):
        load_texts(Texts(path=str(path), **{field: value}))  # type: ignore[arg-type]


def test_empty_and_whitespace_texts_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*ROWS, ("ann", ""), ("bob", " \n\t "), ("dee", None), ("dee", "\u00a0")]
    with caplog.at_level(logging.WARNING):
        pool = load_texts(Texts(path=str(write(tmp_path / "t.jsonl", rows))))  # type: ignore[arg-type]
    assert by_user(pool) == EXPECTED  # dee, with no text at all, is no user
    assert "4 of 9 texts are empty" in caplog.text


def test_users_with_few_texts_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pool = load_texts(Texts(path=str(write(tmp_path / "t.parquet")), least=2))
    assert pool.names == ("ann", "bob")
    assert "1 of 3 users have fewer than data.least = 2" in caplog.text


@pytest.mark.parametrize("least", [1, 3])
def test_nothing_left_is_an_error(tmp_path: Path, least: int) -> None:
    rows = [("ann", " ")] if least == 1 else ROWS
    with pytest.raises(ValueError, match=rf"no user with {least} texts"):
        load_texts(Texts(path=str(write(tmp_path / "t.jsonl", rows)), least=least))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_a_file_that_is_not_utf_8_is_said_to_be(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    body = {".csv": "user,text\nann,f\xfcr\n", ".jsonl": '{"user": "ann", "text": "f\xfcr"}\n', ".txt": "f\xfcr\n"}
    path.write_bytes(body[suffix].encode("latin-1"))
    with pytest.raises(ValueError, match=r"not UTF-8: save it as UTF-8"):
        load_texts(Texts(path=str(path), user=None if suffix == ".txt" else "user", texts_per_user=1))


def test_a_missing_file_and_an_unknown_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.path = .*nowhere"):
        load_texts(Texts(path=str(tmp_path / "nowhere")))
    (tmp_path / "t.docx").write_text("x")
    with pytest.raises(ValueError, match=r"ends in '\.docx'.*\.parquet"):
        load_texts(Texts(path=str(tmp_path / "t.docx")))


def test_consecutive_texts_make_pseudo_users(tmp_path: Path) -> None:
    rows = [("", f"text {i}") for i in range(5)]
    rows.insert(2, ("", " "))
    path = write(tmp_path / "t.parquet", rows)  # type: ignore[arg-type]
    found = by_user(load_texts(Texts(path=str(path), user=None, texts_per_user=2)))
    assert list(found.values()) == [["text 0", "text 1"], ["text 2", "text 3"], ["text 4"]]
    assert len(load_texts(Texts(path=str(path), user=None, texts_per_user=2, least=2)).names) == 2
    with pytest.raises(ValueError, match=r"data\.texts_per_user"):
        load_texts(Texts(path=str(path), user=None))


def test_a_text_without_a_user_belongs_to_nobody(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [*ROWS, (None, "whose?"), (None, "and this?")])  # type: ignore[arg-type]
    assert by_user(load_texts(Texts(path=str(path)))) == EXPECTED  # or a ValueError that names data.user


def test_part_of_a_pool_keeps_users_whole(small_pool: Pool) -> None:
    users = np.array([7, 2, 9])
    part = of_units(small_pool, users)
    assert by_user(part) == {name: by_user(small_pool)[name] for name in sorted(small_pool.names[u] for u in users)}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 1.0])
def test_a_share_of_each_users_texts_is_rounded_up(small_pool: Pool, share: float) -> None:
    rows = shuffled_share(small_pool, share, seed=1)
    assert (np.bincount(small_pool.unit[rows]) == np.ceil(round(5 * share, 9))).all()
    np.testing.assert_array_equal(rows, shuffled_share(small_pool, share, seed=1))
    assert share == 1 or (rows != shuffled_share(small_pool, share, seed=2)).any()


def marked(tmp_path: Path, marks: list[object], least: int = 1) -> list[str]:
    path = tmp_path / "t.jsonl"
    path.write_text(
        "\n".join(json.dumps({"user": u, "text": t, "in": m}) for (u, t), m in zip(ROWS, marks, strict=True))
    )
    return marked_users(Texts(path=str(path), least=least), "in")


def test_members_are_marked_by_a_column(tmp_path: Path) -> None:
    assert marked(tmp_path, [1, 0, 1, 0, 1]) == ["bob", "cy"]
    assert marked(tmp_path, [True, False, True, False, False]) == ["bob"]


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([1, 0, 0, 0, 1], r"some texts of a user 1 and others 0, such as \[.*'bob'.*\]"),
        ([2, 0, 2, 0, 1], r"must be 1 or 0 in every row, but holds \['2'\]"),
        ([1, None, 1, 0, 1], r"must be 1 or 0.*None"),
        pytest.param(["yes", "no", "yes", "no", "no"], r"members_column"),
        pytest.param([0.9, 0.1, 0.9, 0.1, 0.1], r"members_column"),
    ],
)
def test_marks_that_say_nothing_are_refused(tmp_path: Path, marks: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        marked(tmp_path, marks)
