"""Asking a run about pairs: members stand out, ranks are those of the audit, and the folder alone answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import worlds
import yaml
from datasets import Dataset
from encoder_decoders import LANGUAGES, TEXTS, saved
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from typer.testing import CliRunner, Result

from hf_mia.cli.main import app
from hf_mia.cli.query import read_file, units
from hf_mia.data.pairs import Pairs
from hf_mia.data.texts import Texts
from hf_mia.models.pairs import pair_model
from hf_mia.probes.tokens import Tokens
from hf_mia.queries.opened import opened
from hf_mia.queries.query import Query, Unit, query, user_of_pairs
from hf_mia.queries.words import words
from hf_mia.runner import Runner

N = worlds.OVERFITTED // 4
ATTACKS = ("auditmi", "mean-loss", "reference", "auditmi-relative")


@pytest.fixture(scope="module")
def pair_run(overfitted_pairs: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.audited(overfitted_pairs, tmp_path_factory.mktemp("audited-pairs"), attacks=ATTACKS)


@pytest.fixture(scope="module")
def asked(pair_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Query]:
    nothing = tmp_path_factory.mktemp("no-cache")
    return {name: query(opened(pair_run), name, cache=nothing) for name in ATTACKS}


def pairs_of(world: worlds.World, member: int) -> dict[str, list[tuple[str, str]]]:
    """The pairs of the target's members, or of its non-members, by user."""
    pool = world.target.pool
    every = list(zip(pool.records["source"], pool.records["target"], strict=True))
    return {
        pool.names[i]: [every[row] for row in np.flatnonzero(pool.unit == i)]
        for i in np.flatnonzero(world.target.member == member)
    }


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["query", *(str(argument) for argument in arguments)])


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", ATTACKS)
def test_members_get_small_p_values_and_others_do_not(
    overfitted_pairs: worlds.World, asked: dict[str, Query], name: str
) -> None:
    """Members' are at the bottom; a non-member, itself among those that it is compared with, gets its rank plus one."""
    answers = asked[name].ask([user_of_pairs(*one) for one in pairs_of(overfitted_pairs, 1).items()], fpr=0.1)
    p = np.array([answer.p_value for answer in answers])
    assert np.median(p) <= 2 / (N + 1), p
    assert all((answer.verdict == "consistent with membership") == (answer.p_value <= 0.1) for answer in answers)
    assert all(answer.read == answer.given == len(answer.records) == 6 for answer in answers)
    outside = asked[name].ask([user_of_pairs(*one) for one in pairs_of(overfitted_pairs, 0).items()], fpr=0.1)
    assert np.median([answer.p_value for answer in outside]) > 0.4
    report = asked[name].run.reports[name]
    for answer in (*answers, *outside):
        assert answer.score == pytest.approx(report.scores[report.units.index(answer.unit)], rel=1e-4, abs=1e-5)


def test_single_pairs_of_members_stand_out(overfitted_pairs: worlds.World, asked: dict[str, Query]) -> None:
    sides = []
    for member in (1, 0):
        each = [user_of_pairs("x", [pair]) for pairs in pairs_of(overfitted_pairs, member).values() for pair in pairs]
        sides.append(np.mean([answer.p_value for answer in asked["auditmi-relative"].ask(each)]))
    assert sides[0] < 0.25
    assert 0.35 < sides[1] < 0.7


def test_the_ranks_are_those_that_the_audit_saw(overfitted_pairs: worlds.World, asked: dict[str, Query]) -> None:
    game = overfitted_pairs.target
    told = worlds.each(overfitted_pairs.ask(game.model, Tokens(), game.pool.records))
    known = dict(zip(game.pool.records["target"], told, strict=True))
    for pairs in list(pairs_of(overfitted_pairs, 1).values())[:3]:
        (answer,) = asked["auditmi"].ask([user_of_pairs("x", pairs)])
        for (_, target), record in zip(pairs, answer.records, strict=True):
            assert [word.text for word in record.words] == target.split()
            assert [word.rank for word in record.words] == known[target]["rank"].tolist()


