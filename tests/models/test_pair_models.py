"""What models say of a target given its source, against a naive loop over positions in float64."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_decoders import LANGUAGES, MAKERS, PAIRS, SOURCES, TARGETS, TEXTS, saved
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
)
from transformers.modeling_outputs import Seq2SeqLMOutput

from hf_mia.architectures.seq2seq import Seq2SeqForConditionalGeneration
from hf_mia.core import Model
from hf_mia.models.language import TextCollate, language_model
from hf_mia.models.pairs import PairCollate, PromptCollate, pair_model
from hf_mia.probes.tokens import Tokens


@pytest.fixture(params=list(MAKERS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return pair_model(saved(tmp_path, request.param), **LANGUAGES.get(request.param, {}))


def asked(module: torch.nn.Module, collate: TextCollate, size: int, pairs: Mapping[str, Sequence[str]] = PAIRS,
          probe: Tokens | None = None) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """Each record's answers at its scored tokens, asked `size` rows at a time."""
    items, found = collate.encode(pairs), []
    for at in range(0, len(items), size):
        batch = collate.pad(items[at : at + size])
        answers = (probe or Tokens()).observe(module, batch)
        for i in range(len(batch["scored"])):
            keep = batch["scored"][i]
            found.append(
                {n: (a[i] if n in ("vocabulary", "compressed") else a[i][keep]).numpy() for n, a in answers.items()}
            )
    return found


def naive(module: torch.nn.Module, inputs: dict[str, list[int]], token: int) -> dict[str, float]:
    """What is said of one token, from nothing but the last row of the whole logits, in float64 and by sorting."""
    with torch.no_grad():
        row = module(**{n: torch.tensor([ids]) for n, ids in inputs.items()}).logits[0, -1].double().numpy()
    logp = row - row.max() - np.log(np.exp(row - row.max()).sum())
    p = np.exp(logp)
    mean = (p * logp).sum()
    rank = list(np.sort(row)[::-1]).index(row[token])
    return {"rank": rank, "logprob": logp[token], "mean": mean, "deviation": np.sqrt((p * (logp - mean) ** 2).sum())}


def agrees(answer: dict[str, np.ndarray], expected: list[dict[str, float]], tokens: list[int]) -> None:
    assert answer["token"].tolist() == tokens
    assert answer["rank"].tolist() == [one["rank"] for one in expected]
    for name in ("logprob", "mean", "deviation"):
        np.testing.assert_allclose(answer[name], [one[name] for one in expected], rtol=0, atol=2e-5, err_msg=name)


def test_answers_are_those_of_a_loop_over_positions(model: Model) -> None:
    """Each token of each target alone: the source without padding, and the target as the model itself moves it."""
    module, tokenizer = model.load(), model.collate.tokenizer
    for source, target, answer in zip(SOURCES, TARGETS, asked(module, model.collate, 4), strict=True):
        ids = tokenizer(source)["input_ids"]
        labels = tokenizer(text_target=target)["input_ids"]
        bare = tokenizer(text_target=target, add_special_tokens=False)["input_ids"]
        if isinstance(module, Seq2SeqForConditionalGeneration):
            moved = [0, *labels[:-1]]
        else:
            moved = module.prepare_decoder_input_ids_from_labels(torch.tensor([labels]))[0].tolist()
        first = next(i for i in range(len(labels)) if labels[i : i + len(bare)] == bare)
        places = range(first, first + len(bare))
        expected = [naive(module, {"input_ids": ids, "decoder_input_ids": moved[: i + 1]}, labels[i]) for i in places]
        agrees(answer, expected, bare)


def test_neither_batch_nor_padding_matters(model: Model) -> None:
    module, collate = model.load(), model.collate
    assert len({len(text.split()) for text in SOURCES}) > 3
    alone = asked(module, collate, 1)
    for side in ("left", "right"):
        collate.tokenizer.padding_side = side
        for one, many in zip(alone, asked(module, collate, 9), strict=True):
            for name in ("logprob", "mean", "deviation"):
                np.testing.assert_allclose(one[name], many[name], rtol=0, atol=1e-5)
            for name in ("rank", "token", "start", "vocabulary"):
                np.testing.assert_array_equal(one[name], many[name])


def test_the_source_counts(model: Model) -> None:
    module = model.load()
    answers = [asked(module, model.collate, 9, {"source": s, "target": TARGETS}) for s in (SOURCES, SOURCES[::-1])]
    assert not np.allclose(answers[0][0]["logprob"], answers[1][0]["logprob"], atol=1e-3)


