"""What a model's card says that it was tuned from, and a fine-tune audited against it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset
from hub import serving
from serving import memoriser
from transformers import LlamaForCausalLM
from typer.testing import CliRunner
from worlds import each, pool, table

from hf_mia.attacks.relative import Against
from hf_mia.attacks.threshold import Threshold
from hf_mia.audits.experiment import experiment
from hf_mia.audits.games import games, trained
from hf_mia.audits.setting import setting
from hf_mia.cli.main import app
from hf_mia.config import override
from hf_mia.core import Evidence, Game
from hf_mia.models.checkpoints import base_model
from hf_mia.models.language import language_model
from hf_mia.probes.tokens import Tokens
from hf_mia.queries.opened import opened
from hf_mia.queries.query import query, user
from hf_mia.runner import Runner
from hf_mia.signals.language import MeanLoss

USERS, EACH, SEED = 24, 3, 8
MEMBERS = [f"user {i:03d}" for i in range(0, USERS, 2)]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, a base that knows all of them a little, and one tuned from it on its members' texts."""
    folder = tmp_path_factory.mktemp("tuned")
    pq.write_table(pa.table(table(USERS, EACH, SEED)), folder / "texts.parquet")
    found = pool(USERS, EACH, SEED)
    base = memoriser(folder / "base", found, np.ones(USERS), steps=15)
    model = language_model(base)
    module = LlamaForCausalLM.from_pretrained(base, use_safetensors=True, trust_remote_code=False)
    inside = [row for row, unit in enumerate(found.unit) if found.names[unit] in MEMBERS]
    batch = model.collate.pad(model.collate.encode(found.records[inside]))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.005)
    for _ in range(40):
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        module(**{name: batch[name] for name in ("input_ids", "attention_mask")}, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    shutil.copytree(base, folder / "tuned")
    module.save_pretrained(folder / "tuned")
    (folder / "tuned" / "README.md").write_text(f"---\nlicense: mit\nbase_model: {base}\n---\n# Tuned\n")
    return folder


def config(known: Path) -> dict[str, object]:
    return {
        "data": {"path": str(known / "texts.parquet")},
        "target": {"name": "checkpoint", "model": str(known / "tuned"), "members": MEMBERS},
        "shadows": {"count": 0},
        "attacks": ["base-reference", "mean-loss"],
    }


def test_a_fine_tune_is_set_against_what_its_card_names(known: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config(known)))
    out = tmp_path / "run"
    command = ["audit", str(tmp_path / "c.yaml"), "--cache", str(tmp_path / "cache"), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["reference"]["name"] == str(known / "base")
    assert found["reference"]["key"] == language_model(known / "base").key
    by, alone = (found["attacks"][name] for name in ("base-reference", "mean-loss"))
    assert by["estimates"]["auc"]["value"] > 0.9
    assert by["report"]["threshold"] is None
    records = pool(USERS, EACH, SEED)
    naive = {}
    for sign, name in ((1, "tuned"), (-1, "base")):
        rows = each(Runner(tmp_path)(language_model(known / name), Tokens(), records.records))
        words: dict[str, list[float]] = {}
        for unit, row in zip(records.unit, rows, strict=True):
            words.setdefault(records.names[unit], []).extend(map(float, row["logprob"]))
        for unit, logprobs in words.items():
            naive[unit] = naive.get(unit, 0.0) + sign * sum(logprobs) / len(logprobs)
    np.testing.assert_allclose(by["report"]["scores"], [naive[unit] for unit in by["report"]["units"]], atol=1e-9)
    assert not list((out / "evidence" / "mean-loss").glob("shadow-*"))  # the base is no shadow of other attacks
    assert alone["report"]["scores"] != by["report"]["scores"]
    whole = found["dataset_inference"]
    assert (whole["attack"], whole["suspect"], whole["held_out"]) == ("base-reference", 12, 12)
    assert whole["p_value"] == pytest.approx(0.001)  # of 999 draws none reaches the members' mean
    assert whole["false_alarms"] < 0.2
    assert (out / "models" / "reference" / "model.safetensors").exists()
    dry = CliRunner().invoke(app, [*command[:-1], "--dry-run"])
    assert f"queries: {2 * USERS * EACH} texts" in dry.stdout


@pytest.fixture(scope="module")
def tuned_run(known: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run against the base, with two shadows beside, which only the other attack is set against."""
    folder = tmp_path_factory.mktemp("tuned-run")
    given = override(config(known), ["shadows={count: 2, recipe: {name: lstm, epochs: 1}}", "split.members=4"])
    given = override(given, [f"target.members={MEMBERS[:4]}", "attacks=[base-reference, reference]"])
    (folder / "c.yaml").write_text(yaml.safe_dump(given))
    command = ["audit", str(folder / "c.yaml"), "--cache", str(folder / "cache"), "--out", str(folder / "run")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return folder / "run"


def test_a_base_is_loaded_as_the_target_is(known: Path, tmp_path: Path) -> None:
    """In the same numbers: a base in others answers otherwise, and was not what the audit asked."""
    given = override(config(known), ["target.dtype=bfloat16", "attacks=[base-reference]"])
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))
    command = ["audit", str(tmp_path / "c.yaml"), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    run = opened(tmp_path / "run")
    assert run.base is not None
    assert run.base.key != language_model(known / "base").key
    (reference,) = query(run, "base-reference", cache=tmp_path / "none").references
    assert reference.key == run.base.key
    assert next(reference.load().parameters()).dtype == torch.bfloat16


def loss(folder: Path, text: str) -> float:
    rows = each(Runner(folder / "asked")(language_model(folder), Tokens(), Dataset.from_dict({"text": [text]})))
    return -float(np.mean(next(iter(rows))["logprob"]))


def test_a_run_is_asked_beside_the_base(tuned_run: Path, known: Path, tmp_path: Path) -> None:
    """From the kept copy, from where the audit loaded it, and not from another model."""
    text = pool(USERS, EACH, SEED).records["text"][0]
    for number, name in enumerate(("tuned", "base")):
        shutil.copytree(known / name, tmp_path / name, dirs_exist_ok=bool(number))
    expected = loss(tmp_path / "base", text) - loss(tmp_path / "tuned", text)
    copy = shutil.copytree(tuned_run, tmp_path / "run")
    kept = query(opened(copy), "base-reference", cache=tmp_path / "none").ask([user("x", [text])])[0]
    assert kept.score == pytest.approx(expected, abs=1e-5)
    report = opened(copy).reports["base-reference"]
    assert len(kept.calibration) == sum(~report.member)
    shutil.rmtree(copy / "models" / "reference")
    loaded = query(opened(copy), "base-reference", cache=tmp_path / "none").ask([user("x", [text])])[0]
    assert loaded.score == kept.score
    shutil.copytree(known / "tuned", copy / "models" / "reference")
    with pytest.raises(ValueError, match=r"has other weights or another processor than the .*base"):
        query(opened(copy), "base-reference")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/no/such/base", r"tuned from, '/no/such/base', which is neither in the run folder nor there: put it there"),
        ("org/base", r"was tuned from 'org/base', which is not in its folder and cannot be loaded: .*Hub"),
        (None, r"report.json does not tell which model the target was tuned from"),
    ],
)
def test_a_base_that_is_not_to_be_had_is_named(tuned_run: Path, tmp_path: Path, source: str | None, said: str) -> None:
    copy = shutil.copytree(tuned_run, tmp_path / "run")
    shutil.rmtree(copy / "models" / "reference")
    told = json.loads((copy / "report.json").read_text())
    told["reference"] = {**told["reference"], "name": source}
    if source is None:
        del told["reference"]
    (copy / "report.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=said):
        query(opened(copy), "base-reference")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["target.model={base}"], r"base' has no README.md, whose base_model .*: set target.reference"),
        (["target.reference={tuned}"], "which has the target's own weights"),
        (["target.reference={folder}/nowhere"], "nowhere' is neither a local folder nor a Hub id|Hub could not be"),
        (["target.reference=null"], "takes 1 shadows or more, but shadows.count is 0"),
    ],
)  # fmt: skip
def test_a_reference_that_does_not_fit_is_refused(known: Path, tmp_path: Path, changes: list[str], said: str) -> None:
    given = [c.format(base=known / "base", tuned=known / "tuned", folder=known) for c in changes]
    with pytest.raises(ValueError, match=said):
        based(override(config(known), given), tmp_path)


def based(given: dict[str, object], cache: Path) -> Game | None:
    return trained([setting(experiment(given))], cache)[0].base


def test_without_such_an_attack_no_card_is_needed(known: Path, tmp_path: Path) -> None:
    given = override(config(known), [f"target.model={known / 'base'}", "attacks=[mean-loss]"])
    assert not experiment(given).based
    target, shadows = games(setting(experiment(given)), tmp_path)
    assert (len(target.pool.names), shadows) == (USERS, [])


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nbase_model: org/base\n---\ntext", "org/base"),
        ("---\nlicense: mit\nbase_model:\n- org/base\n---\n", "org/base"),
        ("---\nbase_model: ' org/base'\n---\n", "org/base"),
        ("---\nlicense: mit\n---\n", "names no base_model"),
        ("# no front matter", "names no base_model"),
        ("---\nbase_model: []\n---\n", "names no base_model"),
        ("---\nbase_model: [a/b, c/d]\n---\n", r"names 2 models as base_model, \['a/b', 'c/d'\]: set target.reference"),
        ("---\nbase_model: 7\n---\n", "is no model's id"),
        ("---\nbase_model: [[a]]\n---\n", "is no model's id"),
        ("---\nbase_model: !!python/name:os.system\n---\n", "cannot be read"),
        ("---\nbase_model: [a\n---\n", "cannot be read"),
        ("---\n- base_model\n---\n", "cannot be read"),
    ],
)
def test_a_card_names_one_base_or_says_what_is_wrong(tmp_path: Path, card: str, found: str) -> None:
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    if found == "org/base":
        assert base_model(tmp_path, "m") == found
    else:
        with pytest.raises(ValueError, match=found):
            base_model(tmp_path, "m")


def test_the_card_of_a_model_on_the_hub_is_read(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "README.md").write_text("---\nbase_model: org/base\n---\n")
    code = "from hf_mia.models.checkpoints import base_model, folder_of; print(base_model(folder_of('org/m'), 'org/m'))"
    with serving() as hub:
        hub.add("models/org/m", tmp_path / "model")
        assert hub.python(code, tmp_path).strip() == "org/base"


def test_it_needs_a_reference_and_learns_from_none() -> None:
    def evidence(*features: float, member: float = np.nan, beside: tuple[Evidence, ...] = ()) -> Evidence:
        rows = np.array(features)[:, None]
        return Evidence(rows, np.full(len(rows), member), ("a", "b"), beside)

    bases = evidence(1.0, 2.0, member=0), evidence(3.0, 8.0, member=0)
    scorer = Against(Threshold(MeanLoss())).fit([evidence(5.0, -5.0, member=1.0)])
    assert scorer.threshold is None
    assert scorer.score(evidence(10.0, 20.0, beside=bases)).tolist() == [8.0, 15.0]
    with pytest.raises(ValueError, match="Against compares units across models, but 2 of 2 units have no"):
        scorer.score(evidence(10.0, 20.0))
