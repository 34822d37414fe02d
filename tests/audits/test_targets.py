"""A model behind HTTP as the target of `hf-mia audit`: members found, budgets kept, keys nowhere; what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from serving import Formats, Server, memoriser, serving
from typer.testing import CliRunner
from worlds import pool, table

from hf_mia.audits.experiment import experiment, mapping
from hf_mia.audits.setting import setting
from hf_mia.audits.targets import Hosted
from hf_mia.cli.main import app
from hf_mia.config import override
from hf_mia.models.language import TextCollate, language_model
from hf_mia.services.endpoints import Chat, Completions, TextGeneration
from hf_mia.services.rehearsal import rehearse

KEY = "sk-planted-7d21ee"
USERS, EACH, SEED = 40, 3, 5
MEMBERS = [f"user {i:03d}" for i in range(0, USERS, 4)]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the texts, and a model that knows its members' by heart."""
    folder = tmp_path_factory.mktemp("known")
    pq.write_table(pa.table(table(USERS, EACH, SEED)), folder / "texts.parquet")
    found = pool(USERS, EACH, SEED)
    memoriser(folder / "model", found, np.array([float(name in MEMBERS) for name in found.names]))
    return folder


@pytest.fixture(scope="module")
def server(known: Path) -> Iterator[Server]:
    model = language_model(known / "model")
    assert isinstance(model.collate, TextCollate)
    with serving(Server(Formats(model.load(), model.collate.tokenizer))) as running:
        yield running


@pytest.fixture
def config(known: Path, server: Server) -> dict[str, object]:
    target = {"name": "service", "url": server.url, "model": "m", "access": "prompt", "key": "MY_KEY"}
    target |= {"members": MEMBERS, "provenance": "random_split", "manners": {"pause": 0.01}}
    recipe = {"name": "lstm", "epochs": 60, "vocabulary": 200, "embedding": 16, "hidden": 32, "dropout": 0.0}
    recipe |= {"window": 16, "batch": 8, "learning_rate": 0.01}
    return {
        "data": {"path": str(known / "texts.parquet")},
        "target": target,
        "shadows": {"count": 2, "recipe": recipe},
        "attacks": ["mean-loss", "reference", {"name": "auditmi", "signal": {"top": 5}}, "generation-chrf"],
    }


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' offline mode holds huggingface_hub back from 127.0.0.1 as well."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MY_KEY", KEY)


def written(folder: Path, given: dict[str, object]) -> Path:
    (folder / "service.yaml").write_text(yaml.safe_dump(given))
    return folder / "service.yaml"


def planted(*folders: Path) -> list[Path]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.timeout(900)
def test_an_audit_of_a_service_stops_at_its_budget_and_goes_on(
    config: dict[str, object], server: Server, tmp_path: Path
) -> None:
    """Stopped by a budget of 7 queries, then run again without one, in a process of its own."""
    command = ["audit", str(written(tmp_path, config)), "--cache", str(tmp_path / "cache"), "--json"]
    before = len(server.requests)
    stopped = CliRunner().invoke(app, [*command, "target.budget.queries=7", "--out", str(tmp_path / "none")])
    assert stopped.exit_code == 2
    assert "budget.queries = 7 is spent on m, after 7 queries" in stopped.stderr
    assert "run again to go on" in stopped.stderr
    assert "Traceback" not in stopped.output
    assert stopped.stdout == ""
    assert len(server.requests) == before + 7
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-m", "hf_mia", *command], cwd=tmp_path, env=kept, capture_output=True,
                          text=True, timeout=600, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = server.requests[before:]
    assert {request.authorization for request in asked} == {f"Bearer {KEY}"}
    bodies = [json.dumps(request.body, sort_keys=True) for request in asked]
    assert len(set(bodies)) == len(bodies)  # nothing is paid for twice
    found = json.loads(done.stdout)
    assert found["target"]["service"] == {
        "url": server.url, "provider": None, "endpoint": "completions", "access": "prompt", "shown": 5
    }  # fmt: skip
    for name in ("mean-loss", "reference", "auditmi (signal.top=5)", "generation-chrf"):
        assert found["attacks"][name]["estimates"]["auc"]["value"] > 0.8, name
    assert found["verdict"] == "leak"
    assert (tmp_path / "runs" / "service" / "figures" / "ranks.png").exists()
    assert not planted(tmp_path)
    assert KEY not in done.stdout + done.stderr + stopped.output
    shutil.copytree(tmp_path / "cache" / "models", tmp_path / "other" / "models")
    other = ["--cache", str(tmp_path / "other"), "--out", str(tmp_path / "whole"), "--json"]
    whole = CliRunner().invoke(app, ["audit", str(tmp_path / "service.yaml"), *other])
    again = json.loads(whole.stdout)
    counted = [one.pop("queries") for one in (found, again)]
    assert [(one["sent"], one["refused"], one["from_cache"]) for one in counted] == [
        (len(asked) - 7, 0, 7),
        (len(asked), 0, 0),
    ]
    assert again == found

    refused = CliRunner().invoke(app, ["query", str(tmp_path / "runs" / "service"), "--text", "one text"])
    assert refused.exit_code == 2
    assert "its target is a service" in refused.stderr
    assert "run `hf-mia audit` again" in refused.stderr


