"""What holds for every named attack, on the same tiny worlds: the table of PAPERS against five invariants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy.stats import norm
from worlds import World, replay

from hf_mia.core import Game, Pool, audit
from hf_mia.experiment import experiment, mapping
from hf_mia.papers import PAPERS
from hf_mia.plan import Experiment
from hf_mia.report import Report

EVERY = pytest.mark.parametrize("name", PAPERS)

CHANGES: dict[str, dict[str, object]] = {  # one deep change an entry, so that the round trip has something to lose
    "auditmi": {"signal": {"top": 10, "bins": 7, "first_subword": True}, "classifier": {"C": 0.5, "seed": 3}},
    "auditmi-log-bins": {"signal": {"bins": 12}},
    "auditmi-frequency": {"signal": {"top": 100}},
    "auditmi-probabilities": {"classifier": {"C": 0.25}},
    "auditmi-relative": {"attack": {"classifier": {"C": 0.1}}},
    "mean-rank": {"signal": {"top": 5}},
    "mean-log-rank": {"signal": {"top": 50, "first_subword": True}},
    "mean-loss": {"signal": {"first_subword": True}},
    "relative-log-rank": {"attack": {"signal": {"top": 20}}},
    "auditmi-random-texts": {"signal": {"texts": 2, "seed": 9, "signal": {"top": 10}}},
    "auditmi-rarest-texts": {"signal": {"texts": 2}},
    "auditmi-relative-random-texts": {"attack": {"signal": {"texts": 2}}},
    "auditmi-relative-rarest-texts": {"attack": {"signal": {"texts": 2}, "classifier": {"C": 0.1}}},
    "reference": {"attack": {"signal": {"first_subword": True}}},
}


def played(world: World, name: str) -> Report:
    return audit(PAPERS[name], world.target, world.shadows, world.ask, name)


@EVERY
def test_finds_members_of_an_overfitted_model(overfitted: World, name: str) -> None:
    report = played(overfitted, name)
    assert report.auc.value is not None
    assert report.auc.value > 0.8


@EVERY
def test_acquits_a_model_that_saw_nothing(untrained: World, name: str) -> None:
    """The Mann-Whitney deviation of an AUC by chance, and a bar that all attacks together pass 99.9 times in 100."""
    report = played(untrained, name)
    members, others = int(report.member.sum()), int((~report.member).sum())
    deviation = np.sqrt((members + others + 1) / (12 * members * others))
    bar = norm.isf(0.001 / (2 * len(PAPERS))) * deviation
    assert bar < 0.25  # or it would acquit everything
    assert report.auc.value == pytest.approx(0.5, abs=bar)


@EVERY
def test_cannot_see_the_secret(overfitted: World, name: str) -> None:
    honest = played(overfitted, name)
    flipped = replace(overfitted, target=replace(overfitted.target, member=1 - overfitted.target.member))
    blinded = played(flipped, name)
    assert (honest.member == ~blinded.member).all()
    assert honest.scores.tobytes() == blinded.scores.tobytes()
    assert honest.threshold == blinded.threshold


@EVERY
@pytest.mark.parametrize("who", ["target", "shadows", "both"])
def test_order_does_not_matter(overfitted: World, name: str, who: str) -> None:
    """Same answers, records and units and chunks in another order: the same score for each user."""
    again = replay(overfitted, PAPERS[name].signal.probe, chunk=29)
    target, shadows = overfitted.target, overfitted.shadows
    plain = audit(PAPERS[name], target, shadows, again, name)
    if who != "shadows":
        target = shuffled([target], seed=5)[0]
        assert target.pool.names != overfitted.target.pool.names
    if who != "target":
        shadows = shuffled(shadows, seed=6)
    mixed = audit(PAPERS[name], target, shadows, replace(again, chunk=41), name)
    scores = dict(zip(mixed.units, mixed.scores, strict=True))
    np.testing.assert_allclose([scores[unit] for unit in plain.units], plain.scores, rtol=0, atol=1e-9)


def shuffled(games: list[Game], seed: int) -> list[Game]:
    """The same games with the records and the units of their one pool in another order."""
    pool, rng = games[0].pool, np.random.default_rng(seed)
    rows, units = rng.permutation(len(pool.unit)), rng.permutation(len(pool.names))
    place = np.argsort(units)
    mixed = Pool(pool.records.select(rows), place[pool.unit[rows]], tuple(pool.names[i] for i in units))
    return [replace(game, pool=mixed, member=game.member[units]) for game in games]


@EVERY
@pytest.mark.parametrize("changed", [False, True], ids=["as-is", "changed"])
def test_survives_a_yaml_round_trip(name: str, changed: bool) -> None:
    spec = {"name": name, **CHANGES[name]} if changed else name
    made = experiment({"attacks": [spec]})
    assert (next(iter(made.attacks.values())) != PAPERS[name]) == changed
    text = yaml.safe_dump(mapping(made))
    again = experiment(yaml.safe_load(text))
    assert again == made
    assert list(map(repr, again.attacks.values())) == list(map(repr, made.attacks.values()))


def test_every_entry_is_in_the_table_of_changes() -> None:
    assert set(CHANGES) == set(PAPERS)


def test_a_whole_experiment_survives_a_yaml_round_trip() -> None:
    made = experiment(
        {
            "data": {"path": "some/folder", "user": "author", "least": 3},
            "split": {"members": 7, "seed": 4, "trained": 0.5, "held_out": 0.25},
            "target": {"name": "gru", "epochs": 2, "clip": None},
            "shadows": {
                "count": 2,
                "recipe": {"name": "lstm", "hidden": 64},
                "changes": [{"hidden": 96}, {"cell": "gru", "optimizer": "sgd"}],
                "data": {"path": "other", "user": None, "texts_per_user": 9},
            },
            "attacks": ["mean-rank", {"name": "auditmi", "signal": {"top": 10}}],
            "sweeps": {"w": {"attacks": ["auditmi", "mean-rank"], "values": [1, 10, None]}},
            "fprs": [0.1],
            "confidence": 0.9,
        }
    )
    assert made != Experiment()
    assert experiment(yaml.safe_load(yaml.safe_dump(mapping(made)))) == made


@pytest.mark.parametrize(
    "target",
    [
        {"name": "checkpoint", "model": "a/b", "revision": "main", "members": ["x", "y"], "provenance": "canary"},
        {"name": "checkpoint", "model": "a/b", "members_file": "list.txt"},
        {"name": "fine-tune", "model": "a/b", "precision": "bf16"},
        {"name": "from-config", "model": "a/b", "together": True},
    ],
    ids=lambda target: "-".join(map(str, target.values())),
)
def test_every_kind_of_target_survives_a_yaml_round_trip(target: dict[str, object]) -> None:
    made = experiment({"target": target, "shadows": {"count": 0}})
    assert experiment(yaml.safe_load(yaml.safe_dump(mapping(made)))) == made
