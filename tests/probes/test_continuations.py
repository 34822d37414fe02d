"""Texts cut in two, what is written after the first part, and what is read off it, against naive loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from worlds import each, pool, ragged

from hf_mia.collate import Batch
from hf_mia.core import Pool
from hf_mia.models.language import language_model
from hf_mia.probes.continuations import Continuations, halved
from hf_mia.probes.respondents import RawTexts, Respondent, Told, coded, texts_of
from hf_mia.probes.tokens import Tokens
from hf_mia.runner import Runner
from hf_mia.services.spoken import draws, in_text
from hf_mia.signals.continuations import (
    Bleu,
    Chrf,
    EditSimilarity,
    ExactMatch,
    Likeness,
    Rouge1Recall,
    RougeL,
    Sampled,
    ranked,
    told,
)
from hf_mia.signals.language import MeanRank, RankHistogram

TEXTS = [
    "",
    "a",
    "ab",
    "naïve café 日本語 🙂",
    "one two",
    "  three words here  ",
    "日本語のテキスト",
    "\x00 nul \ud800 half",
]


class Parrot(Respondent):
    """Says of each prompt how it was asked, as often as it is asked to."""

    def tokens(self, texts: list[str]) -> list[Told]:  # type: ignore[override]
        return [Told({"rank": np.arange(len(text)), "start": np.ones(len(text))}, {"shown": 3}) for text in texts]

    def continued(  # type: ignore[override]
        self, prompts: list[str], tokens: list[int], samples: int, temperature: float, seed: int
    ) -> list[list[str]]:
        pairs = zip(prompts, tokens, strict=True)
        return [[f"{prompt}|{most}|{temperature}|{seed + i}" for i in range(samples)] for prompt, most in pairs]


def batch(texts: list[str]) -> Batch:
    return RawTexts().pad(RawTexts().encode({"text": texts}))


def test_texts_come_through_a_batch_as_they_are() -> None:
    assert texts_of(batch(TEXTS)) == TEXTS


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("text", TEXTS)
def test_halves_make_the_text_again(text: str, share: float) -> None:
    prompt, rest = halved(text, share)
    assert "".join((prompt + rest).split()) == "".join(text.split())
    assert bool(rest) == (len(text.strip()) > 1)
    assert bool(prompt) == bool(text.strip())
    if len(text.split()) > 1:
        assert len(prompt.split()) + len(rest.split()) == len(text.split())


def test_texts_are_cut_at_the_first_space_after_the_share() -> None:
    assert halved("aa bb cc dd", 0.4) == ("aa bb", "cc dd")
    assert halved("aa bb cc dd", 0.1) == ("aa", "bb cc dd")
    assert halved("aa bb cc dd", 0.99) == ("aa bb cc", "dd")
    assert halved("abcdef", 0.5) == ("abc", "def")


def test_what_is_written_stands_beside_the_rest() -> None:
    probe = Continuations(share=0.2, samples=2, temperature=0.7, tokens=3, seed=5)
    found = probe.observe(Parrot(), batch(["one two three", "x", "é à"]))
    rows = [row[mask].numpy() for row, mask in zip(found["texts"], found["scored"], strict=True)]
    answers = ragged([{"texts": row} for row in rows])
    assert list(told(answers)) == [
        ("two three", ["one|3|0.7|5", "one|3|0.7|6"]),
        ("", ["", ""]),
        ("à", ["é|1|0.7|5", "é|1|0.7|6"]),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": 1.0}, "share must be above 0 and below 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"tokens": 0}, "tokens must be at least 1"),
        ({"samples": 2}, "temperature must be above 0 where 2 samples"),
        ({"temperature": -1.0}, "temperature must be above 0"),
    ],
)
def test_a_probe_says_what_is_wrong_with_it(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Continuations(**changes)  # type: ignore[arg-type]


def answered(pairs: list[tuple[str, list[str]]]) -> dict[str, object]:
    rows = []
    for rest, written in pairs:
        codes = [code for text in (rest, *written) for code in (*text.encode(), -1)]
        rows.append({"texts": np.array(codes, dtype=np.int16)})
    return ragged(rows)  # type: ignore[return-value]


def drawn(seed: int, records: int, samples: int) -> list[tuple[str, list[str]]]:
    rng = np.random.default_rng(seed)

    def text(least: int) -> str:
        return " ".join(rng.choice(["wa", "wb", "we", "wide"], size=rng.integers(least, 7)))

    return [(text(1), [text(0) for _ in range(samples)]) for _ in range(records)]


def naive_lcs(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def naive_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def naive(signal: Likeness, written: str, rest: str) -> float:
    """Each likeness by its definition, chrF and BLEU by sacrebleu's functions."""
    words, true = written.split(), rest.split()
    if isinstance(signal, Rouge1Recall):
        return sum(min(words.count(word), true.count(word)) for word in set(true)) / len(true)
    words = words[: len(true)]
    if isinstance(signal, ExactMatch):
        return float(words == true)
    if isinstance(signal, RougeL):
        common = naive_lcs(words, true)
        recall, precision = common / len(true), common / len(words) if words else 0.0
        return 2 * recall * precision / (recall + precision) if common else 0.0
    if isinstance(signal, EditSimilarity):
        cut = written[: len(rest)]
        return 1 - naive_distance(cut, rest) / max(len(cut), len(rest))
    if isinstance(signal, Chrf):
        return float(sacrebleu.sentence_chrf(written[: len(rest)], [rest]).score) / 100
    return float(sacrebleu.sentence_bleu(" ".join(words), [rest]).score) / 100


