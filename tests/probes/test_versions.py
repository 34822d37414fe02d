"""Versions of texts: what they are, and how likely, against whole logits in float64, one version after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from worlds import World, each, texts

from hf_mia.core import Model
from hf_mia.data.images import Images
from hf_mia.data.texts import Texts
from hf_mia.models.language import TextCollate, language_model
from hf_mia.models.vision import ImageCollate
from hf_mia.probes.tokens import Tokens
from hf_mia.probes.versions import Lowercase, Neighbours, Prefixed, Versioned, Versions
from hf_mia.recipes.vocabulary import word_tokenizer
from hf_mia.runner import Runner

TEXTS = [text for user in texts(4, 6, seed=8) for text in user]
PREFIX = (TEXTS[1], TEXTS[0])


@pytest.fixture(params=["lstm", "gpt2"])
def model(request: pytest.FixtureRequest, overfitted: World, gpt2_folder: Path) -> Model:
    return overfitted.target.model if request.param == "lstm" else language_model(gpt2_folder)


def ids_of(collate: TextCollate, text: str) -> list[int]:
    """A text's ids as the model meets them in training: each text ended by the token that so stands before it."""
    return [collate.tokenizer.eos_token_id, *collate.tokenizer(text, add_special_tokens=False)["input_ids"]]


def likelihood(module: torch.nn.Module, ids: Sequence[int], begin: int) -> float:
    """The log-probability of all tokens from position `begin` on, of whole logits in float64."""
    with torch.no_grad():
        logp = module(input_ids=torch.tensor([list(ids)])).logits[0].double().log_softmax(1)
    return sum(float(logp[i - 1, ids[i]]) for i in range(begin, len(ids)))


def asked(probe: Versions, model: Model, records: Sequence[str], cache: Path) -> list[list[tuple[float, int]]]:
    """Through the runner: each text's versions, each with its log-probability and its number of tokens."""
    runner, found = Runner(cache, chunk=7, tokens=64), []
    for answers in each(runner(model, probe, Dataset.from_dict({"text": list(records)}))):
        sums = [(0.0, 0)] * (int(answers["version"].max()) + 1)
        for version, logprob, tokens in zip(*(answers[n] for n in ("version", "logprob", "tokens")), strict=True):
            sums[version] = (sums[version][0] + float(logprob), sums[version][1] + int(tokens))
        found.append(sums)
    return found


def same(found: list[tuple[float, int]], expected: list[tuple[float, int]]) -> None:
    np.testing.assert_allclose([one for one, _ in found], [one for one, _ in expected], rtol=0, atol=1e-4)
    assert [count for _, count in found] == [count for _, count in expected]


def test_neighbours_are_asked_beside_the_text(model: Model, tmp_path: Path) -> None:
    probe, collate, module = Neighbours(n=3, share=0.2, seed=5), model.collate, model.load()
    special = set(collate.tokenizer.all_special_ids)
    ordinary = np.array([i for i in range(len(collate.tokenizer)) if i not in special])
    short = [text for text in TEXTS if len(text.split()) < 15]
    for text, found in zip(short, asked(probe, model, short, tmp_path), strict=True):
        ids = ids_of(collate, text)
        near = probe.drawn(np.array(ids), ordinary).tolist()
        same(found, [(likelihood(module, row, 1), len(ids) - 1) for row in [ids, *near]])


def test_a_text_is_asked_again_after_the_prefix(overfitted: World, tmp_path: Path) -> None:
    model = overfitted.target.model
    before, module = [i for text in PREFIX for i in ids_of(model.collate, text)], model.load()
    for text, found in zip(TEXTS, asked(Prefixed(PREFIX), model, TEXTS, tmp_path), strict=True):
        ids = ids_of(model.collate, text)
        after = likelihood(module, [*before, *ids], len(before) + 1)
        same(found, [(likelihood(module, ids, 1), len(ids) - 1), (after, len(ids) - 1)])
        assert abs(after - found[0][0]) > 1e-3


def test_a_lower_case_text_is_asked_beside_the_text(overfitted_cased: World, tmp_path: Path) -> None:
    model = overfitted_cased.target.model
    words, module = overfitted_cased.target.pool.records["text"][:12], model.load()
    assert not any(text.islower() for text in words)
    for text, found in zip(words, asked(Lowercase(), model, words, tmp_path), strict=True):
        each_ids = [ids_of(model.collate, text), ids_of(model.collate, text.lower())]
        same(found, [(likelihood(module, ids, 1), len(ids) - 1) for ids in each_ids])
        assert abs(found[0][0] - found[1][0]) > 1e-3