def test_the_head_never_sees_the_whole_batch(model: Model) -> None:
    """So neither BART's bias nor T5's scale makes `Tokens` fall back on the model's own logits."""
    module, seen = model.load(), []
    hook = module.get_output_embeddings().register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    batch = model.collate.pad(model.collate.encode(PAIRS))
    Tokens(rows=5).observe(module, batch)
    hook.remove()
    pieces = [shape for shape in seen if len(shape) == 2]
    assert sum(shape[0] for shape in pieces) == int(batch["scored"].sum()) > 40
    assert max(shape[0] for shape in pieces) == 5
    assert all(int(np.prod(shape[:-1])) <= 8 for shape in seen if len(shape) != 2)


class Capped(BartForConditionalGeneration):
    """Logits with a soft cap behind the head."""

    def forward(self, **inputs: torch.Tensor) -> Seq2SeqLMOutput:
        return Seq2SeqLMOutput(logits=torch.tanh(super().forward(**inputs).logits))


def test_a_model_that_does_what_nobody_knows_is_asked_for_its_logits(tmp_path: Path) -> None:
    collate = pair_model(saved(tmp_path, "bart")).collate
    module = Capped.from_pretrained(tmp_path).eval()
    ids, answer = collate.tokenizer(SOURCES[0])["input_ids"], asked(module, collate, 4)[0]
    bare = collate.tokenizer(TARGETS[0], add_special_tokens=False)["input_ids"]
    moved = [0, 0, *bare]
    places = range(len(bare))
    expected = [naive(module, {"input_ids": ids, "decoder_input_ids": moved[: i + 2]}, bare[i]) for i in places]
    agrees(answer, expected, bare)


@pytest.mark.parametrize("name", ["marian", "bart"])
@pytest.mark.parametrize("size", [39, 40, 41, 60, 130])
def test_a_target_beyond_the_limit_is_scored_with_every_token_once(tmp_path: Path, name: str, size: int) -> None:
    model = pair_model(saved(tmp_path, name))
    long = " ".join((" ".join(TARGETS * 9)).split()[:size])
    items = model.collate.encode({"source": SOURCES[:3], "target": [TARGETS[0], long, TARGETS[1]]})
    assert [item.record for item in items] == sorted(item.record for item in items)
    batch = model.collate.pad([item for item in items if item.record == 1])
    assert batch["decoder_input_ids"].shape[1] <= 40
    ids = model.collate.tokenizer(text_target=long, add_special_tokens=False)["input_ids"]
    assert batch["labels"][batch["scored"]].tolist() == ids
    for row in range(1, len(batch["labels"])):  # every window has seen half a window before what it scores
        assert int(batch["scored"][row].int().argmax()) >= 19
        inside = int(batch["scored"][row].nonzero().max()) + 1
        assert batch["decoder_input_ids"][row, 1:inside].tolist() == batch["labels"][row, : inside - 1].tolist()
    Tokens().observe(model.load(), batch)  # which an input beyond the limit would break


def test_a_source_beyond_the_limit_is_cut_and_said_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = pair_model(saved(tmp_path, "bart"))
    with caplog.at_level(logging.WARNING):
        (item,) = model.collate.encode({"source": [" ".join(SOURCES * 9)], "target": TARGETS[:1]})
    assert "1 of 1 sources are longer than 40 tokens" in caplog.text
    assert len(item.values["source"]) == 40
    assert (item.values["source"][0], item.values["source"][-1]) == (0, 0)  # special tokens stay


def test_a_prompt_stands_around_the_source(tmp_path: Path) -> None:
    folder = saved(tmp_path, "t5")
    asked_plainly, prompted = pair_model(folder), pair_model(folder, prompt="w001 {source} w002")
    wrapped = {"source": [f"w001 {source} w002" for source in SOURCES], "target": TARGETS}
    first, second = prompted.collate.encode(PAIRS), asked_plainly.collate.encode(wrapped)
    assert [item.values for item in first] == [item.values for item in second]
    assert asked_plainly.key != prompted.key


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("size", [1, 9])
def test_a_causal_model_is_asked_about_the_reply_alone(gpt2_folder: Path, chat: bool, size: int) -> None:
    model = pair_model(gpt2_folder, prompt=None if chat else "w001 {source}")
    collate, module = model.collate, model.load()
    assert isinstance(collate, PromptCollate)
    if chat:
        turns = "{% for m in messages %}w003 {{ m['content'] }} w004 {% endfor %}"
        collate.tokenizer.chat_template = turns + "{% if add_generation_prompt %}w005{% endif %}"
    short = {"source": [" ".join(text.split()[:3]) for text in SOURCES], "target": [t[:30] for t in TARGETS]}
    for source, target, answer in zip(*short.values(), asked(module, collate, size, short), strict=True):
        shown = f"w003 {source} w004 w005" if chat else f"w001 {source}"
        prompt = collate.tokenizer(shown)["input_ids"]
        prompt = prompt if chat else [0, *prompt]
        ids = collate.tokenizer(target)["input_ids"]
        row = prompt + ids
        places = range(len(prompt), len(row))
        agrees(answer, [naive(module, {"input_ids": row[:i]}, row[i]) for i in places], ids)