@pytest.mark.parametrize("signal", [Chrf(), Bleu(), RougeL(), Rouge1Recall(), ExactMatch(), EditSimilarity()])
@pytest.mark.parametrize("samples", [1, 3])
def test_likenesses_are_their_definitions(signal: Likeness, samples: int) -> None:
    pairs = [*drawn(samples, 40, samples), ("", [""] * samples), ("wa wb", ["wa wb more"] * samples)]
    found = signal.measure(answered(pairs))  # type: ignore[arg-type]
    expected = [np.mean([naive(signal, one, rest) for one in written]) if rest else 0.0 for rest, written in pairs]
    np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found[:, 1], [float(bool(rest)) for rest, _ in pairs])
    assert found[-1, 0] == pytest.approx(1.0)
    assert found[:, 0].max() <= 1 + 1e-12


def test_a_unit_is_the_mean_of_its_texts_that_can_be_cut() -> None:
    pairs = [("wa", ["wa"]), ("wb", ["wa"]), ("", [""]), ("", [""])]
    records = pool(2, 2, seed=0)
    game = Pool(records.records, np.array([0, 0, 0, 1]), ("a", "b"))
    with np.errstate(invalid="ignore"):
        found = ExactMatch().read([answered(pairs)], game)  # type: ignore[list-item]
    np.testing.assert_array_equal(found, [[0.5], [np.nan]])


def test_ranks_count_the_words_that_more_samples_have_in_a_place() -> None:
    """Place 0: b three times, a twice, c once. Place 1: x three times, of four that have one. Place 2: nothing."""
    written = ["b x", "b x", "a x", "a y", "b", "c"]
    assert ranked("a x z", written).tolist() == [1, 0, 6]
    assert ranked("b y", written).tolist() == [0, 1]
    assert ranked("c q", written).tolist() == [2, 6]
    assert ranked("", written).tolist() == []


