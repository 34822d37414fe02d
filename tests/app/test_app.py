"""The page by program: the same answers as the library's, its messages, its limits, nothing left of what is sent."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import worlds
import yaml

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from datasets import Dataset
from gradio_client import Client, handle_file
from typer.testing import CliRunner

from hf_mia.app.blocks import filled, launched, page, start
from hf_mia.app.deadline import GivenUp, watched
from hf_mia.app.embedded import IMAGE, TEXT, Embedded, examples, pictures
from hf_mia.app.hub_model import checked_id
from hf_mia.app.limits import Jobs, Limits
from hf_mia.app.shelf import Shelf
from hf_mia.app.shown import spoken
from hf_mia.app.text_tab import warm
from hf_mia.app.uploads import scores_of
from hf_mia.audits.experiment import experiment, mapping
from hf_mia.cli.main import app
from hf_mia.models.language import language_model
from hf_mia.probes.tokens import Tokens
from hf_mia.progress import Check
from hf_mia.queries.opened import opened
from hf_mia.queries.query import Answer, picture, query, user
from hf_mia.queries.words import Word, words
from hf_mia.reports.membership import membership_inference
from hf_mia.runner import answers_of

LIMITS = Limits(characters=2000, texts=20, upload=1 << 20, rows=1000, pixels=10_000, seconds=240)
TEXTS = ["w001 w002 w003", "w004 <b>w005</b> w006"]


@dataclass(frozen=True)
class Visited:
    """A page that is served, a client of it, and where the server keeps uploads."""

    client: Client
    url: str
    temporary: Path

    def ask(self, *given: object) -> tuple[dict[str, object], str]:
        return cast("tuple[dict[str, object], str]", self.client.predict(*given, api_name="/ask_texts"))

    def judge(self, *given: object) -> tuple[dict[str, float], str, str]:
        return cast("tuple[dict[str, float], str, str]", self.client.predict(*given, api_name="/judge_scores"))


@pytest.fixture(scope="module")
def visited(run_folder: Path, image_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visited]:
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        shelf = Shelf(folder / "cache")
        shelf.add("words", run_folder)
        shelf.add("pictures", image_run)
        blocks = page(shelf, LIMITS)
        url = launched(blocks, LIMITS, "127.0.0.1", None, wait=False)
        yield Visited(
            Client(url, verbose=False, download_files=folder / "client", httpx_kwargs={"timeout": 240}),
            url,
            folder / "uploads",
        )
        blocks.close()


def left(visited: Visited) -> list[Path]:
    """What the server still holds of uploads. (Gradio makes an empty file for each, without a name or content.)"""
    return [path for path in files(visited.temporary) if path.stat().st_size]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_endpoints_are_named_and_documented(visited: Visited) -> None:
    told = cast("dict[str, dict[str, object]]", visited.client.view_api(return_format="dict"))["named_endpoints"]
    assert set(told) == {"/ask_texts", "/ask_image", "/judge_scores", "/prepare_images"}
    for endpoint in told.values():
        assert len(str(cast("dict[str, object]", endpoint)["description"])) > 40


@pytest.mark.parametrize("attack", worlds.ASKED)
def test_an_answer_is_the_librarys(visited: Visited, run_folder: Path, attack: str) -> None:
    told, shown = visited.ask("words", attack, "\n \n".join(TEXTS), 0.1)
    (expected,) = query(opened(run_folder), attack).ask([user("you", TEXTS)], 0.1)
    assert told == {"audit": "words", "target": "target", "attack": attack, "fpr": 0.1} | json.loads(
        json.dumps(expected.to_dict())
    )
    for part in (expected.why, f"{expected.p_value:.3g}", "<small>", "evidence, not proof", "data:image/svg+xml"):
        assert part in shown


def test_what_is_pasted_is_never_markup(visited: Visited) -> None:
    hostile = "w001 <img src=x onerror=alert(1)> ${alert(2)} {{value}} w002"
    _, shown = visited.ask("words", "auditmi", hostile, 0.1)
    assert "onerror" in shown
    assert not any(part in shown for part in ("<img src=x", "${", "{{"))


def test_members_stand_out_on_the_page(visited: Visited, overfitted: worlds.World) -> None:
    pool = overfitted.target.pool
    every, sides = list(pool.records["text"]), []
    for member in (1, 0):
        units = np.flatnonzero(overfitted.target.member == member)[:6]
        pasted = ["\n".join(every[row] for row in np.flatnonzero(pool.unit == unit)) for unit in units]
        sides.append([float(cast(float, visited.ask("words", "auditmi", one, 0.1)[0]["p_value"])) for one in pasted])
    assert np.median(sides[0]) < 0.1 < np.median(sides[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("words", "auditmi", " \n ", 0.1), "There is nothing to read: paste the texts of one user"),
        (("words", "auditmi", "w001 " * 401, 0.1), "The texts have 2,005 characters, and at most 2,000"),
        (("words", "auditmi", "w001\n" * 21, 0.1), "There are 21 texts, and at most 20"),
        (("words", "auditmi", "w001", 5), "write five percent as 0.05"),
        (("words", "auditmi", "w001", None), "The false-positive rate is empty"),
        (("words", "auditmy", "w001", 0.1), "did you mean 'auditmi'"),
        (("wods", "auditmi", "w001", 0.1), "'wods' is no audit of texts: did you mean 'words'"),
        (("pictures", "encodermi-t", "w001", 0.1), "'pictures' is no audit of texts"),
        (("/etc", "auditmi", "w001", 0.1), "'/etc' is no audit of texts"),
    ],
)
def test_wrong_questions_get_the_librarys_message(visited: Visited, given: tuple[object, ...], message: str) -> None:
    with pytest.raises(Exception, match=message.replace("(", r"\(")):
        visited.ask(*given)


def test_an_image_is_answered_as_by_the_library(visited: Visited, image_run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(worlds.noise(1, 9)[0])
    given = ("pictures", "encodermi-t", handle_file(str(tmp_path / "x.png")), 0.1)
    told, shown = visited.client.predict(*given, api_name="/ask_image")
    (expected,) = query(opened(image_run), "encodermi-t").ask([picture(tmp_path / "x.png")], 0.1)
    assert told["score"] == expected.score
    assert told["p_value"] == expected.p_value
    assert shown.count("<img src='data:image/png") == 10
    assert "How alike the encoder finds each two of" in shown
    assert left(visited) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "The file is no image"),
        (worlds.png(np.zeros((120, 120, 3), np.uint8)), "The image is 120 x 120 pixels, and at most 10,000"),
        (worlds.noise(1, 9)[0][:60], "image"),
    ],
)
def test_what_is_no_image_is_refused(visited: Visited, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(Exception, match=message):
        visited.client.predict(
            "pictures", "encodermi-t", handle_file(str(tmp_path / "x.png")), 0.1, api_name="/ask_image"
        )
    assert left(visited) == []


def test_no_image_is_told(visited: Visited) -> None:
    with pytest.raises(Exception, match="There is no file: upload an image file"):
        visited.client.predict("pictures", "encodermi-t", None, 0.1, api_name="/ask_image")


def table(folder: Path, kind: str, scores: object, member: object) -> str:
    columns = {"unit": ["u"] * len(cast("list[object]", scores)), "score": scores, "member": member}
    path = folder / f"scores.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = zip(*columns.values(), strict=True)
        path.write_text("\n".join(["unit,score,member", *(",".join(map(str, row)) for row in rows)]))
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_scores_are_judged_as_by_the_metric(visited: Visited, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    member = [int(i % 2) for i in range(200)]
    scores = [float(x) for x in rng.normal(np.array(member), 1)]
    found, shown, card = visited.judge(handle_file(table(tmp_path, kind, scores, member)), "0.1, 0.001", "0.5")
    assert found == pytest.approx(membership_inference(scores, member, [0.1, 0.001], threshold=0.5))
    assert shown.count("data:image/svg+xml") == 2
    assert "<td>n/a</td>" in shown  # a rate below 1 / 100
    assert f"| AUC | {found['auc']:.3f} [" in card
    assert "100 training members and 100 non-members" in card
    assert left(visited) == []


@pytest.mark.parametrize(
    ("content", "fprs", "message"),
    [
        (b"a,b\n1,2\n", "0.1", "lacks \\['score', 'member'\\]"),
        (b"score,member\n1,1\n,0\n", "0.1", "Column 'score' is empty in 1 rows"),
        (b"score,member\nx,1\ny,0\n", "0.1", "Column 'score': must be numbers"),
        (b"score,member\n1,1\n2,2\n", "0.1", "Column 'member': must be 1"),
        (b"score,member\n1,1\n2,-1\n", "0.1", "holds -1. Write 1 for a member and 0 for a non-member"),
        (b"score,member\n1,in\n2,out\n", "0.1", "Column 'member': must be numbers"),
        (b"score,member\nnan,1\n1,1\n2,0\n3,0\n", "0.1", "must be finite|is empty in 1 rows"),
        (b"score,member\n1,1\n2\n3,0\n", "0.1", "could not be read as CSV or Parquet"),
        (b"score,member\n1,1\n2,1\n", "0.1", "each class"),
        (b"score,member\n" + b"1,1\n" * 1001, "0.1", "has 1,001 rows, and at most 1,000"),
        (b"", "0.1", "could not be read as CSV or Parquet"),
        (b"PAR1 broken", "0.1", "could not be read as CSV or Parquet"),
        (b"\xff\xfe\x00", "0.1", "columns|could not be read"),
        (b"score,member\n1,1\n2,1\n0,0\n1,0\n", "x", "one is 'x'"),
        (b"score,member\n1,1\n2,1\n0,0\n1,0\n", "", "1 to 8 false-positive rates"),
        (b"score,member\n1,1\n2,1\n0,0\n1,0\n", "2", "between 0 and 1"),
    ],
)
def test_wrong_scores_get_the_librarys_message(
    visited: Visited, tmp_path: Path, content: bytes, fprs: str, message: str
) -> None:
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(Exception, match=message):
        visited.judge(handle_file(str(tmp_path / "scores.csv")), fprs, "")
    assert left(visited) == []


def test_without_a_threshold_nothing_is_told_at_one(visited: Visited, tmp_path: Path) -> None:
    path = table(tmp_path, "csv", [0.9, 0.1, 0.8, -0.2], [1, 0, 1, 0])
    found, _, card = visited.judge(handle_file(path), "0.5", " ")
    assert "threshold" not in found
    assert "accuracy" not in card
    with pytest.raises(Exception, match="The threshold must be a number, or empty, but is 'x'"):
        visited.judge(handle_file(path), "0.5", "x")


def test_constant_scores_tell_nothing(visited: Visited, tmp_path: Path) -> None:
    found, _, _ = visited.judge(handle_file(table(tmp_path, "csv", [0.5] * 6, [1, 0] * 3)), "0.5", "")
    assert found["auc"] == 0.5


def test_a_file_that_is_too_large_is_refused_by_the_server(visited: Visited, tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_bytes(b"0" * (LIMITS.upload + 1))
    with pytest.raises(Exception, match=r"(?i)size|large|413"):
        visited.judge(handle_file(str(tmp_path / "scores.csv")), "0.1", "")
    assert left(visited) == []


def test_the_servers_own_files_are_out_of_reach(visited: Visited, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("score,member\n1,1\n2,1\n0,0\n1,0\n")
    given = {"path": str(tmp_path / "secret.csv"), "meta": {"_type": "gradio.FileData"}, "orig_name": "secret.csv"}
    import httpx

    asked = {"data": [given, "0.1", ""]}
    started = httpx.post(f"{visited.url}gradio_api/call/judge_scores", json=asked, timeout=60)
    if started.status_code == 200:
        event = started.json()["event_id"]
        told = httpx.get(f"{visited.url}gradio_api/call/judge_scores/{event}", timeout=60).text
        assert "event: error" in told
    assert (tmp_path / "secret.csv").exists()


def test_a_parquet_file_is_measured_before_it_is_unpacked(tmp_path: Path) -> None:
    pq.write_table(pa.table({"score": np.zeros(5000), "member": np.ones(5000)}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="has 5,000 rows, and at most 1,000"):
        scores_of(str(tmp_path / "x.parquet"), LIMITS)
    assert not (tmp_path / "x.parquet").exists()


def test_a_job_that_takes_too_long_is_given_up() -> None:
    jobs = Jobs(replace(LIMITS, seconds=0.05))
    with pytest.raises(Exception, match=r"This took more than 0.05 seconds and was given up"):
        jobs.do(lambda check: time.sleep(0.5))


def test_work_that_was_given_up_ends_and_leaves_its_place() -> None:
    """It would never end by itself; with one place the next job can only be done once it did."""

    def endless(check: Check) -> None:
        while True:
            time.sleep(0.01)
            check()

    jobs = Jobs(replace(LIMITS, seconds=0.2, jobs=1))
    for _ in range(3):
        with pytest.raises(Exception, match="was given up"):
            jobs.do(endless)
    patient = Jobs(replace(LIMITS, jobs=1))
    patient._pool = jobs._pool
    assert patient.do(lambda check: "done") == "done"


def test_a_question_is_asked_no_further_once_it_is_given_up(run_folder: Path, tmp_path: Path) -> None:
    """Texts of unlike lengths are asked in several batches: the model is not asked again once the check has raised."""
    texts = [" ".join(["w001"] * length) for length in (1, 4, 16, 64)]
    batches: list[int] = []

    def ask(most: float) -> None:
        def check() -> None:
            asked = len(batches)
            if asked >= most:
                raise GivenUp

        shelf = Shelf(tmp_path)
        shelf.add("words", run_folder)
        found = shelf.query("words", "auditmi", "text", check)
        module = found.target.load()
        hook = module.register_forward_hook(lambda *_: batches.append(1))
        try:
            found.ask([user("you", texts)])
        finally:
            hook.remove()

    ask(np.inf)
    whole = len(batches)
    assert whole > 2
    batches.clear()
    with pytest.raises(GivenUp):
        ask(2)
    assert len(batches) == 2


def test_a_download_stops_where_it_is_given_up() -> None:
    def raise_() -> None:
        raise GivenUp

    with watched(lambda: None)(total=2) as bar:
        bar.update(1)
    with watched(raise_)(total=2) as bar, pytest.raises(GivenUp):
        bar.update(1)


def test_an_error_of_the_server_tells_nothing_of_it() -> None:
    def broken(check: Check) -> None:
        raise OSError("/a/path/of/the/server")

    with pytest.raises(OSError, match="path"):  # no gr.Error: the page says "Error" alone
        Jobs(LIMITS).do(broken)


def test_ranks_are_told_by_more_than_colour() -> None:
    said = tuple(Word(f"w{rank}", rank, -1.0, True, rank != 500) for rank in (0, 9, 10, 99, 100, 500))
    shown = spoken(Answer("you", "n/a", "", 1, words=said))
    for word, band in zip(said, (0, 1, 2, 2, 3, 4), strict=True):
        mark = "" if word.known else "?"
        assert f"mia-r{band}' title='{word.rank} words were likelier" in shown
        assert f">{word.text}{mark}<small>{word.rank}</small>" in shown


# A model on the Hub


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../b", "https://x/y", "gpt2", "", "a/b/c", "tests/conftest.py"]
)
def test_only_a_hub_id_names_a_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(ValueError, match="must be a Hub id of the form org/name"):
        checked_id(name)


def test_a_model_on_the_hub_ranks_words(gpt2_folder: Path, tmp_path: Path) -> None:
    """As the same model does from its folder; nothing stays on the disk, and what is not there is one sentence."""
    code = """