def test_the_words_are_the_targets_in_its_own_vocabulary(asked: dict[str, Query], pair_run: Path) -> None:
    """Against all logits of one row, sorted: the source and another one before the same target."""
    folder = pair_run / "models" / "target"
    tokenizer, module = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    target = "v003 V100, unheard v007"
    for source in ("w003 w100", "w050"):
        (answer,) = asked["auditmi"].ask([user_of_pairs("x", [(source, target)])])
        ids = tokenizer(text_target=target, add_special_tokens=False)["input_ids"]
        given = {"input_ids": torch.tensor([tokenizer(source)["input_ids"]])}
        with torch.no_grad():
            logits = module(**given, decoder_input_ids=torch.tensor([[0, *ids[:-1]]])).logits[0].double()
        assert [word.text for word in answer.words] == ["v003", "V100", ",", "unheard", "v007"]
        ranks = [int((row > row[token]).sum()) for row, token in zip(logits, ids, strict=True)]
        assert [word.rank for word in answer.words] == ranks
        logp = [float(row.log_softmax(0)[token]) for row, token in zip(logits, ids, strict=True)]
        np.testing.assert_allclose([word.logprob for word in answer.words], logp, atol=1e-5)
        assert [word.known for word in answer.words] == [token != 1 for token in ids]
        assert [word.known for word in answer.words][3] is False


@pytest.mark.parametrize("name", ["prompted", "mbart", "t5"])
def test_words_of_other_models_of_pairs(gpt2_folder: Path, tmp_path: Path, name: str) -> None:
    """The target's words, each once, also beyond the context: of a causal model, and of other tokenizers."""
    folder = gpt2_folder if name == "prompted" else saved(tmp_path, name)
    model = pair_model(folder, **LANGUAGES.get(name, {}))
    every = [TEXTS[3], " ".join(f"w{i:03d}" for i in range(60))]
    records = [{"source": "w050 w051", "target": text} for text in every]
    answers = list(Runner(tmp_path / "answers")(model, Tokens(), Dataset.from_list(records)))
    for text, found in zip(every, words(model, every, answers), strict=True):
        assert [word.text for word in found if word.text] == text.split()


def test_the_folder_alone_answers_the_same(
    overfitted_pairs: worlds.World, pair_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved, the cache and the pairs deleted."""
    each = [user_of_pairs(*one) for one in [*pairs_of(overfitted_pairs, 1).items()][:4]]
    here = {name: query(opened(pair_run), name, cache=overfitted_pairs.cache).ask(each) for name in ATTACKS}
    moved = shutil.copytree(pair_run, tmp_path / "elsewhere" / "run")
    hidden = {place: place.with_name(f"{place.name}-hidden") for place in (
        overfitted_pairs.cache, pair_run, Path(overfitted_pairs.experiment.data.path))}  # fmt: skip
    try:
        for place, away in hidden.items():
            place.rename(away)
        for name in ATTACKS:
            there = query(opened(moved), name, cache=tmp_path / "none").ask(each)
            assert [a.to_dict() for a in there] == [a.to_dict() for a in here[name]]
    finally:
        for place, away in hidden.items():
            away.rename(place)


def test_pairs_of_one_user_on_the_console(pair_run: Path) -> None:
    given = ["--text", "w001 w002", "--target", "v003 unheard", "--text", "w004", "--target", "v001", "--fpr", "0.1"]
    done = call(pair_run, *given)
    assert done.exit_code == 0, done.output
    shown = plain(done.stdout)
    for part in (
        "you: ",
        " at FPR 0.1",
        "among 16 users that the audit knows to be no members, each read from 2 pairs.",
        "you [1]: ",
        "you [2]: ",
        "each read from 1 pair.",
        "unheard?·",
        "v001·",
    ):
        assert part in shown


def test_json_holds_the_answers(pair_run: Path) -> None:
    done = call(pair_run, "--text", "w001", "--target", "v001 v002", "--attack", "reference", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (expected,) = query(opened(pair_run), "reference").ask([user_of_pairs("you", [("w001", "v001 v002")])])
    assert found["answers"] == [expected.to_dict()]
    assert [word["text"] for word in found["answers"][0]["words"]] == ["v001", "v002"]


ROWS = {"user": ["ann", "bob", "ann"], "source": ['w "1', "w2", "w3"], "target": ["v1", "v2", "v3"]}
UNITS = [user_of_pairs("ann", [('w "1', "v1"), ("w3", "v3")]), user_of_pairs("bob", [("w2", "v2")])]


def write(path: Path, rows: dict[str, list[str]]) -> Path:
    """A table as its suffix says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(rows), path)
        return path
    lines = list(zip(*rows.values(), strict=True))
    tabs = "\r\n".join("\t".join(line) for line in (tuple(rows), *lines))
    objects = "\n".join(json.dumps(dict(zip(rows, line, strict=True))) for line in lines)
    path.write_bytes((tabs if path.suffix == ".tsv" else objects).encode() + b"\n")
    return path


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "parquet"])
def test_files_of_pairs(tmp_path: Path, suffix: str) -> None:
    assert read_file(write(tmp_path / f"p.{suffix}", ROWS), Pairs()) == UNITS
    named = Pairs(source="en", target="fr", user="film")
    assert read_file(tmp_path / f"p.{suffix}", named) == UNITS
    other = dict(zip(("film", "fr", "en"), (ROWS["user"], ROWS["target"], ROWS["source"]), strict=True))
    assert read_file(write(tmp_path / f"q.{suffix}", other), named) == UNITS
    alone = {name: ROWS[name] for name in ("source", "target")}
    (one,) = read_file(write(tmp_path / f"mine.{suffix}", alone), Pairs())
    assert one == user_of_pairs("mine", zip(ROWS["source"], ROWS["target"], strict=True))


