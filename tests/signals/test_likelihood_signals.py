"""The scores of one text against naive loops of the published definitions, and what must not change them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from worlds import World, fake_answers, ragged, texts

from hf_mia.collate import Batch
from hf_mia.core import Model, Pool, Signal
from hf_mia.models.language import TextCollate, language_model
from hf_mia.probes.tokens import Tokens
from hf_mia.probes.versions import Neighbours, Prefixed
from hf_mia.signals.language import MeanLogRank, MeanLoss, MeanRank
from hf_mia.signals.likelihood import LossGap, LossRatio, MinK, MinKPlusPlus, TextLoss, ZlibLoss

Row = dict[str, np.ndarray]
V, USERS = 5003, 12
ROWS = fake_answers(90, V, seed=1, empty=(3, 4, 5, 89))
UNIT = np.random.default_rng(0).permutation(np.arange(90) % USERS)
POOL = Pool(Dataset.from_dict({"text": [""] * 90}), UNIT, tuple(map(str, range(USERS))))
CHUNKS = [ragged(ROWS[:3]), ragged(ROWS[3:40]), ragged(ROWS[40:])]


def loss(row: Row) -> float:
    return sum(row["logprob"].tolist()) / len(row["logprob"])


def zlib_loss(row: Row) -> float:
    return loss(row) / int(row["compressed"][0])


def min_k(k: float) -> Callable[[Row], float]:
    def score(row: Row) -> float:
        lowest = sorted(row["logprob"].tolist())[: max(1, math.floor(round(k * len(row["logprob"]), 6)))]
        return sum(lowest) / len(lowest)

    return score


def min_k_plus_plus(k: float) -> Callable[[Row], float]:
    def score(row: Row) -> float:
        three = (row[name].tolist() for name in ("logprob", "mean", "deviation"))
        normalised = [(own - mean) / deviation for own, mean, deviation in zip(*three, strict=True)]
        lowest = sorted(normalised)[: max(1, math.floor(round(k * len(normalised), 6)))]
        return sum(lowest) / len(lowest)

    return score


SHARES = (0.05, 0.2, 0.29, 0.5, 1.0)
DEFINED = [
    (TextLoss(), loss),
    (ZlibLoss(), zlib_loss),
    *((MinK(k), min_k(k)) for k in SHARES),
    *((MinKPlusPlus(k), min_k_plus_plus(k)) for k in SHARES),
]


@pytest.mark.parametrize(("signal", "defined"), DEFINED, ids=[repr(signal) for signal, _ in DEFINED])
def test_a_unit_has_the_mean_of_its_texts_scores(signal: Signal, defined: Callable[[Row], float]) -> None:
    """A text without a token is left out; so is a floor that no deviation here comes near."""
    filled = [i for i, row in enumerate(ROWS) if len(row["token"])]
    expected = [np.mean([defined(ROWS[i]) for i in filled if UNIT[i] == unit]) for unit in range(USERS)]
    assert len(filled) == 86
    found = signal.read(CHUNKS, POOL)
    np.testing.assert_allclose(found, np.array(expected)[:, None], rtol=1e-12)
    np.testing.assert_allclose(signal.read([ragged(ROWS)], POOL), found, rtol=1e-12)
    assert found.dtype == np.float64


@pytest.mark.parametrize("signal", [signal for signal, _ in DEFINED], ids=repr)
def test_a_unit_without_a_token_has_no_number(signal: Signal) -> None:
    rows = [*ROWS[:2], *ROWS[3:6]]
    pool = Pool(Dataset.from_dict({"text": [""] * 5}), np.array([0, 0, 1, 1, 0]), ("a", "b"))
    alone = Pool(Dataset.from_dict({"text": [""] * 2}), np.array([0, 0]), ("a",))
    found = signal.read([ragged(rows)], pool)
    np.testing.assert_allclose(found[:1], signal.read([ragged(rows[:2])], alone), rtol=1e-12)
    assert np.isnan(found[1]).all()
    assert np.isnan(signal.read([ragged(ROWS[3:5])], alone)).all()


def test_the_lowest_share_is_floored_without_rounding_errors_and_never_empty() -> None:
    row = {**ROWS[0], "logprob": -np.arange(1.0, 101.0)}
    assert 0.29 * 100 < 29
    for k, count in ((0.29, 29), (0.001, 1), (0.999, 99), (1.0, 100)):
        found = MinK(k).texts(ragged([row]))
        np.testing.assert_allclose(found, [-np.mean(np.arange(100, 100 - count, -1))])


def test_a_deviation_of_nothing_counts_as_the_floor() -> None:
    row = {"logprob": np.array([-3.0, -2.0]), "mean": np.array([-3.0, -3.0]), "deviation": np.zeros(2)}
    np.testing.assert_allclose(MinKPlusPlus(1.0).texts(ragged([row])), [2.0**20 / 2])


@pytest.mark.parametrize("k", [0.0, -0.1, 1.5, math.nan])
@pytest.mark.parametrize("kind", [MinK, MinKPlusPlus])
def test_impossible_shares_are_refused(kind: type[MinK], k: float) -> None:
    with pytest.raises(ValueError, match=r"k must be in \(0, 1\]"):
        kind(k)


def test_zlib_needs_the_compressed_size() -> None:
    row = {name: values for name, values in ROWS[0].items() if name != "compressed"}
    with pytest.raises(ValueError, match="add `compressed`"):
        ZlibLoss().texts(ragged([row]))


def naive_versions(row: Row) -> list[float]:
    """Each version's mean log-probability, window by window."""
    found = []
    for version in range(int(row["version"].max()) + 1):
        total, tokens = 0.0, 0
        for number, logprob, count in zip(row["version"], row["logprob"], row["tokens"], strict=True):
            if number == version:
                total, tokens = total + float(logprob), tokens + int(count)
        found.append(total / tokens)
    return found


