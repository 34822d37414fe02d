"""Every signal against a naive loop over users, written from the published definition."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from worlds import fake_answers, ragged

from hf_mia.core import Floats, Pool, Signal
from hf_mia.signals.language import (
    FrequencyRankHistogram,
    LogRankHistogram,
    MeanLogRank,
    MeanLoss,
    MeanRank,
    ProbabilityHistogram,
    RankHistogram,
)
from hf_mia.signals.texts import Beside, RandomTexts, RarestTexts

V = 5003  # prime, so that no rank falls on an edge between two bins
Row = dict[str, np.ndarray]


def units(records: int, names: int, seed: int = 0) -> Pool:
    rng = np.random.default_rng(seed)
    unit = rng.permutation(np.concatenate([np.arange(names), rng.integers(names, size=records - names)]))
    return Pool(Dataset.from_dict({"text": [""] * records}), unit.astype(np.int64), tuple(map(str, range(names))))


ROWS = fake_answers(90, V, seed=1, empty=(3, 4, 5, 89))
POOL = units(90, 12)
CHUNKS = [ragged(ROWS[:3]), ragged(ROWS[3:40]), ragged(ROWS[40:])]


def pooled(name: str, first_subword: bool = False, rows: Sequence[Row] = ROWS, pool: Pool = POOL) -> list[np.ndarray]:
    """All numbers of each user's words, text after text."""
    found = []
    for u in range(len(pool.names)):
        values: list[float] = []
        for i, row in enumerate(rows):
            if pool.unit[i] == u:
                values += [x for x, s in zip(row[name].tolist(), row["start"], strict=True) if s or not first_subword]
        found.append(np.array(values, dtype=np.float64))
    return found


def counted(values: list[np.ndarray], edges: np.ndarray) -> Floats:
    """A user's histogram on explicit edges, divided by its Euclidean length."""
    counts = [np.histogram(v, edges)[0].astype(np.float64) for v in values]
    assert all(c.sum() == len(v) for c, v in zip(counts, values, strict=True))
    return np.array([c / math.sqrt((c**2).sum()) for c in counts])


@pytest.mark.parametrize("first_subword", [False, True])
@pytest.mark.parametrize(
    ("signal", "number"),
    [
        (MeanRank(), lambda row: -row),
        (MeanRank(top=10), lambda row: -min(row, 10)),
        (MeanLogRank(), lambda row: -math.log(1 + row)),
        (MeanLogRank(top=7), lambda row: -math.log(1 + min(row, 7))),
    ],
    ids=lambda value: repr(value) if isinstance(value, MeanRank | MeanLogRank) else "",
)
def test_mean_of_ranks(signal: MeanRank | MeanLogRank, number: Callable[[float], float], first_subword: bool) -> None:
    expected = [np.mean([number(r) for r in ranks]) for ranks in pooled("rank", first_subword)]
    found = replace(signal, first_subword=first_subword).read(CHUNKS, POOL)
    np.testing.assert_allclose(found, np.array(expected)[:, None], rtol=1e-12)


@pytest.mark.parametrize("first_subword", [False, True])
def test_mean_loss_is_the_mean_log_probability_of_words(first_subword: bool) -> None:
    expected = [np.mean(values) for values in pooled("logprob", first_subword)]
    np.testing.assert_allclose(
        MeanLoss(first_subword=first_subword).read(CHUNKS, POOL), np.array(expected)[:, None], rtol=1e-12
    )


@pytest.mark.parametrize("bins", [1, 10, 100])
def test_rank_histogram_has_equal_bins_over_the_vocabulary(bins: int) -> None:
    expected = counted(pooled("rank"), np.linspace(0, V, bins + 1))
    np.testing.assert_allclose(RankHistogram(bins=bins).read(CHUNKS, POOL), expected, rtol=1e-12)


@pytest.mark.parametrize("first_subword", [False, True])
@pytest.mark.parametrize("top", [1, 2, 10, 99, 100, 101, 500, 1000])
def test_rank_histogram_of_a_cut_list(top: int, first_subword: bool) -> None:
    """Ranks clipped to w; min(100, w) bins, w + 1 when they are equal, over [0, w + 1)."""
    bins = min(100, top)
    if bins == top:
        bins = top + 1
    clipped = [np.minimum(ranks, top) for ranks in pooled("rank", first_subword)]
    expected = counted(clipped, np.linspace(0, top + 1, bins + 1))
    found = RankHistogram(top=top, first_subword=first_subword).read(CHUNKS, POOL)
    assert found.shape == (12, top + 1 if top <= 100 else 100)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_last_bin_of_a_cut_list_says_not_in_the_list() -> None:
    row = {**fake_answers(1, V, 0)[0], "rank": np.array([0, 9, 10, 4000], dtype=np.int32)}
    row |= {name: np.ones(4) for name in ("token", "start", "logprob")}
    found = RankHistogram(top=10).read([ragged([row])], units(1, 1))
    np.testing.assert_allclose(found[0], np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]) / math.sqrt(6))