def test_a_table_of_tabs_may_hold_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", {"text": ["a b", "c"]})
    assert read_file(path, Texts()) == [Unit("t", ({"text": "a b"}, {"text": "c"}))]


def test_a_file_of_several_users(pair_run: Path, tmp_path: Path) -> None:
    done = call(pair_run, "--file", write(tmp_path / "p.tsv", ROWS), "--fpr", "0.1", "--json")
    assert done.exit_code == 0, done.output
    assert [(a["unit"], a["read"]) for a in json.loads(done.stdout)["answers"]] == [("ann", 2), ("bob", 1)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "w\tv\n", "must end in .jsonl, .parquet, .tsv"),
        ("p.tsv", "", "has no column 'source'"),
        ("p.tsv", "source\ten\nw\tv\n", "has no column 'target': it has ['en', 'source']"),
        ("p.tsv", "source\ttarget\nw\tv\nw\n", "line 3 has 1 cells, and the first line names 2 columns"),
        ("p.tsv", "source\ttarget\nw\tv\nw\t\n", "pair 2 of 'p' has an empty target"),
        ("p.jsonl", '{"user": "u", "source": null, "target": "v"}', "pair 1 of 'u' has an empty source"),
    ],
)
def test_what_cannot_be_read_is_one_line(pair_run: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    done = call(pair_run, "--file", tmp_path / name)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing is asked"),
        (("--target", "v001"), "every --text needs its --target, in the same order, but there are 0 of --text and 1"),
        (("--text", "w001"), "there are 1 of --text and 0 of --target"),
        (("--text", "w", "--text", "w", "--target", "v"), "there are 2 of --text and 1 of --target"),
        (("--text", "w001", "--target", " "), "pair 1 of 'you' has an empty target: give both sides, or leave it out"),
        (("--text", "", "--target", "v001"), "pair 1 of 'you' has an empty source"),
        (("--image", "x.png"), "this run is about pairs, and images were given: take --text and --target."),
    ],
)
def test_bad_input_ends_in_one_line(pair_run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call(pair_run, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""


def test_a_run_about_texts_takes_no_targets() -> None:
    for texts in (["w001"], []):
        with pytest.raises(ValueError, match="this run is about texts, which have no target: leave out --target"):
            units(Texts(), texts, None, [], ["v001"])


def test_a_pair_without_both_sides_is_left_out(asked: dict[str, Query]) -> None:
    (silent,) = asked["auditmi"].ask([user_of_pairs("x", [(" ", "")])])
    assert (silent.verdict, silent.given) == ("n/a", 0)


def test_a_recipe_with_a_prompt_of_its_own_is_asked_with_it(
    overfitted_pairs: worlds.World, pair_run: Path, tmp_path: Path
) -> None:
    """A fine-tuned target: what it is shown stands in the recipe, and not in data.prompt."""
    tuned = {"name": "fine-tune-seq2seq", "model": str(pair_run / "models" / "target"), "prompt": "w001 {source}"}
    content = worlds.pair_config(Path(overfitted_pairs.experiment.data.path), worlds.OVERFITTED, 0, shadows=2)
    content |= {"target": {**tuned, "epochs": 1, "batch": 32}, "attacks": ["mean-loss", "reference"]}
    content["shadows"] = {"count": 2, "changes": [{"prompt": "w002 {source}"}, {}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    done = CliRunner().invoke(
        app, ["audit", str(tmp_path / "config.yaml"), "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.output
    pool, run = overfitted_pairs.target.pool, opened(tmp_path / "run")
    every = list(zip(pool.records["source"], pool.records["target"], strict=True))
    for name, report in run.reports.items():
        who = report.units[0]
        pairs = [every[row] for row in np.flatnonzero(pool.unit == pool.names.index(who))]
        (answer,) = query(run, name, cache=tmp_path / "none").ask([user_of_pairs(who, pairs)])
        assert answer.score == pytest.approx(report.scores[0], rel=1e-4, abs=1e-5)
