"""Asking a finished run: valid p-values, answers that need nothing but the folder, words beside their ranks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from hf_mia.cli.main import app
from hf_mia.core import Evidence, Floats
from hf_mia.queries.calibration import Calibration
from hf_mia.queries.opened import opened
from hf_mia.queries.query import Answer, Query, Unit, picture, query, user

N = worlds.OVERFITTED // 4


@pytest.fixture(scope="module")
def asked(run_folder: Path) -> dict[str, Query]:
    return {name: query(opened(run_folder), name) for name in worlds.ASKED}


def texts_of(world: worlds.World, member: int) -> dict[str, list[str]]:
    """The texts of the target's members, or of its non-members, by user."""
    pool = world.target.pool
    every = list(pool.records["text"])
    return {
        pool.names[i]: [every[row] for row in np.flatnonzero(pool.unit == i)]
        for i in np.flatnonzero(world.target.member == member)
    }


def without(one: Query, name: str) -> Query:
    """The same question calibrated on the other non-members."""

    def less(evidence: Evidence) -> Evidence:
        rows = np.array([i for i, other in enumerate(evidence.names) if other != name])
        names = tuple(evidence.names[i] for i in rows)
        return Evidence(evidence.features[rows], evidence.member[rows], names, tuple(map(less, evidence.references)))

    left = {each: less(evidence) for each, evidence in one.calibration.evidence.items()}
    return replace(one, calibration=Calibration(left, one.calibration.learnt))


@pytest.mark.parametrize("name", worlds.ASKED)
def test_members_get_small_p_values(overfitted: worlds.World, asked: dict[str, Query], name: str) -> None:
    answers = asked[name].ask([user(*one) for one in texts_of(overfitted, 1).items()], fpr=0.1)
    p = np.array([answer.p_value for answer in answers])
    assert np.median(p) <= 2 / (N + 1), p
    assert {answer.verdict for answer in answers} <= {"consistent with membership", "not distinguishable"}
    assert all((answer.verdict == "consistent with membership") == (answer.p_value <= 0.1) for answer in answers)
    assert all(answer.read == answer.given == 6 for answer in answers)


@pytest.mark.parametrize("name", worlds.ASKED)
def test_a_non_members_p_value_left_out_is_its_rank(
    overfitted: worlds.World, asked: dict[str, Query], name: str
) -> None:
    """Each non-member against the others: exactly k of n have p <= k / n, so at most a share a is called at a."""
    report = asked[name].run.reports[name]
    found = {}
    for who, texts in texts_of(overfitted, 0).items():
        (answer,) = without(asked[name], who).ask([user("x", texts)])
        found[who] = answer
        assert len(answer.calibration) == N - 1
        stored = report.scores[report.units.index(who)]  # what the audit itself said, from all texts
        assert answer.score == pytest.approx(stored, rel=1e-4, abs=1e-5)
    scores = np.array([answer.score for answer in found.values()])
    expected = [(scores >= score - 1e-6).sum() / N for score in scores]
    np.testing.assert_allclose([answer.p_value for answer in found.values()], expected)
    p = np.array([answer.p_value for answer in found.values()])
    for k in range(1, N + 1):
        assert (p <= k / N + 1e-12).sum() <= k


def test_a_text_is_compared_with_one_text_of_each_non_member(overfitted: worlds.World, asked: dict[str, Query]) -> None:
    """The audit drew one text of each: asked about it with its user left out, the p-values are exactly ranks again."""
    one = asked["auditmi-relative"]
    drawn = []
    for i, (who, texts) in enumerate(texts_of(overfitted, 0).items()):
        answers = without(one, who).ask([user(str(k), [text]) for k, text in enumerate(texts)])
        (again,) = one.ask([user("x", texts)])
        for alone, part in zip(answers, again.records, strict=True):
            assert alone.score == pytest.approx(part.score, abs=1e-4)
            assert len(part.calibration) == N
            assert part.read == 1
        stored = again.records[0].calibration[i]
        (own,) = [answer for answer in answers if abs(answer.score - stored) < 1e-4]
        drawn.append(own.p_value)
    np.testing.assert_allclose(np.sort(drawn), np.arange(1, N + 1) / N)


def test_single_texts_of_members_stand_out(overfitted: worlds.World, asked: dict[str, Query]) -> None:
    sides = []
    for member in (1, 0):
        units = [user("x", [text]) for texts in texts_of(overfitted, member).values() for text in texts]
        sides.append(np.mean([answer.p_value for answer in asked["auditmi-relative"].ask(units)]))
    assert sides[0] < 0.25
    assert 0.35 < sides[1] < 0.7


