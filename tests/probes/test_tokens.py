"""`Tokens` against a naive reading of the whole logits in float64, on our LSTM and on a tiny GPT-2."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutput
from worlds import World, texts, tiny_gpt2

from hf_mia.core import Model
from hf_mia.models.language import TextCollate, language_model
from hf_mia.probes.tokens import Tokens

PROBE = Tokens()
TEXTS = [text for user in texts(3, 6, seed=8) for text in user]


@pytest.fixture(params=["lstm", "gpt2"])
def model(request: pytest.FixtureRequest, overfitted: World, gpt2_folder: Path) -> Model:
    return overfitted.target.model if request.param == "lstm" else language_model(gpt2_folder)


def asked(module: torch.nn.Module, collate: TextCollate, batch: int, probe: Tokens) -> Iterator[dict[str, np.ndarray]]:
    """Each row's answers at its scored tokens, asked `batch` rows at a time."""
    items = collate.encode({"text": TEXTS})
    for at in range(0, len(items), batch):
        rows = collate.pad(items[at : at + batch])
        answers = probe.observe(module, rows)
        for i in range(len(rows["input_ids"])):
            keep = rows["scored"][i]
            yield {n: (a[i] if a.shape[1] == 1 else a[i][keep]).numpy() for n, a in answers.items()}


