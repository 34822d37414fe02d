"""An attack for every group against the inner attack fitted by hand on a group's own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from hf_mia.attacks.groups import PerGroup
from hf_mia.attacks.lira import LiRA, OfflineLiRA
from hf_mia.attacks.relative import Relative
from hf_mia.attacks.rmia import RMIA, OfflineRMIA
from hf_mia.attacks.shadow import LogisticRegression, ShadowClassifier
from hf_mia.attacks.threshold import Threshold
from hf_mia.core import Attack, Evidence, Scorer
from hf_mia.signals.language import MeanRank

SIGNAL = MeanRank()
COMPARING = [LiRA(SIGNAL), OfflineLiRA(SIGNAL), RMIA(SIGNAL), OfflineRMIA(SIGNAL), Relative(Threshold(SIGNAL))]
EVERY = [Threshold(SIGNAL), ShadowClassifier(SIGNAL, LogisticRegression()), *COMPARING]


def games(models: int, seed: int = 0, groups: Sequence[int] = (40, 30, 35)) -> list[Evidence]:
    """Models trained on random halves of one pool, each compared with all others; groups lie far apart."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(groups)) * 10, groups))
    names = tuple(f"{i:03d}" for i in range(len(group)))
    plain = []
    for _ in range(models):
        member = (rng.random(len(group)) < 0.5).astype(float)
        features = -np.exp(0.3 * rng.normal(size=len(group)) + group / 10 - member)
        plain.append(Evidence(features[:, None], member, names, group=group))
    return [replace(one, references=tuple(other for other in plain if other is not one)) for one in plain]


def only(one: Evidence, group: int) -> Evidence:
    """The rows of one group, in a plain loop."""
    assert one.group is not None
    rows = [i for i, g in enumerate(one.group) if g == group]
    return Evidence(
        np.array([one.features[i] for i in rows]),
        np.array([one.member[i] for i in rows]),
        tuple(one.names[i] for i in rows),
        tuple(only(replace(other, group=one.group), group) for other in one.references),
        np.array([group for _ in rows]),
    )


def hidden(one: Evidence) -> Evidence:
    return replace(one, member=np.full(len(one.names), np.nan))


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_every_group_has_the_inner_attack_to_itself(attack: Attack) -> None:
    target, *shadows = games(16)
    target = hidden(target)
    scorer = PerGroup(attack).fit(shadows)
    assert scorer.threshold == 0
    scores = dict(zip(target.names, scorer.score(target), strict=True))
    for group in (0, 10, 20):
        alone = attack.fit([only(shadow, group) for shadow in shadows])
        mine = only(target, group)
        assert alone.threshold is not None
        expected = alone.score(mine)
        np.testing.assert_array_equal([scores[name] for name in mine.names], expected - alone.threshold)
        assert [scores[name] >= 0 for name in mine.names] == list(expected >= alone.threshold)


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_a_group_that_shadows_do_not_show_falls_back_on_all(attack: Attack) -> None:
    """Too few members, no known non-member, or never seen: these units are scored as among all units."""
    target, *shadows = games(16, groups=(40, 30, 12, 6))
    assert target.group is not None
    target = replace(hidden(target), group=np.where(target.group == 30, 77, target.group))

    def blinded(one: Evidence) -> Evidence:
        assert one.group is not None
        few = (one.group == 20) & (one.member == 1)
        gone = few | ((one.group == 30) & (one.member == 0))
        return replace(one, member=np.where(gone, np.nan, one.member))

    shadows = [blinded(shadow) for shadow in shadows]
    every, scores = attack.fit(shadows), PerGroup(attack).fit(shadows).score(target)
    assert every.threshold is not None
    expected = every.score(target) - every.threshold
    for group, alone in ((0, True), (10, True), (20, False), (77, False)):
        here = target.group == group
        assert here.any()
        assert (scores[here] == expected[here]).all() != alone


def test_the_smallest_group_is_counted_over_all_shadows() -> None:
    shadows = [hidden(one) for one in games(2, groups=(20, 10))]

    def known(members: int, others: int) -> list[Evidence]:
        """So many known units in group 10 of each shadow, and all in group 0."""
        found = []
        for one in shadows:
            assert one.group is not None
            place = np.cumsum(one.group == 10) - 1
            inside = np.where(place < members, 1.0, np.where(place < members + others, 0.0, np.nan))
            found.append(replace(one, member=np.where(one.group == 10, inside, np.arange(30) % 2)))
        return found

    def alone(members: int, others: int, smallest: int) -> bool:
        given = known(members, others)
        attack, every = Threshold(SIGNAL), Threshold(SIGNAL).fit(given)
        assert every.threshold is not None
        scores = PerGroup(attack, smallest).fit(given).score(shadows[0])
        return bool((scores != every.score(shadows[0]) - every.threshold)[shadows[0].group == 10].any())

    assert alone(3, 5, 6)
    assert alone(5, 3, 6)
    assert not alone(3, 5, 7)
    assert not alone(5, 3, 7)
    assert not alone(2, 5, 5)
    assert PerGroup(Threshold(SIGNAL)) == PerGroup(Threshold(SIGNAL), 5)