def test_a_score_is_what_a_naive_loop_says(overfitted: worlds.World, asked: dict[str, Query], run_folder: Path) -> None:
    """`reference`: the mean log-probability of all words by the target, less the shadows' mean, token by token."""
    texts = ["w003 w100 w007 w055", "w010 w020"]
    (answer,) = asked["reference"].ask([user("x", texts)])
    levels = []
    for folder in ("target", "shadow-001", "shadow-002", "shadow-003"):
        levels.append(np.concatenate([naive(run_folder / "models" / folder, text)[1] for text in texts]).mean())
    assert answer.score == pytest.approx(levels[0] - np.mean(levels[1:]), abs=1e-4)
    above = (answer.calibration >= answer.score).sum()
    assert answer.p_value == (1 + above) / (1 + len(answer.calibration))
    assert f"{above} of {N} non-members" in answer.why


def naive(folder: Path, text: str) -> tuple[list[int], Floats]:
    """Rank and log-probability of each token of a short text, by sorting all logits of one row."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
    ids = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    order = [sorted(range(logits.shape[1]), key=lambda j, row=row: -row[j]).index(t) for row, t in zip(logits, ids[1:])]  # noqa: B905
    logp = [float(row.log_softmax(0)[t]) for row, t in zip(logits, ids[1:])]  # noqa: B905
    return order, np.array(logp)


def test_words_stand_beside_their_ranks(asked: dict[str, Query], run_folder: Path) -> None:
    text = "w003 W100, unheard w007"
    (answer,) = asked["auditmi"].ask([user("x", [text])])
    ranks, logp = naive(run_folder / "models" / "target", text)
    assert [word.text for word in answer.words] == ["w003", "W100", ",", "unheard", "w007"]
    assert [word.rank for word in answer.words] == ranks
    np.testing.assert_allclose([word.logprob for word in answer.words], logp, atol=1e-5)
    assert [word.known for word in answer.words] == [True, True, False, False, True]
    assert all(word.begins for word in answer.words)


def test_unknown_words_only_are_answered_and_said(asked: dict[str, Query]) -> None:
    (answer,) = asked["auditmi"].ask([user("x", ["nothing that anybody knows"])])
    assert not any(word.known for word in answer.words)
    assert "knows none of its words" in answer.why
    assert 0 < answer.p_value <= 1


@pytest.mark.parametrize("texts", [[], [""], [" \n\t", ""]])
def test_where_there_is_nothing_to_read_nothing_is_said(asked: dict[str, Query], texts: list[str]) -> None:
    silent, other = asked["auditmi"].ask([user("x", texts), user("y", ["w001 w002"])])
    assert silent.verdict == "n/a"
    assert silent.p_value is silent.score is None
    assert silent.given == 0
    assert "nothing to read" in silent.why
    assert other.score is not None
    assert asked["auditmi"].ask([user("x", texts)])[0].verdict == "n/a"
    assert asked["auditmi"].ask([]) == []


@pytest.mark.parametrize("name", worlds.ASKED)
def test_users_are_answered_each_by_themselves(overfitted: worlds.World, asked: dict[str, Query], name: str) -> None:
    units = [user(*one) for one in [*texts_of(overfitted, 1).items()][:3]]
    units += [user("short", ["w001"]), user("blank", [" "]), user("seven", ["w004 w005"] * 7)]
    together = asked[name].ask(units)
    assert [answer.unit for answer in together] == [unit.name for unit in units]
    assert [(answer.given, answer.read) for answer in together[3:]] == [(1, 1), (0, 0), (7, 6)]
    for unit, answer in zip(units, together, strict=True):
        (alone,) = asked[name].ask([unit])
        assert (alone.p_value, alone.verdict) == (answer.p_value, answer.verdict)
        assert len(alone.records) == (len(unit.records) if answer.given > 1 else 0)


def test_which_texts_are_read_does_not_hang_on_their_order(asked: dict[str, Query]) -> None:
    texts = ["w001 w002 w090", "w050 w003", "w077 w100 w101", "w020", "w033 w034"]
    first, second = asked["mean-loss"].ask([user("a", texts), user("b", texts[::-1])])
    assert first.read == 4
    assert first.given == 5
    assert first.score == pytest.approx(second.score, abs=1e-5)
    words = [np.sum([word.logprob for word in part.words]) for part in first.records]
    sizes = [len(part.words) for part in first.records]
    left = [(sum(words) - w) / (sum(sizes) - s) for w, s in zip(words, sizes, strict=True)]
    assert np.isclose(left, first.score, atol=1e-5).sum() == 1  # it is the mean over some four of them


@pytest.mark.parametrize(("fpr", "resolved"), [(1 / 17, True), (0.0588, False), (0.01, False), (0.5, True)])
def test_what_so_few_non_members_cannot_resolve_is_not_said(
    asked: dict[str, Query], fpr: float, resolved: bool
) -> None:
    (answer,) = asked["auditmi"].ask([user("x", ["w001 w002"])], fpr)
    assert (answer.verdict != "n/a") == resolved
    assert ("cannot be resolved" in answer.why) != resolved
    assert answer.p_value is not None


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_false_positive_rate_is_a_share(asked: dict[str, Query], fpr: float) -> None:
    with pytest.raises(ValueError, match="fpr must lie between 0 and 1"):
        asked["auditmi"].ask([user("x", ["w001"])], fpr)


def test_records_must_hold_what_the_model_takes(asked: dict[str, Query]) -> None:
    with pytest.raises(ValueError, match=r"takes \['text'\] of each record, and some lack \['text'\]"):
        asked["auditmi"].ask([Unit("x", ({"body": "w001"},))])


def test_the_folder_alone_answers_the_same(overfitted: worlds.World, run_folder: Path, tmp_path: Path) -> None:
    """Moved, and without a cache; the words of members make the answers more than noise."""
    moved = shutil.copytree(run_folder, tmp_path / "elsewhere" / "run")
    units = [user(*one) for one in [*texts_of(overfitted, 1).items()][:4]]
    for name in worlds.ASKED:
        here, there = (query(opened(place), name, cache=tmp_path / "none") for place in (run_folder, moved))
        assert [a.to_dict() for a in here.ask(units)] == [a.to_dict() for a in there.ask(units)]


def test_a_question_leaves_nothing_on_disk(
    asked: dict[str, Query], overfitted: worlds.World, run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def files() -> set[Path]:
        return {path for place in (overfitted.cache, run_folder, tmp_path) for path in place.rglob("*")}

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = files()
    asked["auditmi-relative"].ask([user("x", ["w001 w002"])])
    assert files() == before


@pytest.fixture(scope="module")
def bare(overfitted: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps no model; the attack that compares stands first."""
    attacks = ("auditmi-relative", "auditmi", "auditmi-frequency")
    return worlds.audited(overfitted, tmp_path_factory.mktemp("bare"), "--keep", "0", attacks=attacks)