import json
from hf_mia.app.hub_model import Fetched
fetched = Fetched()
found = [a.to_dict() for a in fetched.said("org/tiny", ["w001 w002 w003", "w004"])]
try:
    fetched.said("org/none", ["w001"])
except ValueError as error:
    print(json.dumps([found, str(error)]))
"""
    with hub.serving() as served:
        served.add("models/org/tiny", gpt2_folder)
        (tmp_path / "home").mkdir()
        (tmp_path / "tmp").mkdir()
        said = served.python(code, tmp_path / "home", TMPDIR=str(tmp_path / "tmp")).splitlines()[-1]
    answers, message = json.loads(said)
    model = language_model(gpt2_folder)
    texts = Dataset.from_dict({"text": ["w001 w002 w003", "w004"]})
    expected = words(model, texts["text"], list(answers_of(model.load(), model.collate, Tokens(), texts)))
    assert [[w["rank"] for w in answer["words"]] for answer in answers] == [[w.rank for w in one] for one in expected]
    assert {answer["verdict"] for answer in answers} == {"n/a"}
    assert "'org/none' could not be fetched from the Hub" in message
    assert not [path for path in files(tmp_path) if path.suffix == ".safetensors"]


# The embedded audits


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedded, Path]:
    folder = tmp_path_factory.mktemp("embedded")
    content = worlds.config(worlds.write(folder / "texts.parquet", 30), 24, epochs=1, shadows=1)
    return Embedded("tiny", experiment({**content, "attacks": ["auditmi"]})), folder / "cache"


def test_an_embedded_audit_is_built_once(tiny: tuple[Embedded, Path]) -> None:
    one, cache = tiny
    assert not one.ready(cache)
    folder = one.build(cache)
    assert one.ready(cache)
    before = {path: path.stat().st_mtime_ns for path in files(folder)}
    assert one.build(cache) == folder
    assert {path: path.stat().st_mtime_ns for path in files(folder)} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    run = opened(folder)
    found = examples(folder)
    assert set(found) == {"member", "outside"}
    assert all(len(texts.splitlines()) == 6 for texts in found.values())
    made = query(run)
    assert made.ask([user("you", found["outside"].splitlines())])[0].p_value is not None


def test_a_run_given_takes_the_place_of_the_embedded_one(run_folder: Path, image_run: Path, tmp_path: Path) -> None:
    shelf = filled([run_folder, image_run], tmp_path)
    assert shelf.titles("text") == ["run"]
    assert shelf.titles("image") == [str(image_run)]
    assert files(tmp_path) == []
    with pytest.raises(ValueError, match="is no folder"):
        filled([tmp_path / "nothing"], tmp_path)


@pytest.mark.parametrize("one", [TEXT, IMAGE], ids=lambda one: one.title)
def test_an_embedded_config_is_the_same_once_it_is_read_back(one: Embedded) -> None:
    again = experiment(mapping(one.experiment))
    assert again == one.experiment
    assert list(again.attacks) == list(one.experiment.attacks)  # the first is what the page asks first


def test_the_first_visitor_waits_for_nothing_that_could_be_ready(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start has fitted the first attack, loaded its model and drawn a figure, as the first answer does."""
    from hf_mia.app import shown

    drawn: list[str] = []
    monkeypatch.setattr(shown, "drawn", lambda figure, told: drawn.append(told) or told)
    shelf = filled([run_folder], tmp_path)
    warm(shelf, LIMITS)
    assert len(drawn) == 1
    monkeypatch.setattr("hf_mia.app.shelf.query", lambda *args, **named: pytest.fail("fitted again"))
    ready = shelf.query("run", shelf.attacks("run")[0], "text")
    assert ready.target.load() is ready.target.load()