def naive(module: torch.nn.Module, ids: list[int], scored: list[int]) -> dict[str, np.ndarray]:
    """One text alone, its whole logits in float64: ranks by sorting, everything else by the definition."""
    with torch.no_grad():
        logits = module(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    found: dict[str, list[float]] = {"rank": [], "logprob": [], "mean": [], "deviation": []}
    for i in range(1, len(ids)):
        if scored[i]:
            row = logits[i - 1]
            logp = row - row.max() - np.log(np.exp(row - row.max()).sum())
            p = np.exp(logp)
            place = np.argsort(-row, kind="stable")
            found["rank"].append(int(min(np.flatnonzero(row[place] == row[ids[i]]))))
            found["logprob"].append(logp[ids[i]])
            found["mean"].append((p * logp).sum())
            found["deviation"].append(np.sqrt((p * (logp - (p * logp).sum()) ** 2).sum()))
    return {name: np.array(values) for name, values in found.items()}


def check(module: torch.nn.Module, collate: TextCollate, batch: int = 7, probe: Tokens = PROBE) -> None:
    items = collate.encode({"text": TEXTS})
    for item, answer in zip(items, asked(module, collate, batch, probe), strict=True):
        ids, scored = list(item.values["input_ids"]), list(item.values["scored"])
        expected = naive(module, ids, scored)
        assert answer["token"].tolist() == [token for token, s in zip(ids, scored, strict=True) if s]
        np.testing.assert_array_equal(answer["rank"], expected["rank"])
        for name in ("logprob", "mean", "deviation"):
            np.testing.assert_allclose(answer[name], expected[name], rtol=0, atol=2e-5, err_msg=name)
        assert answer["vocabulary"].tolist() == [len(collate.tokenizer)]


@pytest.mark.parametrize("rows", [1, 32, 1000])
def test_answers_are_those_of_the_definition(model: Model, rows: int) -> None:
    check(model.load(), model.collate, probe=Tokens(rows=rows))


def test_neither_batch_nor_padding_matters(model: Model) -> None:
    """One text at a time, no padding at all, against 32 rows padded to the longest."""
    module = model.load()
    alone = list(asked(module, model.collate, 1, Tokens()))
    together = list(asked(module, model.collate, 32, Tokens()))
    assert len({len(answer["token"]) for answer in alone}) > 3
    for one, many in zip(alone, together, strict=True):
        for name in ("logprob", "mean", "deviation"):
            np.testing.assert_allclose(one[name], many[name], rtol=0, atol=1e-5)
        for name in ("rank", "token", "start", "vocabulary"):
            np.testing.assert_array_equal(one[name], many[name])


def test_ties_count_only_what_is_strictly_higher(model: Model) -> None:
    module = model.load()
    with torch.no_grad():
        module.get_output_embeddings().weight.zero_()
        if module.get_output_embeddings().bias is not None:
            module.get_output_embeddings().bias.zero_()
    for answer in asked(module, model.collate, 4, Tokens()):
        assert (answer["rank"] == 0).all()
        np.testing.assert_allclose(answer["logprob"], -np.log(answer["vocabulary"][0]), rtol=1e-6)
        rounding = 4 * np.finfo(np.float32).eps * np.log(answer["vocabulary"][0]) ** 2  # of the mean square
        assert (answer["deviation"] <= np.sqrt(rounding)).all()


class Capped(GPT2LMHeadModel):
    """Logits that are not the head's output, as Gemma's: a soft cap stands behind it."""

    cap = 2.0

    def forward(self, **inputs: torch.Tensor) -> CausalLMOutput:
        return CausalLMOutput(logits=self.cap * torch.tanh(super().forward(**inputs).logits / self.cap))


def test_a_model_that_changes_its_heads_output_is_asked_for_its_logits(gpt2_folder: Path) -> None:
    plain = language_model(gpt2_folder)
    check(Capped.from_pretrained(gpt2_folder).eval(), plain.collate)
    capped = next(asked(Capped.from_pretrained(gpt2_folder).eval(), plain.collate, 4, Tokens()))
    assert not np.allclose(capped["logprob"], next(asked(plain.load(), plain.collate, 4, Tokens()))["logprob"])


@pytest.mark.parametrize("rows", [3, 32])
def test_the_head_never_sees_the_whole_batch(model: Model, rows: int) -> None:
    """Everything that leaves the head during a batch, and every logit that the model itself gives."""
    module, seen = model.load(), []
    hook = module.get_output_embeddings().register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    items = model.collate.encode({"text": TEXTS})[:12]
    batch = model.collate.pad(items)
    Tokens(rows=rows).observe(module, batch)
    hook.remove()
    words = int(batch["scored"][:, 1:].sum())
    assert words > 3 * rows
    pieces = [shape for shape in seen if len(shape) == 2]
    assert sum(shape[0] for shape in pieces) == words
    assert max(shape[0] for shape in pieces) == rows
    assert all(int(np.prod(shape[:-1])) <= 8 for shape in seen if len(shape) != 2)  # the sample that checks the head


def test_a_model_of_nan_is_refused(model: Model) -> None:
    module = model.load()
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity"):
        next(asked(module, model.collate, 4, Tokens()))


def long_text(collate: TextCollate, words: int) -> list[int]:
    rng = np.random.default_rng(2)
    return [int(i) for i in rng.integers(2, len(collate.tokenizer), size=words)]


@pytest.mark.parametrize("context", [2, 3, 8, 16])
@pytest.mark.parametrize("words", [1, 2, 7, 15, 16, 17, 40, 101])
def test_a_text_beyond_the_context_is_scored_with_every_token_once(gpt2_folder: Path, context: int, words: int) -> None:
    collate = TextCollate(language_model(gpt2_folder).collate.tokenizer, context)
    ids = long_text(collate, words)
    text = " ".join(collate.tokenizer.convert_ids_to_tokens(ids))
    items = collate.encode({"text": ["w001", text, "w002"]})
    windows = [item for item in items if item.record == 1]
    assert max(item.size for item in windows) <= context
    scored = []
    for item in windows:
        values = item.values
        scored += [i for i, s in zip(values["input_ids"], values["scored"], strict=True) if s]
        assert values["scored"][0] == 0  # nothing is scored that has nothing before it
        assert all(len(column) == item.size for name, column in values.items() if name != "compressed")
    assert scored == ids
    for item in windows[1:]:  # overlap by half: what is scored sees at least half a window, less what is left over
        assert item.values["scored"].index(1) >= context // 2


def test_scores_in_windows_are_those_of_a_model_that_sees_the_window(gpt2_folder: Path) -> None:
    model = language_model(gpt2_folder)
    ids = long_text(model.collate, 40)
    text = " ".join(model.collate.tokenizer.convert_ids_to_tokens(ids))
    module, whole = model.load(), [0, *ids]
    rows = model.collate.pad(model.collate.encode({"text": [text]}))
    answers = Tokens().observe(module, rows)
    found = answers["logprob"][rows["scored"]].numpy()
    expected, done = [], 1
    while done < len(whole):  # each token given at least 8 tokens before it
        left = 0 if done == 1 else done - 8
        piece = whole[left : left + 16]
        expected += list(naive(module, piece, [int(left + i >= done) for i in range(len(piece))])["logprob"])
        done = left + len(piece)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_word_starts(tmp_path: Path) -> None:
    """Punctuation that hangs on a word is no word of its own for a tokenizer that tells; a subword never is."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordPiece({"[UNK]": 0, "un": 1, "##happy": 2, "cat": 3, "##s": 4}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", eos_token="[UNK]")
    (item,) = TextCollate(tokenizer).encode({"text": ["unhappy cats cat"]})
    assert item.values["input_ids"] == [0, 1, 2, 3, 4, 3]
    assert item.values["starts"][1:] == [1, 0, 1, 0, 1]


def test_without_an_opening_token_the_first_word_is_not_scored(gpt2_folder: Path) -> None:
    tokenizer = language_model(gpt2_folder).collate.tokenizer
    tokenizer.eos_token = None
    items = TextCollate(tokenizer, 16).encode({"text": ["w001", "w001 w002", "w003"]})
    assert [item.record for item in items] == [0, 1, 2]
    assert [item.values["scored"] for item in items] == [[0], [0, 1], [0]]


def test_a_tied_head_is_used_in_pieces_too(tmp_path: Path) -> None:
    model = language_model(tiny_gpt2(tmp_path, tie_word_embeddings=True))
    check(model.load(), model.collate)


def test_the_deviation_of_a_flat_distribution_survives_rounding(gpt2_folder: Path) -> None:
    """Of about 1e-3 nats, where the rounding of a mean square of 25 is of about 1e-6."""
    model = language_model(gpt2_folder)
    module = model.load()
    with torch.no_grad():
        module.get_output_embeddings().weight.mul_(1e-4)
    items = model.collate.encode({"text": TEXTS})
    for item, answer in zip(items, asked(module, model.collate, 4, Tokens()), strict=True):
        expected = naive(module, list(item.values["input_ids"]), list(item.values["scored"]))["deviation"]
        assert expected.max() < 2e-3
        np.testing.assert_allclose(answer["deviation"], expected, rtol=2e-3)


def test_every_window_tells_the_whole_texts_compressed_bytes(gpt2_folder: Path) -> None:
    model = language_model(gpt2_folder)
    long = " ".join(["w001 Ünï 漢字 🙂"] * 30)
    items = model.collate.encode({"text": ["w002", long]})
    assert len(items) > 2
    found = Tokens().observe(model.load(), model.collate.pad(items))["compressed"]
    sizes = [len(zlib.compress(text.encode("utf-8"))) for text in ("w002", long)]
    assert found.tolist() == [[sizes[item.record]] for item in items]


def test_rows_may_be_padded_on_either_side(model: Model) -> None:
    """Answers stand where the tokens stand."""
    module, items = model.load(), model.collate.encode({"text": TEXTS})
    right = model.collate.pad(items)
    width, sizes = right["input_ids"].shape[1], right["attention_mask"].sum(1)
    places = (torch.arange(width) - (width - sizes[:, None])) % width
    left = {name: t.gather(1, places) if t.shape == places.shape else t for name, t in right.items()}
    assert (left["attention_mask"][:, -1] == 1).all()
    one, other = Tokens().observe(module, right), Tokens().observe(module, left)
    assert one.keys() == other.keys()
    for name in one:
        shifted = one[name].gather(1, places) if one[name].shape == places.shape else one[name]
        np.testing.assert_allclose(other[name], shifted, rtol=0, atol=0, err_msg=name)