def test_without_kept_models_there_is_the_cache(
    bare: Path, overfitted: worlds.World, asked: dict[str, Query], tmp_path: Path
) -> None:
    assert not (bare / "models").exists()
    units = [user("x", ["w001 w002", "w003"])]
    found = query(opened(bare), cache=overfitted.cache)
    assert found.name == "auditmi-relative"
    assert found.ask(units)[0].score == asked["auditmi-relative"].ask(units)[0].score
    with pytest.raises(ValueError, match="neither in its folder nor in the cache: name its folder or Hub id"):
        query(opened(bare), cache=tmp_path)


def test_an_attack_that_compares_is_passed_over_without_shadows(
    bare: Path, run_folder: Path, asked: dict[str, Query]
) -> None:
    target = run_folder / "models" / "target"
    found = query(opened(bare), model=target)
    assert found.name == "auditmi"
    assert found.hindered["auditmi"] == found.hindered["auditmi-frequency"] == ""
    assert "compares the target with 3 shadows, and the models of 3 are neither" in found.hindered["auditmi-relative"]
    units = [user("x", ["w001 w002", "w003"])]
    assert found.ask(units)[0].score == asked["auditmi"].ask(units)[0].score
    with pytest.raises(
        ValueError, match=r"cannot be asked from this folder.*Those that can: \['auditmi', 'auditmi-freq"
    ):
        query(opened(bare), "auditmi-relative", model=target)