def test_a_folder_that_another_audit_wrote_brings_no_examples(run_folder: Path) -> None:
    assert examples(run_folder) == pictures(run_folder) == {}


# The Space and the command


def test_the_space_is_a_few_lines_over_the_package() -> None:
    folder = Path(__file__).parents[2] / "spaces" / "audit_demo"
    assert {path.name for path in folder.iterdir()} >= {"README.md", "app.py", "requirements.txt", "screenshot.png"}
    matter = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (matter["sdk"], matter["python_version"], matter["app_file"]) == ("gradio", "3.12", "app.py")
    assert len(matter["title"]) < 60
    assert len(matter["short_description"]) <= 60
    assert (folder / "requirements.txt").read_text().split() == ["hf_mia[app]"]
    assert (folder / "screenshot.png").stat().st_size < 200_000
    assert len((folder / "app.py").read_text(encoding="utf-8").splitlines()) < 15


def test_a_folder_that_is_no_run_ends_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "app", "--run", str(tmp_path)])
    assert done.exit_code == 2
    assert "has no config.yaml: name a folder that `hf-mia audit` wrote" in done.stderr


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'hf_mia\[app\]'"):
        start([], tmp_path)


# Many at once


def busy(url: str, number: int, texts: Callable[[int], str], each: int) -> list[dict[str, object]]:
    client = Client(url, verbose=False, httpx_kwargs={"timeout": 240})
    return [
        client.predict("words", "auditmi", texts(number * each + i), 0.1, api_name="/ask_texts")[0] for i in range(each)
    ]


@pytest.mark.slow
def test_two_hundred_questions_of_twenty_visitors(visited: Visited, run_folder: Path) -> None:
    """None is lost, and none gets another's answer: each is the library's own about the texts that were asked."""
    rng = np.random.default_rng(5)
    pasted = [" ".join(f"w{i:03d}" for i in rng.integers(0, 120, 5)) for _ in range(200)]
    with ThreadPoolExecutor(20) as pool:
        found = [
            answer
            for answers in pool.map(lambda number: busy(visited.url, number, pasted.__getitem__, 10), range(20))
            for answer in answers
        ]
    expected = query(opened(run_folder), "auditmi").ask([user("you", [text]) for text in pasted], 0.1)
    assert len(found) == 200
    for told, own in zip(found, expected, strict=True):
        assert [word["text"] for word in cast("list[dict[str, object]]", told["words"])] == [w.text for w in own.words]
        assert told["score"] == pytest.approx(own.score, abs=1e-6)
        assert told["p_value"] == pytest.approx(own.p_value)
    assert len({str(told["words"]) for told in found}) > 190
