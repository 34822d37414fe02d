"""The console script as a shell meets it: its completion, and `hf mia`, an extension of the Hub's own command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest


def test_the_script_is_an_extension_of_hf(tmp_path: Path) -> None:
    hf, script = shutil.which("hf"), shutil.which("hf-mia")
    if hf is None or script is None:
        pytest.skip("takes the scripts hf and hf-mia on the path, as an installation puts them there")
    place = tmp_path / ".local" / "share" / "hf" / "extensions" / "hf-mia"
    place.mkdir(parents=True)
    manifest = {"owner": "org", "repo": "hf-mia", "repo_id": "org/hf-mia", "short_name": "mia", "type": "python"}
    manifest |= {"executable_path": script, "installed_at": datetime.now(UTC).isoformat()}
    (place / "manifest.json").write_text(json.dumps(manifest))
    environment = {**os.environ, "HOME": str(tmp_path), "COLUMNS": "100"}
    done = subprocess.run(
        [hf, "mia", "--help"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Membership inference audits" in done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., str]:
    """What a command of bash prints, where a home is that is thrown away."""
    if shutil.which("hf-mia") is None or shutil.which("bash") is None:
        pytest.skip("takes bash, and the script hf-mia on the path, as an installation puts it there")

    def call(command: str, **variables: str) -> str:
        done = subprocess.run(
            ["bash", "-c", f"{command}; true"],
            env={**os.environ, "HOME": str(tmp_path), **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout

    return call


def test_the_shell_is_shown_and_given_its_completion(shell: Callable[..., str], tmp_path: Path) -> None:
    shown = shell("hf-mia --show-completion")
    assert "complete -o default -F _hf_mia_completion hf-mia" in shown
    assert "bash completion installed" in shell("hf-mia --install-completion")
    script = tmp_path / ".bash_completions" / "hf-mia.sh"
    assert script.read_text().strip() == shown.strip()
    assert str(script) in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hf-mia ", {"audit", "demo", "list", "query", "card", "push", "attack"}),
        ("hf-mia au", {"audit"}),
        ("hf-mia demo enc", {"encoder"}),
        ("hf-mia audit x --fail-above tpr", {"tpr@0.01=", "tpr@0.001="}),
    ],
)
def test_the_shell_completes_commands_demos_and_figures(
    shell: Callable[..., str], line: str, expected: set[str]
) -> None:
    """As the script that was installed asks: by variables of the environment, one candidate a line."""
    words = line.split(" ")
    given = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_HF_MIA_COMPLETE": "complete_bash"}
    assert set(shell("hf-mia", **given).split()) == expected
