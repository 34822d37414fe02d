"""`hf mia`: the console script as an extension of the Hub's own command line, installed as that lays it out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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