def test_a_dry_run_counts_the_queries_and_sends_none(config: dict[str, object], server: Server, tmp_path: Path) -> None:
    before = len(server.requests)
    options = ["--dry-run", "--cache", str(tmp_path / "cache"), "target.budget.queries=100", "target.manners.rate=2.0"]
    done = CliRunner().invoke(app, ["audit", str(written(tmp_path, config)), *options])
    assert done.exit_code == 0, done.output
    texts = 2 * len(MEMBERS) * EACH
    assert f"of these to the service: {2 * texts}, less those that it has answered, at manners.rate = 2" in done.stdout
    assert "more than budget.queries = 100, so in several runs" in done.stdout
    assert len(server.requests) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["attacks=[auditmi]"], r"attack 'auditmi' cannot be played on the service m: top must be 1 to 5.*'mean-loss'"),
        (["target.access=text"], r"attack 'mean-loss' .* shows text alone.*'auditmi-sampled', 'samia'"),
        (["target.access=top-k"], r"attack 'mean-loss' .*shows \['rank', 'shown', 'start'\], and not 'logprob'"),
        (["attacks=[recall]"], r"'recall' .*asks by Prefixed.*by Tokens or Continuations alone"),
        (["sweeps={w: {attacks: [mean-rank], values: [1, 10]}}"], r"'w: mean-rank \(signal.top=10\)'.*1 to 5"),
        (["target.endpoint=text-generation", "target.url=null"], "exactly one of url and provider .* none is set"),
        (["target.provider=auto"], "endpoint = completions takes a url"),
        (["target.model=''"], "model must be the name by which the service knows"),
        (["target.key=hf_abcdefghijklmnop"], "key must be the name of an environment variable"),
        (["target.access=promt"], "target.access = 'promt' has the wrong type: Input should be 'prompt', 'top-k' or"),
        (["target.budget.queries=-1"], "budget.queries must be 0 or more"),
        (["shadows.recipe=null"], "trained elsewhere, so shadows.recipe must name"),
        (["attacks=[base-reference]", "target.reference=auto"], "reads a model's card, and a service has none"),
        (["controls=[untrained]"], "trained elsewhere: controls and grid need"),
        (["target.members=[]"], "exactly one of target.members"),
    ],
)  # fmt: skip
def test_what_a_service_cannot_serve_is_said_before_anything_is_sent(
    config: dict[str, object], server: Server, tmp_path: Path, changes: list[str], said: str
) -> None:
    from hf_mia.audits.games import games

    before = len(server.requests)
    with pytest.raises(ValueError, match=said) as caught:
        games(setting(experiment(override(config, changes))), tmp_path)
    assert len(server.requests) == before
    assert not list(tmp_path.glob("models/*"))
    assert "hf_abc" not in str(caught.value)


def test_a_tuned_model_behind_a_service_is_set_against_its_base_here(
    config: dict[str, object], known: Path, tmp_path: Path
) -> None:
    base = memoriser(tmp_path / "base", pool(USERS, EACH, SEED), np.ones(USERS), steps=15)
    changes = ["attacks=[base-reference]", "shadows.count=0", f"target.reference={base}"]
    command = ["audit", str(written(tmp_path, config)), *changes, "--cache", str(tmp_path / "cache"), "--json"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["reference"]["name"] == str(base)
    assert found["attacks"]["base-reference"]["estimates"]["auc"]["value"] > 0.9


def test_a_service_is_asked_about_texts(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"about texts, but data\.kind is images"):
        experiment({"data": "images", "target": config["target"], "shadows": {"count": 0}, "attacks": ["encodermi-t"]})


def test_a_service_survives_a_yaml_round_trip(config: dict[str, object]) -> None:
    target = {"endpoint": "chat", "url": None, "provider": "auto", "instruction": "Go on:", "version": "2026-01"}
    target |= {"budget": {"cost": 2.5, "prompt_price": 1.0}, "manners": {"rate": 0.5, "threads": 2}, "positions": 3}
    made = experiment({**config, "target": {**config["target"], **target}})  # type: ignore[dict-item]
    assert experiment(yaml.safe_load(yaml.safe_dump(mapping(made)))) == made
    assert isinstance(made.target, Hosted)
    assert made.target.budget.cost == 2.5
    assert made.provenance == "random_split"


@pytest.mark.parametrize(
    ("access", "shadows", "expected"),
    [
        ("prompt", 2, ["reference", "mean-loss"]),  # the others read ranks, which are cut
        ("prompt", 0, ["mean-loss"]),
        ("top-k", 2, ["generation-chrf", "generation-rouge", "generation-edit"]),
        ("text", 2, ["generation-chrf", "generation-rouge", "generation-edit"]),
    ],
)
def test_a_service_is_asked_what_it_can_answer_where_no_attack_is_named(
    config: dict[str, object], access: str, shadows: int, expected: list[str]
) -> None:
    """What stands beside AuditMI elsewhere, less what reads more than is shown; and it can be rehearsed."""
    given = {name: value for name, value in config.items() if name != "attacks"}
    made = experiment(override(given, [f"target.access={access}", f"shadows.count={shadows}"]))
    assert list(made.attacks) == expected
    assert isinstance(made.target, Hosted)
    rehearse(made.target.service(), made.attacks, shadows)
    assert experiment(yaml.safe_load(yaml.safe_dump(mapping(made)))) == made


def test_every_endpoint_can_be_named() -> None:
    url = "https://host/v1"
    named = {kind: Hosted(model="m", url=url, endpoint=kind).service().endpoint for kind in
             ("completions", "chat", "text-generation")}  # type: ignore[arg-type]  # fmt: skip
    assert named == {
        "completions": Completions("m", url),
        "chat": Chat("m", url),
        "text-generation": TextGeneration("m", url),
    }
