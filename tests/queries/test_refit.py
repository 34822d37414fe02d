"""An attack of a run is fitted again in one way, whoever asks: as the run itself fitted it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import worlds

from hf_mia.data.texts import Texts
from hf_mia.queries.opened import opened
from hf_mia.queries.query import query
from hf_mia.queries.refit import refitted

ALONE = [name for name in worlds.ASKED if name not in {"reference", "auditmi-relative"}]


@pytest.mark.parametrize("name", ALONE)
def test_it_scores_as_the_run_did_whatever_its_signal_learnt(
    overfitted: worlds.World, run_folder: Path, name: str
) -> None:
    own = refitted(run_folder, Texts(), name)
    report = opened(run_folder).reports[name]
    scores = own.scores(overfitted.target.model, overfitted.target.pool, overfitted.ask)
    np.testing.assert_allclose(scores, report.scores, rtol=1e-9)
    assert own.scorer.threshold == report.threshold
    asked = query(opened(run_folder), name)
    assert repr(asked.signal) == repr(own.signal)
    assert asked.scorer.threshold == own.scorer.threshold


def test_config_and_evidence_are_enough_where_nothing_was_learnt(run_folder: Path, tmp_path: Path) -> None:
    """So that a run from the Hub will do; what counted words says what is missing."""
    shutil.copy(run_folder / "config.yaml", tmp_path)
    shutil.copytree(run_folder / "evidence", tmp_path / "evidence")
    assert refitted(tmp_path, Texts()).name == worlds.ASKED[0]
    with pytest.raises(ValueError, match=r"'auditmi-frequency' counts words .* this folder keeps nothing"):
        refitted(tmp_path, Texts(), "auditmi-frequency")


def test_evidence_that_leads_out_of_the_folder_is_not_read(run_folder: Path, tmp_path: Path) -> None:
    shutil.copy(run_folder / "config.yaml", tmp_path)
    shutil.copytree(run_folder / "evidence", tmp_path / "evidence")
    inside = tmp_path / "evidence" / "auditmi" / "shadow-001.parquet"
    inside.unlink()
    inside.symlink_to(run_folder / "evidence" / "auditmi" / "shadow-001.parquet")
    with pytest.raises(ValueError, match="leads out of the run folder"):
        refitted(tmp_path, Texts(), "auditmi")