@dataclass(frozen=True)
class Refusing(Attack):
    """Takes no evidence of fewer than `units` units, or gives no threshold for it."""

    least: ClassVar[int] = 3
    signal: MeanRank = SIGNAL
    units: int = 50
    refuse: bool = True

    def fit(self, shadows: Sequence[Evidence]) -> Scorer:
        if len(shadows[0].names) < self.units and self.refuse:
            raise ValueError("too few units")
        threshold = None if len(shadows[0].names) < self.units else -1.0
        return Scorer(lambda evidence: evidence.features[:, 0] + len(evidence.names), threshold)


@pytest.mark.parametrize("refuse", [False, True])
def test_a_group_that_the_inner_attack_refuses_falls_back_on_all(refuse: bool) -> None:
    target, *shadows = games(4, groups=(60, 20))
    scores = PerGroup(Refusing(refuse=refuse)).fit(shadows).score(target)
    small = target.group == 10
    np.testing.assert_array_equal(scores[small], target.features[small, 0] + 80 + 1)
    np.testing.assert_array_equal(scores[~small], target.features[~small, 0] + 60 + 1)
    with pytest.raises(ValueError, match="too few units"):
        PerGroup(Refusing(units=100)).fit(shadows)


def test_a_shadow_without_a_group_stays_among_the_others() -> None:
    """Two shadows of pools that share no group: each alone is what the inner attack learns a group on."""
    one, two = games(1, seed=1)[0], games(1, seed=2)[0]
    two = replace(two, group=np.full(len(two.names), 50), names=tuple(f"other {name}" for name in two.names))
    references = [(replace(shadow, features=shadow.features - 1, member=np.zeros(105)),) for shadow in (one, two)]
    shadows = [replace(shadow, references=r) for shadow, r in zip((one, two), references, strict=True)]
    attack = Relative(Threshold(SIGNAL))
    scorer = PerGroup(attack).fit(shadows)
    alone = attack.fit([only(shadows[0], 10), replace(only(shadows[0], 10), member=np.full(30, np.nan))])
    assert alone.threshold is not None
    mine = only(hidden(shadows[0]), 10)
    np.testing.assert_array_equal(scorer.score(mine), alone.score(mine) - alone.threshold)


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_rows_keep_their_order(attack: Attack) -> None:
    target, *shadows = games(16, seed=8)
    target, order = hidden(target), np.random.default_rng(3).permutation(105)
    names = tuple(target.names[i] for i in order)

    def shuffled(one: Evidence) -> Evidence:
        assert one.group is not None
        references = tuple(map(shuffled, one.references))
        return Evidence(one.features[order], one.member[order], names, references, one.group[order])

    scorer = PerGroup(attack).fit(shadows)
    np.testing.assert_allclose(scorer.score(shuffled(target)), scorer.score(target)[order], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("attack", [Threshold(SIGNAL), *COMPARING[:-1]], ids=repr)
def test_without_shadows_the_scores_are_the_inner_attacks_own(attack: Attack) -> None:
    target = hidden(games(16)[0])
    scorer = PerGroup(attack).fit([])
    assert scorer.threshold is None
    np.testing.assert_array_equal(scorer.score(target), attack.fit([]).score(target))


def test_evidence_without_groups_is_refused() -> None:
    target, *shadows = games(3)
    message = r"PerGroup fits an attack for each group, but .* give the Pool a group .*, or take Threshold without"
    with pytest.raises(ValueError, match=message):
        PerGroup(Threshold(SIGNAL)).fit([shadows[0], replace(shadows[1], group=None)])
    for given in (shadows, []):
        with pytest.raises(ValueError, match=message):
            PerGroup(Threshold(SIGNAL)).fit(given).score(replace(target, group=None))


def test_references_about_other_units_are_refused() -> None:
    target, *shadows = games(16)
    scorer = PerGroup(OfflineLiRA(SIGNAL)).fit(shadows)
    short = only(target.references[0], 10)
    with pytest.raises(ValueError, match=r"reference 2 has 30 units and the target 105\. Ask every shadow"):
        scorer.score(replace(target, references=(target.references[0], short)))


@pytest.mark.parametrize("attack", [*EVERY, Refusing()], ids=repr)
def test_everything_else_is_the_inner_attacks(attack: Attack) -> None:
    wrapped = PerGroup(attack)
    assert (wrapped.least, wrapped.compares, wrapped.signal) == (attack.least, attack.compares, attack.signal)


def test_a_smallest_group_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"smallest must be at least 1 unit, such as 5, but is 0\."):
        PerGroup(Threshold(SIGNAL), 0)
