"""Neighbours by a masked language model: against a naive loop over places and words, through the runner, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM, AutoTokenizer
from worlds import World, each, texts, tiny_bert

from hf_mia.config import named
from hf_mia.core import Model
from hf_mia.data.texts import Texts
from hf_mia.models.language import language_model
from hf_mia.papers import PAPERS
from hf_mia.probes.masked import MaskedNeighbours, filler
from hf_mia.probes.versions import Neighbours
from hf_mia.runner import Runner

TEXTS = [text for user in texts(4, 3, seed=8) for text in user]
CASES = ["W001 w002, w003.", "w001s w002", "?! ...", "w004", "W005 W005"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


def naive(folder: Path, text: str, n: int) -> list[tuple[float, str]]:
    """Every whole word masked by itself, every whole word in its place: scores and neighbours, the best n first."""
    module = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    encoded = tokenizer(text, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    found = []
    for i, (token, (start, end)) in enumerate(zip(tokens, encoded["offset_mapping"], strict=True)):
        split = tokens[i + 1].startswith("##") if i + 1 < len(tokens) else False
        if token.startswith(("[", "##")) or split or not any(c.isalpha() for c in text[start:end]):
            continue
        ids = list(encoded["input_ids"])
        ids[i] = tokenizer.mask_token_id
        with torch.no_grad():
            p = module(input_ids=torch.tensor([ids])).logits[0, i].double().softmax(0)
        own = float(p[vocabulary[token]])
        for word, index in vocabulary.items():
            if not word.startswith(("[", "##")) and word not in (token, "."):
                shown = word.capitalize() if text[start].isupper() else word
                found.append((float(p[index]) / (1 - own), text[:start] + shown + text[end:]))
    return sorted(found, reverse=True)[:n]


@pytest.mark.parametrize("text", [*TEXTS[:4], *CASES])
def test_the_likeliest_words_of_all_places_are_taken(bert: Path, text: str) -> None:
    expected = naive(bert, text, 9)
    found = MaskedNeighbours(n=9, model=str(bert), dropout=None).neighbours(text)
    assert found == ([one for _, one in expected] if expected else [text] * 9)


def test_under_dropout_the_word_itself_shows_through(bert: Path) -> None:
    """The scores of one place and draw, with the embedding dropped by hand; other draws and other shares differ."""
    text, made = TEXTS[0], filler(bert, str(bert))
    module, tokenizer = made.module, made.tokenizer
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    from hf_mia.probes.masked import _kept

    best = dict.fromkeys(range(1, ids.shape[1] - 1), -1.0)
    for place in best:
        seen = module.get_input_embeddings()(ids).detach().clone()
        kept = torch.from_numpy(_kept(ids[0].numpy(), place, 16, 0.7, 5)).float()
        seen[0, place] = seen[0, place] * kept / 0.3
        p = module(inputs_embeds=seen).logits[0, place].detach().double().softmax(0)
        own = int(ids[0, place])
        others = [i for i in range(8, len(p)) if i != own]
        best[place] = max(float(p[i]) for i in others) / (1 - float(p[own]))
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    found = list(made.candidates(text, 1, 0.7, 5))
    assert {start: -score for score, start, _, _ in found} == pytest.approx(
        {spans[place][0]: score for place, score in best.items()}, abs=1e-6
    )
    draws = [MaskedNeighbours(model=str(bert), seed=seed, dropout=share).neighbours(text) for seed, share in
             ((0, 0.7), (0, 0.7), (1, 0.7), (0, 0.2))]  # fmt: skip
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != draws[3]


def test_dropout_keeps_its_share_of_the_numbers() -> None:
    from hf_mia.probes.masked import _kept

    kept = np.mean([_kept(np.arange(9), place, 1000, 0.7, 0).mean() for place in range(20)])
    assert kept == pytest.approx(0.3, abs=0.02)


def test_a_text_beyond_the_context_is_read_in_pieces(bert: Path) -> None:
    long = " ".join(TEXTS)
    found = MaskedNeighbours(n=4000, model=str(bert)).neighbours(long)
    words = long.split()
    changed = {next(i for i, (a, b) in enumerate(zip(one.split(), words, strict=True)) if a != b) for one in found}
    assert len(changed) > 0.9 * len(words)
    assert all(sum(a != b for a, b in zip(one.split(), words, strict=True)) == 1 for one in set(found))


def test_neighbours_are_asked_beside_the_text(bert: Path, overfitted: World, tmp_path: Path) -> None:
    model, probe = overfitted.target.model, MaskedNeighbours(n=3, model=str(bert))
    asked = [text for one in TEXTS for text in (one, *probe.neighbours(one))]
    single = Runner(tmp_path / "single")(model, Neighbours(n=1), Dataset.from_dict({"text": asked}))
    plain = [float(one["logprob"][one["version"] == 0].sum()) for one in each(single)]
    answers = list(each(Runner(tmp_path / "whole")(model, probe, Dataset.from_dict({"text": TEXTS}))))
    for i, one in enumerate(answers):
        found = [float(one["logprob"][one["version"] == version].sum()) for version in range(4)]
        np.testing.assert_allclose(found, plain[4 * i : 4 * i + 4], atol=1e-4)


def test_another_masked_model_is_another_question(bert: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    """By its content, not by its name; other questions stay where they were."""
    model, records = language_model(gpt2_folder), Dataset.from_dict({"text": TEXTS[:2]})
    folder, keys = tmp_path / "moved", []
    for seed in (0, 1):
        tiny_bert(folder, seed=seed)
        keys.append(Runner(tmp_path / "cache")(model, MaskedNeighbours(model=str(folder)), records).paths[0].parent)
    tiny_bert(folder, seed=0)
    keys.append(Runner(tmp_path / "cache")(model, MaskedNeighbours(model=str(folder)), records).paths[0].parent)
    assert keys[0] == keys[2] != keys[1]


def test_a_config_names_the_model(bert: Path) -> None:
    made = named(PAPERS, {"name": "neighbourhood-masked", "signal": {"probe": {"model": str(bert), "n": 4}}}, "attack")
    assert made.signal.probe == MaskedNeighbours(n=4, model=str(bert))
    assert Texts().takes(made.signal.probe)


def pickled(folder: Path) -> str:
    place = tiny_bert(folder / "pickled")
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    return str(place)


def maskless(folder: Path) -> str:
    place = tiny_bert(folder / "maskless")
    told = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in told.items() if k != "mask_token"}))
    return str(place)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, gpt2: MaskedNeighbours(n=0), "n must be at least 1"),
        (lambda folder, gpt2: MaskedNeighbours(dropout=1.0), r"dropout must be in \(0, 1\), or null"),
        (lambda folder, gpt2: MaskedNeighbours(model=str(gpt2)).neighbours("w001"), "takes a masked language model"),
        (lambda folder, gpt2: MaskedNeighbours(model=pickled(folder)).neighbours("w001"), "no safetensors weights"),
        (lambda folder, gpt2: MaskedNeighbours(model=maskless(folder)).neighbours("w001"), "with a fast tokenizer"),
        (lambda folder, gpt2: MaskedNeighbours(model="no/such").stands_on(), "no/such"),
    ],
)
def test_what_proposes_no_words_is_refused(
    make: Callable[[Path, Path], object], message: str, gpt2_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, gpt2_folder)


def test_the_loaded_model_goes_with_the_question(bert: Path, overfitted: World) -> None:
    """PAPERS and configs live as long as the process, and hold no weights."""
    probe, model = MaskedNeighbours(model=str(bert)), overfitted.target.model
    assert isinstance(model, Model)
    probe.through(model.collate).encode({"text": TEXTS[:1]})
    assert "filler" not in vars(probe)