def test_log_rank_histogram_has_equal_bins_in_the_logarithm() -> None:
    logs = [np.log(1 + ranks) for ranks in pooled("rank")]
    found = LogRankHistogram(bins=13).read(CHUNKS, POOL)
    np.testing.assert_allclose(found, counted(logs, np.linspace(0, math.log(1 + V), 14)), rtol=1e-12)


def test_log_rank_histogram_of_a_cut_list() -> None:
    logs = [np.log(1 + np.minimum(ranks, 50)) for ranks in pooled("rank")]
    found = LogRankHistogram(bins=13, top=50).read(CHUNKS, POOL)
    np.testing.assert_allclose(found, counted(logs, np.linspace(0, math.log(52), 14)), rtol=1e-12)


def test_probability_histogram_clips_at_its_ends() -> None:
    clipped = [np.clip(values, -8, 0) for values in pooled("logprob")]
    assert any((values == -8).any() for values in clipped)
    found = ProbabilityHistogram(bins=17, lowest=8.0).read(CHUNKS, POOL)
    np.testing.assert_allclose(found, counted(clipped, np.linspace(-8, 0, 18)), rtol=1e-12)


def test_a_certain_word_falls_in_the_last_bin() -> None:
    row = {**fake_answers(1, V, 0)[0], "logprob": np.zeros(1, dtype=np.float32)}
    row |= {name: np.ones(1, dtype=np.int64) for name in ("token", "start", "rank")}
    assert ProbabilityHistogram(bins=5).read([ragged([row])], units(1, 1)).tolist() == [[0, 0, 0, 0, 1]]


@pytest.mark.parametrize("top", [None, 30])
def test_frequency_rank_histogram(top: int | None) -> None:
    """Rank less the word's place by frequency; equally frequent words are placed by their number."""
    shadow = fake_answers(200, V, seed=9)
    counts = Counter(int(token) for row in shadow for token in row["token"])
    place = {token: at for at, token in enumerate(sorted(range(V), key=lambda token: (-counts[token], token)))}
    ranks = [np.minimum(r, top or V) for r in pooled("rank")]
    common = [np.array([place[int(t)] for t in tokens]) for tokens in pooled("token")]
    shifts = [r - c for r, c in zip(ranks, common, strict=True)]
    signal = FrequencyRankHistogram(bins=41, top=top).learn(
        [[ragged(shadow[:50]), ragged(shadow[50:120])], [ragged(shadow[120:])]]
    )
    np.testing.assert_allclose(signal.read(CHUNKS, POOL), counted(shifts, np.linspace(-V, V, 42)), rtol=1e-12)


def test_signals_that_count_words_say_when_there_is_nothing_to_count() -> None:
    for signal in (FrequencyRankHistogram(), RarestTexts(MeanRank(), 2)):
        for learnt in (signal, signal.learn([])):
            with pytest.raises(ValueError, match=r"shadows\.count"):
                learnt.read(CHUNKS, POOL)


EVERY = [
    MeanRank(),
    MeanLogRank(),
    MeanLoss(),
    RankHistogram(),
    LogRankHistogram(),
    ProbabilityHistogram(),
    FrequencyRankHistogram().learn([CHUNKS]),
    Beside((MeanRank(), RankHistogram(top=5))),
    RandomTexts(MeanRank(), 2),
    RarestTexts(RankHistogram(), 2).learn([CHUNKS]),
]


@pytest.mark.parametrize("signal", EVERY, ids=repr)
def test_how_records_are_cut_into_chunks_does_not_matter(signal: Signal) -> None:
    whole = signal.read([ragged(ROWS)], POOL)
    np.testing.assert_allclose(signal.read(CHUNKS, POOL), whole, rtol=0, atol=1e-12)
    assert np.isfinite(whole).all()
    assert whole.dtype == np.float64