@pytest.mark.parametrize("context", [3, 8, 16])
@pytest.mark.parametrize("words", [1, 7, 16, 40])
def test_long_texts_are_scored_in_windows_after_a_prefix_of_half_the_context(
    gpt2_folder: Path, context: int, words: int
) -> None:
    collate = TextCollate(language_model(gpt2_folder).collate.tokenizer, context)
    rng = np.random.default_rng(words)
    own = rng.integers(2, len(collate.tokenizer), size=words).tolist()
    text = " ".join(collate.tokenizer.convert_ids_to_tokens(own))
    prefix = Prefixed(tuple(TEXTS)).through(collate)
    assert isinstance(prefix, Versioned)
    rows = [item for item in prefix.encode({"text": [text]}) if item.values["version"] == 1]
    whole = [i for one in TEXTS for i in ids_of(collate, one)]
    front = min(context // 2, context - 2)
    scored = []
    for row in rows:
        ids, marks = row.values["input_ids"], row.values["scored"]
        assert len(ids) == len(marks) == len(row.values["starts"]) == row.size <= context
        assert ids[:front] == whole[-front:]
        assert sum(marks[: front + 1]) == 0
        scored += [i for i, mark in zip(ids, marks, strict=True) if mark]
    assert scored == own


def test_neighbours_hang_on_seed_and_tokens_alone() -> None:
    tokenizer = word_tokenizer(TEXTS, 150)
    collate = TextCollate(tokenizer)

    def drawn(seed: int, order: list[str]) -> dict[str, list[list[int]]]:
        rows = Neighbours(n=4, seed=seed).others(order, collate)
        return {text: [row[0].values["input_ids"] for row in near] for text, near in zip(order, rows, strict=True)}

    assert drawn(1, TEXTS) == drawn(1, TEXTS[::-1]) == drawn(1, TEXTS)
    assert drawn(1, TEXTS) != drawn(2, TEXTS)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_a_share_of_the_tokens_is_swapped_for_others_of_like_place(share: float) -> None:
    rng = np.random.default_rng(3)
    ordinary = np.setdiff1d(np.arange(400), [0, 7, 399])
    for length in (1, 2, 9, 40):
        ids = np.concatenate([[0], rng.choice(ordinary, length), [7]])
        near = Neighbours(n=50, share=share).drawn(ids, ordinary)
        assert near.shape == (50, length + 2)
        assert ((near != ids).sum(axis=1) == max(1, round(share * length))).all()
        assert (near[:, [0, -1]] == [0, 7]).all()
        old, new = (np.searchsorted(ordinary, some[:, 1:-1]) for some in (np.tile(ids, (50, 1)), near))
        assert np.isin(near[:, 1:-1], ordinary).all()
        assert (new >= old // 2).all()
        assert (new <= 2 * old + 1).all()


def test_every_token_of_like_place_has_the_same_chance() -> None:
    """Over many seeds, which token of 30 stands in for the tenth, by the chi-squared test: 5 to 21 without itself."""
    from scipy.stats import chisquare

    ids, ordinary = np.array([10]), np.arange(30)
    drawn = np.array([Neighbours(n=20, seed=seed).drawn(ids, ordinary)[:, 0] for seed in range(100)]).ravel()
    counts = np.bincount(drawn, minlength=30)
    assert np.flatnonzero(counts).tolist() == [i for i in range(5, 22) if i != 10]
    assert chisquare(counts[counts > 0]).pvalue > 1e-4


@pytest.mark.parametrize(("ids", "ordinary"), [([0, 0], [1, 2, 3]), ([0], [1, 2]), ([0, 1], [1])])
def test_a_text_without_a_token_to_swap_is_its_own_neighbour(ids: list[int], ordinary: list[int]) -> None:
    near = Neighbours(n=3).drawn(np.array(ids), np.array(ordinary))
    assert near.tolist() == [ids] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Neighbours(n=0), "n must be at least 1"),
        (lambda: Neighbours(share=0.0), r"share must be in \(0, 1\]"),
        (lambda: Neighbours(share=1.1), r"share must be in \(0, 1\]"),
        (lambda: Prefixed(()), "prefix must hold texts"),
        (lambda: Prefixed((" ",)), "prefix must hold texts"),
        (lambda: Lowercase().through(ImageCollate(8)), r"Lowercase\(\).*ImageCollate.*causal language model"),
    ],
)
def test_what_cannot_be_asked_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_versions_are_for_texts() -> None:
    assert Texts().takes(Lowercase())
    assert not Images().takes(Lowercase())


def test_another_version_is_another_question(gpt2_folder: Path, tmp_path: Path) -> None:
    """Each has its own answers in the cache, and what other probes are told of the texts stays as it is."""
    model, records = language_model(gpt2_folder), Dataset.from_dict({"text": TEXTS[:5]})
    runner = Runner(tmp_path)
    probes = [Tokens(), Lowercase(), Neighbours(), Neighbours(seed=1), Neighbours(n=2), Prefixed(), Prefixed(PREFIX)]
    folders = {runner(model, probe, records).paths[0].parent for probe in probes}
    assert len(folders) == len(probes)
    alone = list(each(Runner(tmp_path / "other")(model, Tokens(), records)))
    for one, other in zip(each(runner(model, Tokens(), records)), alone, strict=True):
        assert all((one[name] == other[name]).all() for name in other)