def test_sampled_ranks_are_read_as_ranks_are() -> None:
    pairs = drawn(3, 25, 4)
    probe = Continuations(samples=4, temperature=1.0)
    ranks = [ranked(rest, written) for rest, written in pairs]
    answers = answered(pairs)
    means = Sampled(MeanRank(top=4), probe).measure(answers)  # type: ignore[arg-type]
    np.testing.assert_allclose(means[:, 0], [-rank.sum() for rank in ranks])
    np.testing.assert_array_equal(means[:, 1], [len(rank) for rank in ranks])
    counts = Sampled(RankHistogram(top=4, bins=4), probe).measure(answers)  # type: ignore[arg-type]
    np.testing.assert_array_equal(counts, [[np.sum(rank == i) for i in range(5)] for rank in ranks])
    with pytest.raises(ValueError, match="top must be 1 to 4, for the model lists 4 words, but is None"):
        Sampled(MeanRank(), probe).measure(answers)  # type: ignore[arg-type]


def test_local_models_write_what_is_likeliest(gpt2_folder: Path, small_pool: Pool, tmp_path: Path) -> None:
    """Against transformers' own `generate`, text by text; prompts beyond the context lose their beginning."""
    model = language_model(gpt2_folder)
    module, tokenizer = model.load(), model.collate.tokenizer  # type: ignore[attr-defined]
    records = small_pool.records.select(range(20))
    probe = Continuations(tokens=5)
    for record, row in zip(records, each(Runner(tmp_path, chunk=7)(in_text(model), probe, records)), strict=True):
        [(rest, (written,))] = told(ragged([row]))
        prompt, expected_rest = halved(record["text"], 0.5)
        assert rest == expected_rest
        most = min(5, -(-len(rest) // 3))
        ids = torch.tensor([tokenizer(prompt)["input_ids"][-(16 - most) :]])
        said = module.generate(ids, max_new_tokens=most, do_sample=False, pad_token_id=0)  # type: ignore[operator]
        assert written == tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)


def test_samples_hang_on_nothing_beside_them(gpt2_folder: Path, small_pool: Pool, tmp_path: Path) -> None:
    model = in_text(language_model(gpt2_folder))
    probe = Continuations(samples=3, temperature=1.0)
    whole = list(each(Runner(tmp_path)(model, probe, small_pool.records)))
    order = np.random.default_rng(0).permutation(len(whole))
    mixed = list(each(Runner(tmp_path, chunk=7)(model, probe, small_pool.records.select(order))))
    for i, row in zip(order, mixed, strict=True):
        np.testing.assert_array_equal(row["texts"], whole[i]["texts"])
    other = list(each(Runner(tmp_path)(model, replace(probe, seed=1), small_pool.records)))
    assert any(one["texts"].tobytes() != two["texts"].tobytes() for one, two in zip(whole, other, strict=True))


def test_draws_are_uniform_and_a_samples_own() -> None:
    found = np.array([draws(f"prompt {i}", sample, 0, 50) for i in range(20) for sample in range(2)])
    assert len(np.unique(found)) == found.size
    assert abs(found.mean() - 0.5) < 4 * np.sqrt(1 / 12 / found.size)


def test_a_local_model_in_text_tells_the_same_of_tokens(gpt2_folder: Path, small_pool: Pool, tmp_path: Path) -> None:
    model, ask = language_model(gpt2_folder), Runner(tmp_path)
    for one, other in zip(
        each(ask(in_text(model), Tokens(), small_pool.records)),
        each(ask(model, Tokens(), small_pool.records)),
        strict=True,
    ):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name][: len(other[name])], other[name], rtol=0, atol=2e-5, err_msg=name)


def test_what_is_not_asked_in_text_says_so(gpt2_folder: Path, small_pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"asks in text, and .* `hf_mia.services.spoken.in_text\(model\)`"):
        Continuations().observe(torch.nn.Linear(1, 1), batch(["a b"]))
    with pytest.raises(ValueError, match="Tokens asks in text"):
        Tokens().observe(torch.nn.Linear(1, 1), batch(["a b"]))
    spoken = in_text(language_model(gpt2_folder))
    assert in_text(spoken) is spoken


def test_padding_is_no_letter() -> None:
    assert coded([np.array([1, 2], dtype=np.int16), np.array([], dtype=np.int16)]).tolist() == [[1, 2], [-1, -1]]
