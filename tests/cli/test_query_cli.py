"""`hf-mia query` as a person meets it: verdicts and ranks on a console, JSON, files of users, one-line errors."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from hf_mia.cli.main import app
from hf_mia.cli.query import print_answers, read_file, units
from hf_mia.data.images import Images
from hf_mia.data.texts import Texts
from hf_mia.queries.opened import opened
from hf_mia.queries.query import query, user


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["query", *(str(argument) for argument in arguments)])


def plain(text: str) -> str:
    return " ".join(text.split())


def test_texts_of_one_user(run_folder: Path, tmp_path: Path) -> None:
    done = call(run_folder, "--text", "w001 w002", "--text", "w003 unheard", "--fpr", "0.1", "--cache", tmp_path / "c")
    assert done.exit_code == 0, done.output
    shown = plain(done.stdout)
    for words in (
        "you: ",
        " at FPR 0.1",
        "among 16 users that the audit knows to be no members, each read from 2 texts.",
        "you [1]: ",
        "you [2]: ",
        "each read from 1 text.",
        " of 16 non-members score as high or higher.",
        "unheard?·",
        "Asked of target by auditmi: evidence, not proof",
    ):
        assert words in shown
    assert not (tmp_path / "c").exists()


def test_json_holds_what_the_console_shows(run_folder: Path) -> None:
    done = call(run_folder, "--text", "w001 w002", "--attack", "auditmi-relative", "--fpr", "0.2", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["attack"] == "auditmi-relative"
    assert found["fpr"] == 0.2
    assert found["cannot_be_asked"] == {}
    (answer,) = found["answers"]
    (expected,) = query(opened(run_folder), "auditmi-relative").ask([user("you", ["w001 w002"])], 0.2)
    assert answer == expected.to_dict()
    assert [word["text"] for word in answer["words"]] == ["w001", "w002"]
    assert set(answer["words"][0]) == {"text", "rank", "logprob", "begins", "known"}


def test_a_file_of_several_users(run_folder: Path, tmp_path: Path) -> None:
    rows = [{"user": "ann", "text": "w001"}, {"user": "bob", "text": "w002 w003"}, {"user": "ann", "text": "w004"}]
    (tmp_path / "users.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    done = call(run_folder, "--file", tmp_path / "users.jsonl", "--fpr", "0.1")
    assert done.exit_code == 0, done.output
    shown = plain(done.stdout)
    assert "ann [2]: " in shown
    assert "bob: " in shown
    assert "2 units were asked about: of as many non-members, about 0.2 would be called consistent" in shown


def test_in_a_terminal_low_ranks_are_coloured(run_folder: Path) -> None:
    made = query(opened(run_folder))
    answers = made.ask([user("[red]x", ["w001 w002 w003 w004 w005 w006 w007 w008"])], 0.1)
    file = io.StringIO()
    print_answers(made, answers, 0.1, Console(file=file, force_terminal=True, width=100, highlight=False))
    assert "\x1b[" in file.getvalue()
    assert "[red]x" in file.getvalue()  # a name is no markup
    file = io.StringIO()
    print_answers(made, answers, 0.1, Console(file=file, width=60, highlight=False))
    assert "\x1b[" not in file.getvalue()
    assert max(map(len, file.getvalue().splitlines())) <= 60


def test_files_are_read_by_their_kind(tmp_path: Path) -> None:
    columns = {"text": ["a", "b", None, "c"], "user": [2, 1, 1, 2], "body": ["x", "y", "z", "w"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (tmp_path / "t.txt").write_text("one\n\ntwo\n")
    found = read_file(tmp_path / "t.parquet", Texts())
    assert found == [user("2", ["a", "c"]), user("1", ["b"])]
    other = read_file(tmp_path / "t.parquet", Texts(text="body", user="text"))
    assert other == [user("a", ["x"]), user("b", ["y"]), user("c", ["w"])]
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "one.parquet")
    assert read_file(tmp_path / "one.parquet", Texts()) == [user("one", ["a", "b"])]
    assert read_file(tmp_path / "t.txt", Texts()) == [user("t", ["one", "", "two"])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"text\na\n", "must end in .txt, .jsonl, .parquet"),
        ("t.txt", b"\xff\xfe", "could not be read"),
        ("t.jsonl", b"{", "could not be read"),
        ("t.jsonl", b"[1]\n", "every line must be an object"),
        ("t.jsonl", b'{"body": "a"}\n', "has no column 'text': it has ['body']"),
        ("t.parquet", b"nothing", "could not be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    run_folder: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = call(run_folder, "--file", tmp_path / name)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing is asked: give --text, --file or --image"),
        (("--image", "x.png"), "this run is about texts, and images were given: take --text."),
        (("--file", "nothing.txt"), "is no file"),
        (("--text", "w001", "--fpr", "5"), "write five percent as 0.05"),
        (("--text", "w001", "--attack", "auditmy"), "did you mean 'auditmi'?"),
        (("--text", "w001", "--model", "nowhere/at-all"), "nowhere/at-all"),
    ],
)
def test_bad_input_ends_in_one_line(run_folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call(run_folder, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""


def test_what_is_no_run_ends_in_one_line(tmp_path: Path) -> None:
    done = call(tmp_path, "--text", "w001")
    assert done.exit_code == 2
    assert "has no config.yaml: name a folder that `hf-mia audit` wrote" in done.stderr


def test_a_run_of_images_takes_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this run is about images, and texts were given: take --image"):
        units(Images(), ["a"], None, [])
    (tmp_path / "x.png").write_bytes(b"any")
    assert [unit.name for unit in units(Images(), [], None, [tmp_path / "x.png"])] == [str(tmp_path / "x.png")]
