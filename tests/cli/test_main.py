"""The command line as a person meets it: a run folder, a table, JSON, one-line errors, a Ctrl-C that loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import worlds
import yaml
from typer.testing import CliRunner, Result

from hf_mia.audits.demo import DEMOS
from hf_mia.audits.experiment import experiment, mapping
from hf_mia.audits.folder import read_evidence
from hf_mia.cli.main import app
from hf_mia.papers import PAPERS
from hf_mia.recipes.named import RECIPES
from hf_mia.reports.report import Report

USERS = 4 * 6


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    content = worlds.config(worlds.write(folder / "texts.parquet", USERS), USERS, epochs=15)
    content["attacks"] = ["auditmi", "auditmi-relative", {"name": "mean-rank", "signal": {"top": 5}}]
    content["sweeps"] = {"w": {"attacks": ["mean-rank"], "field": "signal.top", "values": [1, 10, None]}}
    (folder / "audit.yaml").write_text(yaml.safe_dump(content))
    return folder / "audit.yaml"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(config: Path) -> tuple[Path, Result]:
    out = config.parent / "run"
    done = call("audit", config, "--cache", config.parent / "cache", "--out", out)
    assert done.exit_code == 0, done.output
    return out, done


def strict(path: Path) -> dict[str, object]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_run_writes_a_folder_that_can_be_read_back(run: tuple[Path, Result], config: Path) -> None:
    out, _ = run
    found = strict(out / "report.json")
    names = ["auditmi", "auditmi-relative", "mean-rank (signal.top=5)"]
    assert list(found["attacks"]) == names
    for name in names:
        report = Report.from_dict(found["attacks"][name]["report"])
        assert report.auc.value == found["attacks"][name]["estimates"]["auc"]["value"]
        target = read_evidence(out / "evidence" / name / "target.parquet")
        assert np.isnan(target.member).all()
        assert target.names == report.units
        shadow = read_evidence(out / "evidence" / name / "shadow-001.parquet")
        assert shadow.member.sum() == USERS // 4
    assert found["users"] == {"members": 6, "non_members": 6, "attacker": 12, "shadows": 3}
    assert found["sweeps"]["w"]["values"] == [1, 10, None]
    assert found["membership_provenance"] == "random_split"
    assert experiment(yaml.safe_load((out / "config.yaml").read_text())) == experiment(
        yaml.safe_load(config.read_text())
    )
    for figure in ("roc", "scores", "ranks", "sweep-w"):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_every_attack_can_be_refitted_from_the_evidence_alone(run: tuple[Path, Result]) -> None:
    out, _ = run
    found = strict(out / "report.json")
    for name, attack in experiment(yaml.safe_load((out / "config.yaml").read_text())).attacks.items():
        place = out / "evidence" / name
        shadows = [read_evidence(place / f"shadow-{number:03d}.parquet") for number in (1, 2, 3)]
        scores = attack.fit(shadows).score(read_evidence(place / "target.parquet"))
        np.testing.assert_array_equal(scores, found["attacks"][name]["report"]["scores"])


def test_the_same_run_again_asks_nothing_and_says_the_same(run: tuple[Path, Result], config: Path) -> None:
    out, _ = run
    cache = config.parent / "cache"
    before = kept(cache)
    stale = config.parent / "again" / "evidence" / "auditmi" / "target.reference-009.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another run")
    done = call("audit", config, "--cache", cache, "--out", config.parent / "again", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == strict(out / "report.json")
    assert not stale.exists()
    assert (config.parent / "again" / "report.json").read_bytes() == (out / "report.json").read_bytes()
    assert kept(cache) == before


def kept(cache: Path) -> dict[Path, int]:
    """When each file of a cache was written; those of locks hold nothing."""
    return {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"}


def test_the_table_names_every_attack_and_the_verdict(run: tuple[Path, Result]) -> None:
    _, done = run
    for words in ("auditmi-", "relative", "blind (no", "TPR@1%", "n/a", "Verdict by auditmi", "report.json"):
        assert words in done.stdout


def test_an_attack_that_is_no_better_than_the_blind_control_is_inconclusive(config: Path) -> None:
    done = call(
        "audit", config, "target.epochs=0", "--cache", config.parent / "cache", "--out", config.parent / "0", "--json"
    )
    found = json.loads(done.stdout)
    assert found["verdict"] == "inconclusive"
    assert found["attacks"]["auditmi"]["auc_above_control"]["low"] <= 0


def test_a_dry_run_trains_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    done = call(
        "audit", config, "split.members=5", "--dry-run", "--cache", tmp_path / "cache", "--out", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    assert "5 members, 5 non-members, 10 attacker's, 4 not in the game" in done.stdout
    assert "4 to have, 4 to train" in done.stdout
    texts = 6  # a user
    queries = texts * 10 + 3 * (texts * 10 + texts * 10)  # the target's; each shadow's own and, compared, the target's
    assert f"queries: {queries} texts" in done.stdout
    assert "members: 5" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("target.epoch=5", "'epoch' is no field of target: did you mean 'epochs'?"),
        ("target.epochs=many", "target.epochs = 'many' has the wrong type"),
        ("split.members=1", "at least 2 users a side"),
        ("split.members=7", "takes 28 users"),
        ("data.text=body", "'body' is no column of the data: it has ['user', 'text']"),
        ("attacks=[auditmy]", "did you mean 'auditmi'?"),
        ("attacks=[auditmi, auditmi]", "attacks lists 'auditmi' twice"),
        ("shadows.count=1", "takes 2 shadows or more, but shadows.count is 1"),
        ("fprs=[1]", "write one percent as 0.01"),
        ("nonsense", "must be FIELD=VALUE"),
    ],
)
def test_bad_input_ends_in_one_line_before_any_work(config: Path, tmp_path: Path, override: str, message: str) -> None:
    done = call("audit", config, override, "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("cache/models/*"))


def test_the_list_names_what_a_config_can_name() -> None:
    done = call("list")
    assert done.exit_code == 0
    attacks, recipes = done.stdout.split("recipes:")
    lines = [line.split() for line in attacks.splitlines()[1:]]
    assert [line[0] for line in lines] == list(PAPERS)
    assert "ShadowClassifier(signal=ViewSimilarity(similarity='cosine'" in attacks
    assert [line.split()[0] for line in recipes.splitlines()[1:]] == list(RECIPES)
    assert {"encodermi-v", "encodermi-s", "encodermi-t", "encoder-feature"} < {line[0] for line in lines}
    assert all(f"  {name} " in recipes for name in ("moco", "simclr", "lstm", "fine-tune"))


@pytest.mark.parametrize("what", [(), ("text",), ("encoder",)])
def test_a_demo_says_what_it_can_audit(what: tuple[str, ...]) -> None:
    done = call("demo", *what, "--help")
    assert done.exit_code == 0
    assert "text|translation|encoder|classifier|app" in "".join(done.stdout.split())
    assert "an encoder of images" in " ".join(done.stdout.split())


def test_a_demo_of_something_else_is_refused(tmp_path: Path) -> None:
    done = call("demo", "sound", "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "sound" in done.stderr
    assert "encoder" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("demo", DEMOS)
def test_a_demo_is_an_experiment_that_a_config_can_hold(demo: str) -> None:
    """All but the attacks' names, which a config makes of what was changed."""
    made = DEMOS[demo]
    again = experiment(yaml.safe_load(yaml.safe_dump(mapping(made))))
    assert list(again.attacks.values()) == list(made.attacks.values())
    assert replace(again, attacks=made.attacks) == made


def test_ctrl_c_keeps_what_is_done_and_the_rerun_goes_on(config: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "hf_mia", "audit", str(config), "target.epochs=400", "--cache", str(cache)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    deadline = time.monotonic() + 120
    while not list(cache.glob("models/*/checkpoint.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command to go on" in errors
    assert "Traceback" not in errors
    assert list(cache.glob("models/*.unfinished/checkpoint.safetensors"))


@pytest.mark.parametrize("name", DEMOS)
def test_what_a_demo_writes_as_its_config_is_the_demo(name: str) -> None:
    from hf_mia.audits.demo import DEMOS
    from hf_mia.audits.experiment import mapping

    again = experiment(yaml.safe_load(yaml.safe_dump(mapping(DEMOS[name]))))
    assert again == DEMOS[name]
    assert list(again.attacks) == list(DEMOS[name].attacks)
