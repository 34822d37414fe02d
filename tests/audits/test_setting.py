"""From an experiment to its games: users never split, no confound by the vocabulary, honest shares and domains."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from worlds import World, config, tiny_gpt2, write

from hf_mia.audits.experiment import experiment
from hf_mia.audits.games import games
from hf_mia.audits.plan import Experiment
from hf_mia.audits.setting import Setting, asked, jobs, setting
from hf_mia.core import Pool


def prepared(tmp_path: Path, **changes: object) -> Setting:
    made = config(write(tmp_path / "texts.parquet", 40), 40, epochs=1)
    for name, value in changes.items():
        made[name] = {**made[name], **value} if isinstance(value, dict) and name in made else value  # type: ignore[dict-item]
    return setting(experiment(made))


def owners(pool: Pool) -> dict[str, str]:
    """Whose each text is; texts are unique in these worlds."""
    return {text: pool.names[u] for text, u in zip(pool.records["text"], pool.unit, strict=True)}


def test_every_user_is_on_one_side_with_all_texts(tmp_path: Path) -> None:
    made = prepared(tmp_path)
    whose = owners(made.corpus)
    assert len(whose) == len(made.corpus.records)
    every = Counter(whose.values())
    for job in jobs(made):
        seen = Counter(whose[text] for text in job.records["text"])
        assert len(seen) == 10
        assert all(seen[user] == every[user] for user in seen)


def test_target_and_shadows_share_no_text(tmp_path: Path) -> None:
    made = prepared(tmp_path)
    target, *shadows = (set(job.records["text"]) for job in jobs(made))
    candidates, attackers = (set(pool.records["text"]) for pool in (made.candidates(), made.shadow_pool()))
    assert target < candidates
    assert not candidates & attackers
    assert all(shadow < attackers and len(shadow) * 2 == len(attackers) for shadow in shadows)
    assert len({frozenset(shadow) for shadow in shadows}) == 3


def test_a_vocabulary_is_counted_outside_the_candidates(tmp_path: Path) -> None:
    """A word that only candidates write is unknown to every model, members' and non-members' alike."""
    made = prepared(tmp_path, target={"vocabulary": 500})
    texts = list(made.corpus.records["text"])
    mine = np.isin(made.corpus.unit, made.split.candidates)
    members = np.isin(made.corpus.unit, made.split.members)
    secret = [
        f"{text} {'member' if m else 'candidate' if c else 'other'}"
        for text, c, m in zip(texts, mine, members, strict=True)
    ]
    records = Dataset.from_dict({"text": secret})
    told = replace(made, corpus=replace(made.corpus, records=records))
    for job in jobs(told):
        words = set(job.processor.get_vocab())
        assert "other" in words
        assert not {"member", "candidate"} & words
    outside = set(told.outside())
    assert outside == {text for text, c in zip(secret, mine, strict=True) if not c}


def test_both_sides_have_the_same_share_of_unknown_words(overfitted: World) -> None:
    model, pool, member = overfitted.target.model, overfitted.target.pool, overfitted.target.member
    unknown = model.collate.tokenizer.unk_token_id
    share = []
    for side in (0, 1):
        texts = [text for text, u in zip(pool.records["text"], pool.unit, strict=True) if member[u] == side]
        ids = [i for row in model.collate.tokenizer(texts, add_special_tokens=False)["input_ids"] for i in row]
        share.append((np.mean(np.array(ids) == unknown), len(ids)))
    (first, n), (second, m) = share
    pooled = (first * n + second * m) / (n + m)
    assert 0 < pooled < 0.2
    assert abs(first - second) < 4 * np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))


@pytest.mark.parametrize(("held_out", "expected"), [(0.0, (3, 0)), (1.0, (0, 3)), (0.5, (3, 3)), (0.25, (3, 1))])
def test_shares_of_trained_and_held_out_texts(tmp_path: Path, held_out: float, expected: tuple[int, int]) -> None:
    """Of six texts half are trained on; members and non-members are asked about in the same proportion."""
    made = prepared(tmp_path, split={"trained": 0.5, "held_out": held_out})
    target = set(jobs(made)[0].records["text"])
    whose = owners(made.corpus)
    members = {made.corpus.names[i] for i in made.split.members}
    assert Counter(whose[text] for text in target) == dict.fromkeys(members, 3)
    pool = made.candidates()
    assert set(pool.names) == {made.corpus.names[i] for i in made.split.candidates}
    for name in pool.names:
        own = [text for text, user in owners(pool).items() if user == name]
        assert len(own) == sum(expected)
        if name in members:
            assert sum(text in target for text in own) == expected[0]


def test_a_user_who_would_be_asked_about_nothing_is_named(tmp_path: Path) -> None:
    made = prepared(tmp_path)
    share = replace(made.experiment.split, trained=0.9, held_out=1.0)
    with pytest.raises(ValueError, match=r"leave 20 users without a text.*data\.least"):
        asked(made.corpus, made.split.candidates, share)


def test_shadows_of_another_domain(tmp_path: Path) -> None:
    other = write(tmp_path / "other.parquet", 30, seed=77)
    made = prepared(tmp_path, shadows={"count": 2, "data": {"path": str(other)}})
    assert len(made.split.attackers) == 20
    assert len(made.split.candidates) == 20
    own, foreign = set(made.corpus.records["text"]), set(made.shadow_pool().records["text"])
    assert not own & foreign
    target, *shadows = jobs(made)
    assert set(target.records["text"]) < own
    assert all(set(shadow.records["text"]) < foreign for shadow in shadows)
    assert not set(made.corpus.names) & set(made.shadow_pool().names)  # equal names are not one user
    names = {text for text, unit in zip(made.corpus.records["text"], made.corpus.unit, strict=True)
             if unit not in made.split.candidates}  # fmt: skip
    assert set(made.outside()) == names  # the vocabulary is still that of the target's own domain


def test_too_few_users_in_another_domain(tmp_path: Path) -> None:
    other = write(tmp_path / "other.parquet", 19, seed=77)
    with pytest.raises(ValueError, match=r"shadows\.data has 19 users, and 10 members"):
        prepared(tmp_path, shadows={"count": 2, "data": {"path": str(other)}})


def test_shadows_take_turns_in_their_changes(tmp_path: Path) -> None:
    made = prepared(tmp_path, shadows={"count": 3, "changes": [{"hidden": 8}, {"cell": "gru", "optimizer": "sgd"}]})
    target, *shadows = (job.recipe for job in jobs(made))
    assert shadows[0] == shadows[2] == replace(target, hidden=8)
    assert shadows[1] == replace(target, cell="gru", optimizer="sgd")


def test_a_seed_decides_the_split_and_the_weights(tmp_path: Path) -> None:
    first, second = (jobs(prepared(tmp_path, split={"seed": seed})) for seed in (1, 2))
    assert {job.seed for job in first}.isdisjoint(job.seed for job in second)
    assert len({job.seed for job in first}) == 4
    assert set(first[0].records["text"]) != set(second[0].records["text"])


def checkpoint(tmp_path: Path, members: int, shadows: dict[str, object]) -> Experiment:
    data = {"path": str(write(tmp_path / "texts.parquet", 40))}
    target = {"name": "checkpoint", "model": str(tiny_gpt2(tmp_path / "model"))}
    target |= {"members": [f"user {i:03d}" for i in range(members)]}  # type: ignore[dict-item]
    return experiment({"data": data, "target": target, "shadows": shadows})


def test_a_checkpoint_is_audited_without_training(tmp_path: Path) -> None:
    target, shadows = games(setting(checkpoint(tmp_path, 5, {"count": 0})), tmp_path / "cache")
    assert shadows == []
    inside = {name for name, member in zip(target.pool.names, target.member, strict=True) if member}
    assert inside == {f"user {i:03d}" for i in range(5)}
    assert len(target.pool.names) == 40  # all others are non-members
    assert not target.known
    assert not (tmp_path / "cache" / "models").exists()


def test_shadows_of_a_checkpoint_need_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shadows\.recipe.*shadows\.count to 0"):
        jobs(setting(checkpoint(tmp_path, 5, {"count": 2})))


@pytest.mark.parametrize(("members", "count"), [(1, 0), (39, 0), (11, 2)])
def test_too_few_others_for_a_checkpoint(tmp_path: Path, members: int, count: int) -> None:
    with pytest.raises(ValueError, match=rf"target has {members} members.*shadows\.count to 0"):
        setting(checkpoint(tmp_path, members, {"count": count}))


def test_games_know_what_they_may(overfitted: World) -> None:
    assert not overfitted.target.known
    assert overfitted.target.member.sum() == 16
    for shadow in overfitted.shadows:
        assert shadow.known
        assert (shadow.member.sum(), len(shadow.member)) == (16, 32)
