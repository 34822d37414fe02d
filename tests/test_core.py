"""The nouns: what they refuse, how a unit's records become one row, and who is asked about whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from worlds import World, ragged

from hf_mia.attacks.threshold import Threshold
from hf_mia.core import Answers, Attack, Batch, Evidence, Floats, Game, Model, Pool, Probe, Signal, audit, gather, read
from hf_mia.papers import PAPERS
from hf_mia.signals.language import MeanRank


def pool(units: list[int], names: tuple[str, ...]) -> Pool:
    return Pool(
        Dataset.from_dict({"text": [str(i) for i in range(len(units))]}), np.array(units, dtype=np.int64), names
    )


@pytest.mark.parametrize(
    ("records", "units", "names", "message"),
    [
        (3, [0, 1], ("a", "b"), "3 records"),
        (2, [0, 2], ("a", "b"), "Pool needs"),
        (2, [0, -1], ("a", "b"), "Pool needs"),
        (2, [0, 0], ("a", "b"), r"\['b'\] have none"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(
    records: int, units: list[int], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Pool(Dataset.from_dict({"text": [""] * records}), np.array(units, dtype=np.int64), names)


@pytest.mark.parametrize("member", [[1.0], [1.0, 0.5], [1.0, np.nan], [1.0, 0.0, 1.0]])
def test_a_game_needs_one_bit_a_unit(overfitted: World, member: list[float]) -> None:
    with pytest.raises(ValueError, match="1 or 0 for each of 2 units"):
        Game(overfitted.target.model, pool([0, 1], ("a", "b")), np.array(member))


def test_evidence_names_the_units_that_say_nothing() -> None:
    features = np.array([[1.0, 2.0], [np.nan, 1.0], [1.0, np.inf]])
    with pytest.raises(ValueError, match=r"2 units.*\['b', 'c'\].*[Ll]eave them out"):
        Evidence(features, np.zeros(3), ("a", "b", "c"))


def test_a_game_about_another_pool_knows_its_own_members_by_name(overfitted: World) -> None:
    game = Game(overfitted.target.model, pool([0, 1, 2], ("a", "b", "c")), np.array([1.0, 0.0, 1.0]), known=True)
    other = game.about(pool([0, 1, 2], ("c", "x", "b")))
    assert other.member.tolist() == [1, 0, 0]
    assert other.known
    assert other.model is game.model


@dataclass(frozen=True)
class Square(Signal):
    """Two numbers a record, folded by the default: a mean."""

    probe: Probe = field(default=MeanRank().probe)

    def measure(self, answers: Answers) -> Floats:
        values = answers["x"].values.astype(np.float64)
        return np.stack([values, values**2], axis=1)


@pytest.mark.parametrize("kept", [None, 0.5])
def test_read_is_a_loop_over_units(kept: float | None) -> None:
    rng = np.random.default_rng(0)
    values, units = rng.normal(size=200), np.concatenate([np.arange(20), rng.integers(20, size=180)])
    keep = None if kept is None else (rng.random(200) < kept) | (np.arange(200) < 20)
    rows = [{"x": np.array([v])} for v in values]
    chunks = [ragged(rows[:7]), ragged(rows[7:150]), ragged(rows[150:])]
    found = Square().read(chunks, pool(units.tolist(), tuple(map(str, range(20)))), keep)
    for u in range(20):
        own = [v for i, v in enumerate(values) if units[i] == u and (keep is None or keep[i])]
        np.testing.assert_allclose(found[u], [np.mean(own), np.mean(np.square(own))], rtol=1e-12)


def test_a_unit_of_which_nothing_is_kept_has_no_number() -> None:
    rows = [ragged([{"x": np.array([1.0])}, {"x": np.array([2.0])}])]
    found = Square().read(rows, pool([0, 1], ("a", "b")), np.array([True, False]))
    assert found[0].tolist() == [1, 1]
    assert np.isnan(found[1]).all()


class Asked:
    """Notes who was asked about which pool."""

    def __init__(self, world: World) -> None:
        self.world, self.seen = world, list[tuple[str, int]]()

    def __call__(self, model: Model, probe: Probe, records: Dataset) -> Iterable[Answers]:
        self.seen.append((model.name, id(records)))
        return self.world.ask(model, probe, records)


@pytest.mark.parametrize("name", ["mean-rank", "reference"])
def test_every_model_is_asked_what_the_attack_needs_and_no_more(overfitted: World, name: str) -> None:
    asked, target, shadows = Asked(overfitted), overfitted.target, overfitted.shadows
    gather(PAPERS[name], target, shadows, asked)
    own, theirs = id(target.pool.records), id(shadows[0].pool.records)
    expected = {(target.model.name, own), *((shadow.model.name, theirs) for shadow in shadows)}
    if name == "reference":
        expected |= {(shadow.model.name, own) for shadow in shadows}
    assert set(asked.seen) == expected
    assert (target.model.name, theirs) not in expected  # the attacker's texts are not shown to the target


def test_evidence_of_a_target_holds_no_secret_and_that_of_a_shadow_does(overfitted: World) -> None:
    target, shadows = gather(PAPERS["reference"], overfitted.target, overfitted.shadows, overfitted.ask)
    assert np.isnan(target.member).all()
    assert target.names == overfitted.target.pool.names
    for reference in target.references:
        assert (reference.member == 0).all()  # no shadow saw a candidate
    assert len(target.references) == 3
    for shadow, game in zip(shadows, overfitted.shadows, strict=True):
        np.testing.assert_array_equal(shadow.member, game.member)
        assert len(shadow.references) == 2
        others = [other for other in overfitted.shadows if other is not game]
        for reference, other in zip(shadow.references, others, strict=True):
            np.testing.assert_array_equal(reference.member, other.member)
            np.testing.assert_array_equal(
                reference.features, read(PAPERS["reference"].signal, other, overfitted.ask).features
            )


def test_audit_sets_scores_beside_the_secret(overfitted: World) -> None:
    report = audit(Threshold(MeanRank()), overfitted.target, [], overfitted.ask, "mine")
    assert report.name == "mine"
    assert report.units == overfitted.target.pool.names
    np.testing.assert_array_equal(report.member, overfitted.target.member == 1)
    assert report.threshold is None
    assert audit(Threshold(MeanRank()), overfitted.target, [], overfitted.ask).name == repr(Threshold(MeanRank()))


def test_a_signal_and_an_attack_are_one_method_each(overfitted: World) -> None:
    """What a stranger writes: a signal by `measure`, a probe by `observe`; nothing is registered anywhere."""

    @dataclass(frozen=True)
    class Length(Probe):
        def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
            return {"x": batch["scored"].sum(1, keepdim=True).float()}

    attack: Attack = Threshold(Square(Length()))
    with pytest.raises(ValueError, match="one number"):
        audit(attack, overfitted.target, [], overfitted.ask)
    one = read(Square(Length()), overfitted.target, overfitted.ask)
    texts = overfitted.target.pool.records["text"]
    words = np.array([len(text.split()) for text in texts], dtype=float)
    for u in range(3):
        own = words[overfitted.target.pool.unit == u]
        np.testing.assert_allclose(one.features[u], [own.mean(), (own**2).mean()], rtol=1e-12)
    assert replace(overfitted.target, known=True).known