@pytest.mark.parametrize("signal", EVERY, ids=repr)
def test_empty_records_change_nothing_and_a_user_with_nothing_else_has_no_number(signal: Signal) -> None:
    rows = [*fake_answers(6, V, seed=4), *fake_answers(3, V, seed=5, empty=(0, 1, 2))]
    pool = Pool(Dataset.from_dict({"text": [""] * 9}), np.array([0, 0, 0, 1, 1, 1, 0, 2, 2]), ("a", "b", "c"))
    without = Pool(Dataset.from_dict({"text": [""] * 6}), pool.unit[:6], ("a", "b"))
    found = signal.read([ragged(rows)], pool)
    if not isinstance(signal, RandomTexts):  # there the empty text may be the one that is drawn
        np.testing.assert_allclose(found[:2], signal.read([ragged(rows[:6])], without), rtol=0, atol=1e-12)
    assert np.isnan(found[2]).all()


def test_beside_puts_features_next_to_each_other() -> None:
    parts = (MeanRank(), RankHistogram(top=10), FrequencyRankHistogram(bins=7))
    found = Beside(parts).learn([CHUNKS]).read(CHUNKS, POOL)
    expected = np.hstack([part.learn([CHUNKS]).read(CHUNKS, POOL) for part in parts])
    assert found.shape == (12, 1 + 11 + 7)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("texts", [1, 3, 1000])
def test_rarest_texts_are_those_of_the_rarest_words(texts: int) -> None:
    shadow, size = fake_answers(300, 60, seed=12), 60
    rows = [row for row in fake_answers(300, size, seed=13) if len(row["token"]) > 5]  # long enough to differ
    pool = units(len(rows), 12)
    counts = Counter(int(token) for row in shadow for token in row["token"])
    every = sum(counts.values())
    expected = []
    for u in range(12):
        own = [row for i, row in enumerate(rows) if pool.unit[i] == u]
        rarity = [np.mean([-math.log((1 + counts[int(t)]) / (1 + every)) for t in row["token"]]) for row in own]
        chosen = sorted(range(len(own)), key=lambda i: -rarity[i])[:texts]
        expected.append([-np.mean(np.concatenate([own[i]["rank"] for i in chosen]).astype(float))])
    found = RarestTexts(MeanRank(), texts).learn([[ragged(shadow)]]).read([ragged(rows)], pool)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def chosen_by(signal: RandomTexts, rows: Sequence[Row], pool: Pool) -> list[int]:
    """Which records a signal reads: each is tagged with a power of two as its only rank."""
    tagged = [{**row, "rank": np.array([2.0**i]), "start": np.ones(1)} for i, row in enumerate(rows)]
    masks = (-signal.read([ragged(tagged)], pool)[:, 0] * np.minimum(np.bincount(pool.unit), signal.texts)).round()
    return [i for i in range(len(rows)) if int(masks[pool.unit[i]]) >> i & 1]


def word(token: int) -> Row:
    return {"token": np.array([token]), "vocabulary": np.array([V])}


def test_random_texts_hang_on_words_and_seed_alone() -> None:
    rows, pool = [word(7 * i) for i in range(40)], units(40, 5)
    chosen = chosen_by(RandomTexts(MeanRank(), 3), rows, pool)
    assert sorted(np.bincount(pool.unit[chosen])) == [3] * 5
    order = np.random.default_rng(0).permutation(40)
    mixed = replace(pool, unit=pool.unit[order])
    assert sorted(order[chosen_by(RandomTexts(MeanRank(), 3), [rows[i] for i in order], mixed)]) == chosen
    assert chosen_by(RandomTexts(MeanRank(), 3, seed=1), rows, pool) != chosen


def test_every_text_has_the_same_chance_to_be_drawn() -> None:
    """Over many seeds, the counts of eight texts of one user by the chi-squared test."""
    from scipy.stats import chisquare

    rows, pool = [word(int(token)) for token in np.random.default_rng(0).integers(V, size=8)], units(8, 1)
    drawn = Counter(chosen_by(RandomTexts(MeanRank(), 1, seed), rows, pool)[0] for seed in range(800))
    assert chisquare([drawn[i] for i in range(8)]).pvalue > 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RankHistogram(bins=0), "bins must be at least 1"),
        (lambda: RankHistogram(top=0), "top must be at least 1"),
        (lambda: RandomTexts(MeanRank(), 0), "texts must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Signal], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_one_user_order_of_names_and_counts() -> None:
    """Features stand in the order of the pool's names, whatever the order of records."""
    rows = [{**word(1), "rank": np.array([float(i)]), "start": np.ones(1), "logprob": np.zeros(1)} for i in range(4)]
    pool = Pool(Dataset.from_dict({"text": [""] * 4}), np.array([1, 0, 1, 0]), ("first", "second"))
    assert MeanRank().read([ragged(rows)], pool).tolist() == [[-2.0], [-1.0]]
