"""Cards: what the section says, and that nothing else of a card changes, whatever shape it has."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from typer.testing import CliRunner, Result

from hf_mia.cli.main import app
from hf_mia.publish.card import (
    BEGIN,
    END,
    FIGURE,
    HEADER,
    TASK,
    decoded,
    metric,
    public,
    result,
    section,
    updated,
    write_card,
)
from hf_mia.publish.outcome import Outcome, read_outcome
from hf_mia.reports.estimates import Estimate
from hf_mia.reports.report import Report

OTHER = """\
model-index:
- name: mine   # the name
  results:
  - task:
      type: text-generation
    dataset: {type: wikitext, name: WikiText}
    # of the last epoch
    metrics:
    - {type: perplexity, value: 12.50}
"""
CARDS = {
    "plain": "---\nlicense: mit\n---\n# A model\n\nText.\n",
    "comments and order": "---\n# kept\ntags: [b, a]   # as is\nlicense:   'mit'\n\n---\n\n# A model\n",
    "no front matter": "# A model\n\nText.\n",
    "empty": "",
    "no newline at the end": "---\nlicense: mit\n---\n# A model",
    "crlf": "---\r\nlicense: mit\r\n---\r\n# A model\r\n\r\nText.\r\n",
    "crlf, no newline at the end": "---\r\nlicense: mit\r\n---\r\n# A model",
    "byte order mark": "\ufeff---\nlicense: mit\n---\n# A model\n",
    "byte order mark, no front matter": "\ufeff# A model\n",
    "a rule in the text": "---\nlicense: mit\n---\n# A model\n\n---\n\nText.\n",
    "another result": f"---\n{OTHER}license: mit\n---\n# A model\n",
    "another result, indented": "---\nmodel-index:\n  - name: mine\n    results:\n      - task: {type: a}\n"
    "        metrics:\n          - value: 1\n\n# a comment\nlicense: mit\n---\nText.\n",
    "an empty model-index": "---\nmodel-index: []\nlicense: mit\n---\nText.\n",
    "a model-index in brackets": "---\nmodel-index: [{name: mine, results: [{task: {type: a}}]}]\nx: 1\n---\nText.\n",
    "a scalar in a block": "---\ndescription: |\n  a: b\n\n  c\nlicense: mit\n---\nText.\n",
    "a scalar in a block at the end": "---\nlicense: mit\ndescription: |\n  a: b\n---\nText.\n",
    "an anchor": "---\nbase: &b [a]\ntags: *b\n---\nText.\n",
    "no text": "---\nlicense: mit\n---\n",
}


@pytest.fixture(scope="module")
def outcome(published_run: Path) -> Outcome:
    return read_outcome(published_run)


def without(text: str, newline: str) -> str:
    """A card without the section, by the marks."""
    return text[: text.index(BEGIN)] + text[text.index(END) + len(END) :].removeprefix(newline)


def front(card: str) -> dict[str, object]:
    match = REGEX_YAML_BLOCK.search(card.removeprefix("\ufeff"))
    return (yaml.safe_load(match[2]) or {}) if match else {}


@pytest.mark.parametrize("name", CARDS)
def test_all_else_of_a_card_stays_as_it_was(outcome: Outcome, name: str) -> None:
    card = CARDS[name]
    made = updated(card, outcome, "tiny")
    newline = "\r\n" if "\r\n" in card else "\n"
    assert made.count("\r\n") == (made.count("\n") if newline == "\r\n" else 0)
    assert made.startswith("\ufeff") == card.startswith("\ufeff")
    before, after = front(card), front(made)
    index = after.pop("model-index")
    old = before.pop("model-index", None) or []
    assert after == before
    assert list(after) == list(before)  # the keys' order
    assert [one for entry in index for one in entry["results"] if one["task"] != TASK] == [
        one for entry in old for one in entry["results"]
    ]
    kept = re.sub(r"[\r\n]+$", "", card.removeprefix("\ufeff"))
    for line in [one for one in kept.splitlines() if not re.match(r"model-index: .", one)]:
        assert line in made.splitlines()
    body = card.removeprefix("\ufeff")
    body = body[match.end() :] if (match := REGEX_YAML_BLOCK.search(body)) else body
    rest = made.removeprefix("\ufeff")
    match = REGEX_YAML_BLOCK.search(rest)
    assert match is not None
    assert without(rest[match.end() :], newline).startswith(body)
    assert without(rest[match.end() :], newline).removeprefix(body).strip("\r\n") == ""


@pytest.mark.parametrize(
    "name", ["comments and order", "another result", "another result, indented", "crlf", "an anchor"]
)
def test_no_line_of_the_front_matter_changes(outcome: Outcome, name: str) -> None:
    """Ours taken out of the front matter again, line by line, leaves it to the byte."""
    card = CARDS[name]
    made = updated(card, outcome, "tiny")
    header = made[: REGEX_YAML_BLOCK.search(made).end()]  # type: ignore[union-attr]
    expected = card[: REGEX_YAML_BLOCK.search(card).end()]  # type: ignore[union-attr]
    lines, rest = header.splitlines(keepends=True), expected.splitlines(keepends=True)
    added = [line for line in lines if line not in rest]
    kept = iter(lines)
    assert all(line in kept for line in rest)  # in this order
    assert len(added) >= len(lines) - len(rest) - 2
    assert any("membership-inference" in line for line in added)


@pytest.mark.parametrize("name", CARDS)
def test_a_second_time_changes_nothing(outcome: Outcome, name: str) -> None:
    once = updated(CARDS[name], outcome, "tiny")
    assert updated(once, outcome, "renamed since") == once


@pytest.mark.parametrize("name", CARDS)
def test_another_audit_takes_the_place_of_the_first(outcome: Outcome, name: str) -> None:
    """As if the first had never been written."""
    other = replace(outcome, headline=outcome.reports["reference"], verdict="inconclusive")
    again = updated(updated(CARDS[name], outcome, "tiny"), other, "tiny")
    assert again == updated(CARDS[name], other, "tiny")
    assert again != updated(CARDS[name], outcome, "tiny")


@pytest.mark.parametrize("name", ["plain", "no front matter", "crlf"])
def test_the_hubs_own_reader_finds_the_figures_as_plain_floats(outcome: Outcome, name: str) -> None:
    card = ModelCard(updated(CARDS[name], outcome, "tiny"))
    found = {one.metric_type: one for one in card.data.eval_results}
    report = outcome.headline
    assert set(found) == {"auc", "tpr_at_fpr"}  # at 0.1 % these units cannot tell a TPR
    assert type(found["auc"].metric_value) is float
    assert found["auc"].metric_value == report.auc.value
    assert found["tpr_at_fpr"].metric_value == report.tpr_at(0.1).value
    assert found["tpr_at_fpr"].metric_args == {"fpr": 0.1}
    assert found["auc"].task_type == "membership-inference"
    assert found["auc"].dataset_type == "texts.parquet"
    assert card.data.model_name == "tiny"


def test_the_hubs_own_reader_still_finds_the_others(outcome: Outcome) -> None:
    results = ModelCard(updated(CARDS["another result"], outcome, "tiny")).data.eval_results
    assert [one.metric_type for one in results] == ["perplexity", "auc", "tpr_at_fpr"]
    assert results[0].metric_value == 12.5


@pytest.mark.parametrize("card", list(CARDS.values()))
def test_front_matter_is_where_the_hub_sees_it(card: str) -> None:
    text = card.removeprefix("\ufeff")
    ours, theirs = HEADER.match(text), REGEX_YAML_BLOCK.match(text)
    assert (ours and (ours.span(), ours[2])) == (theirs and (theirs.span(), theirs[2]))


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\nlicense: [mit\n---\nText.\n", "not valid YAML"),
        ("---\nlicense: mit\n  x: 1\n---\nText.\n", "not valid YAML"),
        ("---\n- a\n- b\n---\nText.\n", "must be keys and values, not a list"),
        ("---\nlicense: mit\n# Text, and no end\n", "empty or has no end"),
        ("---\n---\nText.\n", "empty or has no end"),
        ("---\nmodel-index: 3\n---\n", "must be a list of entries"),
        ("---\nmodel-index:\n- name: a\n  results:\n    b: 1\n---\n", "must be a list of entries"),
        ("---\nmodel-index:\n- a\n---\n", "must be a list of entries"),
        ("---\nmodel-index: []\nmodel-index: []\n---\n", "key 'model-index' twice"),
        ("---\nmodel-index: []  # none yet\n---\n", "holds a comment"),
        ("---\n{license: mit}\n---\n", "written in braces"),
        ("---\nmodel-index: &m []\nx: *m\n---\n", "not valid YAML"),
        ("---\ndate: 2024-13-45\n---\n", "not valid YAML"),
        (f"Text.\n{BEGIN}\n", "1 times and <!-- hf-mia:end --> 0 times"),
        (f"Text.\n{END}\n", "0 times and <!-- hf-mia:end --> 1 times"),
        (f"{END}\n{BEGIN}\n", "each once and in this order"),
        (f"{BEGIN}\n{BEGIN}\n{END}\n", "2 times"),
        (f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", "2 times"),
    ],
)
def test_a_damaged_card_is_refused_and_left_alone(
    published_run: Path, outcome: Outcome, tmp_path: Path, card: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        updated(card, outcome, "tiny")
    (tmp_path / "README.md").write_bytes(card.encode())
    done = call(published_run, tmp_path)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Nothing was written." in done.stderr
    assert "Traceback" not in done.output
    assert (tmp_path / "README.md").read_bytes() == card.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_card_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        decoded("é".encode("latin-1"))


def test_what_is_not_a_number_is_refused_and_what_is_not_known_left_out() -> None:
    assert metric("auc", "AUC", Estimate(), 0.95) is None
    broken = Estimate(0.5, 0.4, 0.6)
    object.__setattr__(broken, "value", float("nan"))
    with pytest.raises(ValueError, match="must be a finite number, not nan"):
        metric("auc", "AUC", broken, 0.95)


def test_the_section_says_what_was_asked_found_and_not_found(outcome: Outcome) -> None:
    made = section(outcome)
    headline = outcome.headline
    for said in (
        "**Leak**, by mean-loss.",
        "Which users was the model (target) trained on? Each attack scores 12 members and 12 non-members.",
        "rank and log-probability of each true next token",
        f"| mean-loss | {headline.auc} | {headline.tpr_at(0.1)} | n/a |",
        f"| blind (no model) | {outcome.control.auc} |",
        f"| untrained | reference | {outcome.controls['untrained']['reference'].auc} |",
        "![ROC curves of the attacks and the blind control, on logarithmic axes](figures/roc.png)",
        "Members were drawn at random",
        "- A weak result bounds the attacks tried here, not all attacks.",
        "hf-mia audit config.yaml",
        "Versions: hf\\_mia ",
        "95 % intervals",
    ):
        assert said in made
    assert "user 0" not in made  # no unit's name


def test_what_the_section_shows_as_config_is_the_audits(outcome: Outcome) -> None:
    shown = re.search(r"```yaml\n(.*?)```", section(outcome), re.DOTALL)
    assert shown is not None
    expected = yaml.safe_load((outcome.folder / "config.yaml").read_text())
    expected["data"]["path"] = "texts.parquet"
    assert yaml.safe_load(shown[1]) == expected


def test_a_config_is_shown_without_names_and_places() -> None:
    config = {"target": {"members": ["ann", "bob"], "model": "/home/me/model"}, "split": {"members": 3}, "x": ["/a/b"]}
    assert public(config) == {"target": {"members": ["2 names"], "model": "model"}, "split": {"members": 3}, "x": ["b"]}


def test_markdown_and_html_in_names_are_shown_not_obeyed(outcome: Outcome) -> None:
    name = "<script>|`*x*\n# y"
    hostile = replace(outcome, target=name, versions={name: name}, access=f"{BEGIN} {name}", limits=(name,))
    made = section(hostile)
    assert "<script>" not in made
    assert "\n# y" not in made
    assert "&lt;script&gt;\\|\\`\\*x\\*" in made
    with pytest.raises(ValueError, match="which mark a section"):
        section(replace(outcome, config={"a": END}))
    assert "\n````yaml\n" in section(replace(outcome, config={"a": "```"}))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("org/texts", "org/texts"), ("wikitext", "wikitext"), ("/home/me/my texts.jsonl", "my-texts.jsonl"), ("..", "..")],
)
def test_a_dataset_is_named_as_the_hub_takes_it(outcome: Outcome, path: str, expected: str) -> None:
    assert result(replace(outcome, data=path))["dataset"]["type"] == expected  # type: ignore[index]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["card", *map(str, arguments)])


def test_without_a_model_the_section_is_printed(published_run: Path, outcome: Outcome) -> None:
    done = call(published_run)
    assert done.exit_code == 0, done.output
    assert done.stdout == section(outcome) + "\n"


@pytest.mark.parametrize("named", ["", "README.md"])
def test_a_models_folder_gets_its_card_and_figure(
    published_run: Path, outcome: Outcome, tmp_path: Path, named: str
) -> None:
    place = tmp_path / "my-model"
    place.mkdir()
    (place / "README.md").write_text(CARDS["plain"])
    (place / "README.md").chmod(0o640)
    done = call(published_run, place / named)
    assert done.exit_code == 0, done.output
    assert (place / "README.md").read_text() == updated(CARDS["plain"], outcome, "my-model")
    assert (place / "README.md").stat().st_mode & 0o777 == 0o640
    assert (place / FIGURE).read_bytes() == (published_run / "figures" / "roc.png").read_bytes()
    assert f"]({FIGURE})" in (place / "README.md").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert call(published_run, place / named).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == stamps


def test_a_model_without_a_card_gets_one(published_run: Path, outcome: Outcome, tmp_path: Path) -> None:
    assert write_card(tmp_path, outcome).read_text() == updated("", outcome, tmp_path.name)


def test_a_link_to_a_card_stays_a_link(outcome: Outcome, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("Text.\n")
    (tmp_path / "README.md").symlink_to("card.md")
    write_card(tmp_path, outcome)
    assert (tmp_path / "README.md").is_symlink()
    assert BEGIN in (tmp_path / "card.md").read_text()


def test_a_disk_that_is_full_leaves_the_old_card(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("Text.\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_card(tmp_path, outcome)
    assert (tmp_path / "README.md").read_text() == "Text.\n"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["README.md"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("org/model",), "add --push or --commit for a model on the Hub"),
        (("model.txt",), "neither a folder nor a Markdown file"),
        (("--push",), "give one, and the model's id"),
        (("org/model", "--push", "--commit"), "--push opens a pull request, --commit writes to main: give one"),
    ],
)
def test_a_wrong_place_ends_in_one_line(published_run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call(published_run, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_the_templates_belong_to_the_package() -> None:
    for name in ("card.md", "dataset_card.md"):
        assert files("hf_mia.publish").joinpath(name).is_file()


@pytest.fixture
def copied(published_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published_run, tmp_path / "run"))


def test_a_run_is_read_back_as_it_was_found(published_run: Path, outcome: Outcome) -> None:
    found = json.loads((published_run / "report.json").read_text())
    assert outcome.headline.name == found["headline"] == "mean-loss"
    for name, report in outcome.reports.items():
        np.testing.assert_array_equal(report.scores, found["attacks"][name]["report"]["scores"])
        assert outcome.above[name].value == found["attacks"][name]["auc_above_control"]["value"]
        assert outcome.attacks[name] == found["attacks"][name]["attack"]
    assert outcome.unit == "user"
    assert outcome.versions == found["versions"]
    assert isinstance(outcome.control, Report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            '"verdict": "leak"->"verdict": "inconclusive"',
            "its verdict 'inconclusive' by 'mean-loss' is not that of its",
        ),
        ('"headline": "mean-loss"->"headline": "nothing"', "'nothing' is not that of its scores"),
        ('"headline": "mean-loss",->', "headline must be text, not None"),
        ('"value": 1.0->"value": 0.5', "says auc = 0.5 (value), but its scores give 1.0"),
        ('"value": 1.0->"value": NaN', "holds NaN"),
        ('"membership_provenance": "random_split"->"membership_provenance": "guess"', "'guess' is no membership_prov"),
        ('"versions": {->"versions": 3, "x": {', "versions must be a mapping, not int"),
        ('"seed": 0->"sead": 0', "missing ['seed'], unknown ['sead']"),
        ("{->[", "is not what `hf-mia audit` writes"),
    ],
)
def test_a_report_that_was_not_written_by_an_audit_is_refused(copied: Path, change: str, message: str) -> None:
    path = copied / "report.json"
    old, new = change.split("->")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_outcome(copied)


def test_a_config_that_is_missing_or_refers_to_itself_is_refused(copied: Path) -> None:
    (copied / "config.yaml").write_text("a: &a [1]\nb: *a\n")
    with pytest.raises(ValueError, match="it holds an alias"):
        read_outcome(copied)
    (copied / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"config.yaml is no file of the run folder"):
        read_outcome(copied)
    with pytest.raises(ValueError, match=r"holds no report.json"):
        read_outcome(copied.parent)