def test_another_model_is_refused(bare: Path, run_folder: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    for other in (gpt2_folder, run_folder / "models" / "shadow-001"):
        with pytest.raises(ValueError, match="other weights or another processor than the 'target' that was audited"):
            query(opened(bare), "auditmi", model=other)


def test_an_unknown_attack_is_refused_by_name(run_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'auditmy' is no attack of this run: did you mean 'auditmi'\?"):
        query(opened(run_folder), "auditmy")


def test_what_a_signal_learnt_must_be_there(run_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run_folder, tmp_path / "run")
    (moved / "calibration" / "auditmi-frequency" / "learnt.safetensors").unlink()
    with pytest.raises(ValueError, match="its signal learnt from the attacker's texts, and common is not kept"):
        query(opened(moved), "auditmi-frequency")
    shutil.rmtree(moved / "calibration" / "auditmi")
    with pytest.raises(ValueError, match="nothing is kept of what it read off known non-members"):
        query(opened(moved), "auditmi")
    assert query(opened(moved)).name == "auditmi-rarest-texts"


@pytest.fixture(scope="module")
def elsewhere(gpt2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a model that was trained elsewhere, with a context of 16 tokens."""
    folder = tmp_path_factory.mktemp("elsewhere")
    data = worlds.write(folder / "texts.parquet", 40)
    (folder / "members.txt").write_text("\n".join(f"user {i:03d}" for i in range(20)))
    target = [f"target.model={gpt2_folder}", f"target.members_file={folder / 'members.txt'}", f"data.path={data}"]
    (folder / "config.yaml").write_text(
        "target: {name: checkpoint}\nshadows: {count: 0}\nattacks: [mean-rank, mean-loss]"
    )
    given = ["audit", folder / "config.yaml", *target, "--out", folder / "run", "--cache", folder / "cache"]
    done = CliRunner().invoke(app, [str(one) for one in given])
    assert done.exit_code == 0, done.output
    return folder / "run"


def test_a_model_from_elsewhere_is_found_where_the_config_says(elsewhere: Path, gpt2_folder: Path) -> None:
    assert not (elsewhere / "models").exists()
    found = query(opened(elsewhere))
    assert found.target.name == str(gpt2_folder)
    (answer,) = found.ask([user("x", ["w001 w002 w003"])])
    ranks, _ = naive(gpt2_folder, "w001 w002 w003")
    assert answer.score == -np.mean(ranks)
    assert len(answer.calibration) == 20


def test_a_text_longer_than_the_context_is_read_whole(elsewhere: Path) -> None:
    text = " ".join(f"w{i:03d}" for i in range(60))
    (answer,) = query(opened(elsewhere), "mean-loss").ask([user("x", [text])])
    assert [word.text for word in answer.words] == text.split()
    assert answer.score == pytest.approx(np.mean([word.logprob for word in answer.words]))


TINY = {"name": "simclr", "architecture": "vgg11", "width": 8, "size": 8, "epochs": 0, "batch": 16, "splits": 1}


@pytest.fixture(scope="module")
def encoder_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    config = {"data": {"kind": "images"}, "split": {"members": 24}, "target": TINY, "controls": []}
    config["attacks"] = ["downstream-confidence", "encodermi-t", {"name": "encodermi-v", "classifier": {"epochs": 3}}]
    (folder / "config.yaml").write_text(json.dumps(config))
    given = ["audit", folder / "config.yaml", "--out", folder / "run", "--cache", folder / "cache"]
    done = CliRunner().invoke(app, [str(one) for one in given])
    assert done.exit_code == 0, done.output
    return folder / "run"


def test_images_are_asked_about_one_by_one(encoder_run: Path, tmp_path: Path) -> None:
    """An image of the audit is scored as the audit scored it."""
    from hf_mia.data.images import Images

    pool = Images().load()
    run = opened(encoder_run)
    for name in list(run.experiment.attacks)[1:]:
        report = run.reports[name]
        units = []
        for unit in report.units[:5]:
            path = tmp_path / f"{unit}.png"
            path.write_bytes(pool.records[pool.names.index(unit)]["image"]["bytes"])
            units.append(picture(path))
        answers = query(run, name, cache=tmp_path).ask(units)
        np.testing.assert_allclose([a.score for a in answers], report.scores[:5], rtol=1e-4, atol=1e-5)
        for answer, unit in zip(answers, units, strict=True):
            assert answer.unit == unit.name
            assert answer.words == answer.records == ()
            np.testing.assert_allclose(np.sort(answer.calibration), np.sort(report.scores[~report.member]), atol=1e-5)


def test_an_attack_on_classifiers_is_passed_over(encoder_run: Path, tmp_path: Path) -> None:
    found = query(opened(encoder_run), cache=tmp_path)
    assert found.name == "encodermi-t"
    assert found.hindered["downstream-confidence"] == "the classifiers that were trained on the encoders are not kept."


def test_a_picture_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a file of at most 128 megabytes"):
        picture(tmp_path)


def test_a_broken_picture_is_refused(encoder_run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="image"):
        query(opened(encoder_run), cache=tmp_path).ask([picture(tmp_path / "x.png")])


def test_an_answer_is_json(asked: dict[str, Query]) -> None:
    answers = asked["auditmi"].ask([user("x", ["w001 w002", "w003"]), user("y", [])])
    for answer in answers:
        told = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
        assert told["p_value"] == answer.p_value
        assert told["calibration"] == answer.calibration.tolist()
        assert [record["unit"] for record in told["records"]] == [record.unit for record in answer.records]
    assert told == Answer("y", "n/a", answers[1].why, 0).to_dict()
