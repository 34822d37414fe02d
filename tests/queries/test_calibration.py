"""Known non-members, read again from few records each, against the audit's own evidence and naive draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import worlds

from hf_mia.attacks.relative import Relative
from hf_mia.attacks.threshold import Threshold
from hf_mia.audits.folder import read_evidence
from hf_mia.core import Evidence, gather
from hf_mia.papers import PAPERS
from hf_mia.queries.calibration import Calibration, calibrated, ladder
from hf_mia.signals.language import MeanLoss
from hf_mia.signals.texts import RarestTexts


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100, 1000])
def test_a_ladder_leaves_little_unread(most: int) -> None:
    rungs = ladder(most)
    assert rungs[0] == 1
    assert rungs[-1] == most
    assert len(rungs) <= 2 * np.log2(most) + 2
    for records in range(1, most + 1):
        read = Calibration({each: None for each in rungs}).like(records)  # type: ignore[misc]
        assert 2 / 3 * records <= read <= records
    assert Calibration({each: None for each in rungs}).like(10 * most) == most  # type: ignore[misc]


@pytest.mark.parametrize("name", worlds.ASKED)
def test_read_from_all_texts_it_is_the_audits_evidence(overfitted: worlds.World, name: str) -> None:
    target, shadows = overfitted.target, overfitted.shadows
    evidence, _ = gather(PAPERS[name], target, shadows, overfitted.ask)
    found = calibrated(PAPERS[name], target, shadows, overfitted.ask)
    assert list(found.evidence) == [1, 2, 3, 4, 6]
    outside = np.flatnonzero(target.member == 0)
    pairs = zip((evidence, *evidence.references), flat(found.evidence[6]), strict=True)
    for whole, own in pairs:
        assert own.names == tuple(whole.names[i] for i in outside)
        np.testing.assert_array_equal(own.features, whole.features[outside])
        np.testing.assert_array_equal(own.member, 0)


def flat(evidence: Evidence) -> list[Evidence]:
    return [evidence, *evidence.references]


def test_read_from_few_texts_it_is_of_few_texts(overfitted: worlds.World) -> None:
    """Each user's mean over k texts is that of some k of its texts, and the draws are nested."""
    target, pool = overfitted.target, overfitted.target.pool
    rows = [row for chunk in [list(worlds.each(overfitted.ask(target.model, MeanLoss().probe, pool.records)))]
            for row in chunk]  # fmt: skip
    found = calibrated(PAPERS["reference"], target, overfitted.shadows, overfitted.ask).evidence
    for i, name in enumerate(found[1].names):
        own = [rows[row]["logprob"].astype(np.float64) for row in np.flatnonzero(pool.unit == pool.names.index(name))]
        one = [k for k, words in enumerate(own) if np.isclose(words.mean(), found[1].features[i, 0])]
        assert len(one) == 1
        two = [
            k
            for k in range(6)
            if k != one[0] and np.isclose(np.r_[own[one[0]], own[k]].mean(), found[2].features[i, 0])
        ]
        assert len(two) == 1


def test_users_with_fewer_texts_are_left_out(small_pool: object, overfitted: worlds.World) -> None:
    pool = overfitted.target.pool
    outside = np.flatnonzero(overfitted.target.member == 0)
    short = set(outside[:5])  # these keep two of their six texts
    seen: dict[int, int] = {}
    kept = []
    for row, unit in enumerate(pool.unit):
        seen[unit] = seen.get(unit, 0) + 1
        if unit not in short or seen[unit] <= 2:
            kept.append(row)
    from dataclasses import replace

    smaller = replace(pool, records=pool.records.select(kept), unit=pool.unit[kept])
    target = replace(overfitted.target, pool=smaller)
    found = calibrated(Threshold(MeanLoss()), target, [], overfitted.ask).evidence
    counts = {each: len(evidence.names) for each, evidence in found.items()}
    assert counts == {1: 16, 2: 16, 3: 11, 4: 11, 6: 11}


def test_the_rarest_texts_are_chosen_among_those_that_count(overfitted: worlds.World) -> None:
    """The few of the texts that are kept: not the few of all, of which none may be kept."""
    pool = overfitted.target.pool
    answers = list(overfitted.ask(overfitted.target.model, MeanLoss().probe, pool.records))
    signal = RarestTexts(MeanLoss(), 1).learn([answers])
    assert isinstance(signal, RarestTexts)
    keep = np.random.default_rng(0).random(len(pool.unit)) < 0.5
    priority = np.concatenate([signal.priority(chunk) for chunk in answers])
    rows = list(worlds.each(answers))
    found = signal.read(answers, pool, keep)
    for unit in range(len(pool.names)):
        own = [row for row in np.flatnonzero(pool.unit == unit) if keep[row]]
        if own:
            best = max(own, key=lambda row: priority[row])
            assert found[unit, 0] == pytest.approx(rows[best]["logprob"].astype(np.float64).mean())
        else:
            assert np.isnan(found[unit, 0])


def test_references_know_what_they_saw(overfitted: worlds.World) -> None:
    """Asked about a pool that a shadow was trained on, a reference says who was in."""
    shadow, *others = overfitted.shadows
    target = shadow.about(shadow.pool)
    found = calibrated(Relative(Threshold(MeanLoss())), target, others, overfitted.ask).evidence[1]
    assert len(found.references) == len(others)
    for other, reference in zip(others, found.references, strict=True):
        inside = {name for name, member in zip(other.pool.names, other.member, strict=True) if member}
        assert reference.member.tolist() == [float(name in inside) for name in found.names]
        assert 0 < reference.member.sum() < len(found.names)


def test_what_is_written_are_features_and_what_was_learnt(run_folder: Path) -> None:
    for name in worlds.ASKED:
        place = run_folder / "calibration" / name
        files = sorted(path.name for path in place.iterdir())
        learns = name in ("auditmi-frequency", "auditmi-rarest-texts")
        assert ("learnt.safetensors" in files) == learns
        compared = name in ("reference", "auditmi-relative")
        assert len(files) == 5 * (4 if compared else 1) + learns
        for path in place.glob("*.parquet"):
            assert pq.read_schema(path).names == ["unit", "member", "features"]  # no text, no token
    evidence = read_evidence(run_folder / "calibration" / "reference" / "records-000006.parquet")
    assert len(evidence.references) == 3
