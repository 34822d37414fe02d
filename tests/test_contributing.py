"""The worked example of CONTRIBUTING.md and the commands of README.md, as they stand there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from worlds import World

from hf_mia.attacks.threshold import Threshold
from hf_mia.core import Signal, audit

ROOT = Path(__file__).parent.parent


def test_the_example_of_a_new_attack_works(overfitted: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert code is not None
    (tmp_path / "contributed.py").write_text(code[1])
    monkeypatch.syspath_prepend(tmp_path)
    made = import_module("contributed").MeanSurprise
    assert isinstance(made, type)
    assert issubclass(made, Signal)
    report = audit(Threshold(made()), overfitted.target, overfitted.shadows, overfitted.ask)
    assert report.auc.value is not None
    assert report.auc.value > 0.8
    assert np.isfinite(report.threshold or np.nan)


def test_the_readme_holds_the_two_lines_that_ci_runs() -> None:
    lines = re.findall(r"^pip install .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    demos = "pip install . && hf-mia demo && hf-mia demo encoder && hf-mia demo classifier"
    assert lines == [demos, 'pip install -e ".[test]" && pytest']


def test_every_config_is_valid() -> None:
    from hf_mia.audits.experiment import experiment
    from hf_mia.config import read_yaml

    configs = sorted((ROOT / "evaluation_configs").glob("*.yaml"))
    assert len(configs) >= 4
    for path in configs:
        assert experiment(read_yaml(path)).attacks
