"""The gate in CI: which limits can be written, what counts as above one, and how the command ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import worlds
import yaml
from typer.testing import CliRunner, Result

from hf_mia.cli.gate import FIGURES, Limit, limit, over
from hf_mia.cli.main import FIGURES as COMPLETED
from hf_mia.cli.main import app
from hf_mia.reports.report import Report

USERS = 4 * 6


def report(found: int, threshold: float | None = 0.5) -> Report:
    """20 members, of whom some score above all 20 non-members and the others below all of them."""
    scores = np.concatenate([np.full(found, 1.0), np.full(20 - found, -1.0), np.linspace(0, 0.4, 20)])
    return Report("mean-loss", scores, np.arange(40) < 20, tuple(f"unit {i}" for i in range(40)), threshold)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auc=0.6", Limit("auc", 0.6)),
        ("tpr@0.01=0.05", Limit("tpr@0.01", 0.05, 0.01)),
        ("tpr@1e-3=.5", Limit("tpr@1e-3", 0.5, 0.001)),
        ("advantage=0", Limit("advantage", 0.0)),
    ],
)
def test_a_limit_is_a_figure_and_a_number(text: str, expected: Limit) -> None:
    assert limit(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auc", "write a limit as FIGURE=NUMBER, such as tpr@0.01=0.05 or auc=0.6, not 'auc'"),
        ("=0.5", "write a limit as FIGURE=NUMBER"),
        ("auk=0.5", "'auk' is no figure of --fail-above: did you mean 'auc'?"),
        ("auc=half", "'half' is no number in 'auc=half'"),
        ("auc=nan", "must lie between 0 and 1, but is nan for auc"),
        ("auc=60", "must lie between 0 and 1, but is 60.0 for auc"),
        ("tpr@1=0.05", "write one percent as 0.01"),
        ("tpr@=0.05", "'' is no number"),
        ("auc@0.1=0.05", "only tpr takes a false-positive rate"),
    ],
)
def test_what_is_no_limit_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"--fail-above") as caught:
        limit(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("figure", FIGURES)
def test_the_estimate_counts_and_a_limit_itself_is_allowed(figure: str) -> None:
    """15 of 20 members are called rightly, and no non-member: each figure by hand."""
    value = {"auc": 0.75, "accuracy": 35 / 40, "precision": 1.0, "recall": 0.75, "advantage": 0.75}[figure]
    made = report(15)
    assert not Limit(figure, value).exceeded(made)
    assert Limit(figure, value - 0.01).exceeded(made)
    low = Limit(figure, value - 0.01).estimate(made).low
    assert low is not None
    assert low < value - 0.01  # so the gate did not wait for the interval


def test_a_tpr_is_gated_at_any_rate_that_the_data_resolve() -> None:
    made = report(15)
    assert limit("tpr@0.05=0.74").exceeded(made)  # 0.05 is not among the report's own rates
    assert not limit("tpr@0.05=0.75").exceeded(made)
    assert over([limit("tpr@0.05=0.74"), limit("auc=0.9")], made) == [
        f"mean-loss: tpr@0.05 = {made.tpr_at(0.05)} is above the limit 0.74."
    ]


@pytest.mark.parametrize(
    ("text", "made", "message"),
    [
        ("tpr@0.01=1", report(15), "cannot be told with 20 non-members.* at least 100 a side"),
        ("accuracy=1", report(15, None), "is n/a, for it chose no threshold"),
        ("precision=1", report(15, 2.0), "is n/a, for it calls no unit a member"),
    ],
)
def test_what_cannot_be_told_is_an_error_and_never_a_pass(text: str, made: Report, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        over([limit(text)], made)


def test_the_shell_completes_limits_that_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {limit(f"{name}0.5").figure.split("@")[0] for name in COMPLETED} == {*FIGURES, "tpr"}
    environment = {**os.environ, "_HF_MIA_COMPLETE": "complete_bash", "COMP_CWORD": "4"}
    environment["COMP_WORDS"] = "hf-mia audit config.yaml --fail-above tp"
    code = "from hf_mia.cli.main import app; app(prog_name='hf-mia')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["tpr@0.01=", "tpr@0.001="]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    content = worlds.config(worlds.write(folder / "texts.parquet", USERS), USERS, epochs=30)
    (folder / "audit.yaml").write_text(yaml.safe_dump({**content, "attacks": ["mean-loss"]}))
    return folder / "audit.yaml"


def call(config: Path, *arguments: str) -> Result:
    shared = ["--cache", str(config.parent / "cache"), "--out", str(config.parent / "out")]
    return CliRunner().invoke(app, ["audit", str(config), *arguments, *shared])


def test_a_leak_above_the_limit_ends_in_1_after_everything_was_written(config: Path) -> None:
    done = call(config, "--json", "--fail-above", "auc=0.6", "--fail-above", "accuracy=1")
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)  # nothing but the report on stdout
    assert found == json.loads((config.parent / "out" / "report.json").read_text())
    auc = found["attacks"]["mean-loss"]["estimates"]["auc"]["value"]
    assert auc > 0.6
    assert f"mean-loss: auc = {auc:.3f} [" in done.stderr
    assert "accuracy" not in done.stderr


def test_no_leak_above_the_limit_ends_in_0(config: Path) -> None:
    assert call(config, "--fail-above", "auc=1", "--fail-above", "recall=1").exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"), [("tpr@0.01=0.05", "with 6 non-members"), ("auk=0.5", "did you mean 'auc'?")]
)
def test_a_bad_limit_ends_in_2_before_anything_is_trained(
    config: Path, tmp_path: Path, text: str, message: str
) -> None:
    arguments = ["audit", str(config), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--fail-above", text])
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_attack_without_a_threshold_ends_in_2(config: Path) -> None:
    done = call(config, "shadows.count=0", "--fail-above", "accuracy=0.6")
    assert done.exit_code == 2
    assert "chose no threshold" in done.stderr