def fake_versions(count: int, versions: int, windows: int, seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        version = np.sort(np.concatenate([np.arange(versions), rng.integers(versions, size=windows)]))
        tokens = rng.integers(1, 9, size=len(version))
        rows.append({"version": version, "tokens": tokens, "logprob": -rng.exponential(3.0, len(version)) * tokens})
    return rows


@pytest.mark.parametrize("versions", [2, 7])
@pytest.mark.parametrize("windows", [0, 5])
def test_gap_and_ratio_compare_the_mean_losses_of_versions(versions: int, windows: int) -> None:
    rows = fake_versions(20, versions, windows, seed=versions + windows)
    each = [naive_versions(row) for row in rows]
    gaps = [own - np.mean(others) for own, *others in each]
    np.testing.assert_allclose(LossGap().texts(ragged(rows)), gaps, rtol=1e-12)
    ratios = [others[0] / own for own, *others in each]
    np.testing.assert_allclose(LossRatio().texts(ragged(rows)), ratios, rtol=1e-12)


def test_versions_without_a_token_leave_the_text_out() -> None:
    silent = {"version": np.array([0, 1]), "tokens": np.array([0, 0]), "logprob": np.zeros(2)}
    rows = [silent, *fake_versions(3, 2, 0, seed=0)]
    for signal in (LossGap(), LossRatio()):
        assert np.isnan(signal.texts(ragged(rows))).tolist() == [True, False, False, False]
        assert np.isfinite(signal.measure(ragged(rows))).all()


def test_a_loss_of_nothing_divides_by_the_floor() -> None:
    row = {"version": np.array([0, 1]), "tokens": np.array([2, 2]), "logprob": np.array([0.0, -1.0])}
    np.testing.assert_allclose(LossRatio().texts(ragged([row])), [0.5 * 2.0**24])


TEXTS = [text for user in texts(4, 12, seed=8) for text in user]
ALIKE = [MeanLoss(), MeanLogRank(), MeanRank(), TextLoss(), ZlibLoss(), MinK(), MinKPlusPlus()]
ASKED = [*ALIKE, LossGap(Neighbours(n=3)), LossRatio(Prefixed((TEXTS[0], TEXTS[1])))]


@pytest.fixture(params=["lstm", "gpt2"])
def model(request: pytest.FixtureRequest, overfitted: World, gpt2_folder: Path) -> Model:
    return overfitted.target.model if request.param == "lstm" else language_model(gpt2_folder)


def padded_left(batch: Batch) -> Batch:
    """The same rows with their padding on the left, as a tokenizer with padding_side = "left" makes them."""
    width, moved = batch["attention_mask"].shape[1], {}
    for name, tensor in batch.items():
        if tensor.shape == batch["attention_mask"].shape:
            moved[name] = torch.zeros_like(tensor)
            for row, size in enumerate(batch["attention_mask"].sum(1).tolist()):
                moved[name][row, width - size :] = tensor[row, :size]
    return {**batch, **moved}


def scores(
    signal: Signal, model: Model, size: int, change: Callable[[Batch], Batch] = lambda batch: batch
) -> np.ndarray:
    """A score a text, asked `size` rows at a time in the order of their length, without the runner."""
    module, collate = model.load(), signal.probe.through(model.collate)
    items = collate.encode({"text": TEXTS})
    order = sorted(range(len(items)), key=lambda i: items[i].size)
    rows: list[dict[str, np.ndarray]] = [{} for _ in items]
    for at in range(0, len(order), size):
        batch = change(collate.pad([items[i] for i in order[at : at + size]]))
        answers = signal.probe.observe(module, batch)
        for place, i in enumerate(order[at : at + size]):
            keep = batch["scored"][place]
            rows[i] = {n: (a[place][keep] if a.shape == batch["scored"].shape else a[place]).numpy() for n, a in answers.items()}  # fmt: skip  # noqa: E501
    records = [[row for row, item in zip(rows, items, strict=True) if item.record == r] for r in range(len(TEXTS))]
    joined = [{name: np.concatenate([row[name] for row in own]) for name in own[0]} for own in records]
    pool = Pool(Dataset.from_dict({"text": TEXTS}), np.arange(len(TEXTS)), tuple(map(str, range(len(TEXTS)))))
    return signal.read([ragged(joined)], pool)


@pytest.mark.parametrize("signal", ASKED, ids=repr)
def test_neither_batch_size_nor_side_of_padding_changes_a_score(signal: Signal, model: Model) -> None:
    alone = scores(signal, model, 1)
    assert len(np.unique(alone.round(4))) > 20
    np.testing.assert_allclose(scores(signal, model, 32), alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores(signal, model, 32, padded_left), alone, rtol=0, atol=1e-5)


def test_scores_of_a_model_are_those_of_the_public_definition(gpt2_folder: Path) -> None:
    """One text after the other, the whole softmax in float64, from the text to the four scores."""
    model = language_model(gpt2_folder)
    collate = TextCollate(model.collate.tokenizer, None)
    short = [i for i, text in enumerate(TEXTS) if len(text.split()) < 15]
    expected = [defined(model.load(), collate, TEXTS[i], 0.2) for i in short]
    found = np.hstack([scores(s, model, 32)[short] for s in (TextLoss(), ZlibLoss(), MinK(0.2), MinKPlusPlus(0.2))])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def defined(module: torch.nn.Module, collate: TextCollate, text: str, k: float) -> Sequence[float]:
    ids = [collate.tokenizer.eos_token_id, *collate.tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        logits = module(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    own, normalised = [], []
    for row, (_, token) in zip(logits, pairwise(ids), strict=False):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        mean = sum(one * math.log(one) for one in p)
        deviation = math.sqrt(sum(one * (math.log(one) - mean) ** 2 for one in p))
        own.append(math.log(p[token]))
        normalised.append((own[-1] - mean) / deviation)
    count = max(1, int(k * len(own)))
    total = sum(own) / len(own)
    lowest = [sum(sorted(values)[:count]) / count for values in (own, normalised)]
    return total, total / len(zlib.compress(text.encode())), *lowest


def test_the_answers_of_tokens_are_part_of_its_name() -> None:
    assert "compressed" in repr(Tokens())