@pytest.mark.parametrize(("source", "target"), [(30, 4), (3, 40), (30, 40), (0, 1), (14, 2), (15, 1)])
def test_a_long_prompt_or_reply_is_asked_in_windows(gpt2_folder: Path, source: int, target: int) -> None:
    collate = pair_model(gpt2_folder).collate
    texts = [" ".join(f"w{i:03d}" for i in range(size)) for size in (source, target)]
    items = collate.encode({"source": texts[:1], "target": texts[1:]})
    ids = collate.tokenizer(texts[1])["input_ids"]
    scored = [i for item in items for i, s in zip(item.values["input_ids"], item.values["scored"], strict=True) if s]
    assert scored == ids
    assert max(item.size for item in items) <= 16
    whole = 1 + source + target
    if whole <= 16:
        assert len(items) == 1
        assert items[0].size == whole  # nothing of the prompt is cut without need
    for item in items:
        assert item.values["scored"].index(1) >= min(8, 1 + source)


def test_texts_alone_are_asked_as_before(gpt2_folder: Path) -> None:
    """A prompt of nothing is the opening token: the same rows as for a text."""
    model = pair_model(gpt2_folder, prompt="{source}")
    rows = model.collate.encode({"source": [""] * len(TEXTS), "target": TEXTS})
    assert rows == language_model(gpt2_folder).collate.encode({"text": TEXTS})


def test_special_tokens_and_the_start_are_the_models_own(tmp_path: Path) -> None:
    collate = pair_model(saved(tmp_path, "mbart"), source_language="en_XX", target_language="fr_XX").collate
    assert isinstance(collate, PairCollate)
    code = collate.tokenizer.convert_tokens_to_ids
    assert collate.specials == ([], [code("</s>"), code("fr_XX")])
    batch = collate.pad(collate.encode(PAIRS))
    assert (batch["decoder_input_ids"][:, 0] == code("fr_XX")).all()
    assert (batch["input_ids"] == code("en_XX")).any(dim=1).all()


@pytest.mark.parametrize(
    ("name", "languages", "message"),
    [
        ("mbart", {}, r"multilingual.*data\.source_language and data\.target_language.*None and None"),
        ("mbart", {"target_language": "fr_XX"}, r"but are None and 'fr_XX'"),
        ("mbart", {"source_language": "en_XX", "target_language": "french"}, r"no code for 'en_XX' or 'french'"),
        ("mbart", {"source_language": "english", "target_language": "fr_XX"}, r"no code for 'english' or 'fr_XX'"),
        ("bart", {"source_language": "en_XX"}, r"for multilingual tokenizers.*leave them out"),
    ],
)
def test_languages_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, languages: dict[str, str], message: str
) -> None:
    folder = saved(tmp_path, name)
    with pytest.raises(ValueError, match=message):
        pair_model(folder, **languages)


def test_models_that_answer_no_text_are_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="encoder-only"):
        pair_model(tmp_path / "bert")
    folder = saved(tmp_path / "bart", "bart")
    config = BartConfig.from_pretrained(folder)
    config.decoder_start_token_id = None
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"decoder_start_token_id and save"):
        pair_model(folder)


def test_the_key_hangs_on_all_that_is_shown(tmp_path: Path) -> None:
    folder = saved(tmp_path, "mbart")
    keys = {
        pair_model(folder, prompt=prompt, source_language=source, target_language=target).key
        for prompt in (None, "w001 {source}")
        for source, target in (("en_XX", "fr_XX"), ("fr_XX", "en_XX"), ("en_XX", "de_DE"))
    }
    assert len(keys) == 6
