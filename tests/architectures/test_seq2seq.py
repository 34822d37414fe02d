"""The models of pairs and how they are trained: exact after a reload, equal to their equations, whole after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from encoder_decoders import ONE, SOURCES, TARGETS, saved
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from worlds import pair_table

from hf_mia.architectures import seq2seq
from hf_mia.architectures.seq2seq import Additive, PairTokenizer, Seq2SeqConfig, Seq2SeqForConditionalGeneration
from hf_mia.models.pairs import pair_model
from hf_mia.recipes import loop
from hf_mia.recipes.loop import UNSCORED, Pairs
from hf_mia.recipes.named import RECIPES
from hf_mia.recipes.pairing import FineTunedPairs, MarianSmall, PairRecipe, RecurrentPairs
from hf_mia.recipes.vocabulary import pair_tokenizer, tokenizer_key, word_tokenizer

IDS = torch.tensor([[5, 9, 2, 4], [3, 3, 7, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
GIVEN = torch.tensor([[0, 5, 9], [0, 3, 3]])
RECORDS = Dataset.from_dict(pair_table(4, 6, seed=3))
OUTSIDE = [text for pair in zip(RECORDS["source"], RECORDS["target"], strict=True) for text in pair]
SMALL = {"epochs": 3, "batch": 5, "vocabulary": 40}
TINY: dict[str, PairRecipe] = {
    "seq2seq-lstm": RecurrentPairs(embedding=6, hidden=8, **SMALL),
    "seq2seq-gru": replace(RECIPES["seq2seq-gru"], embedding=8, hidden=8, **SMALL),  # type: ignore[type-var]
    "marian-small": MarianSmall(layers=1, width=8, heads=2, inner=8, **SMALL),
}


def made(**changes: object) -> Seq2SeqForConditionalGeneration:
    torch.manual_seed(0)
    return Seq2SeqForConditionalGeneration(Seq2SeqConfig(12, 10, 6, 6, **{**ONE, **changes})).eval()  # type: ignore[arg-type]


TIED = {"attention": False, "tie_word_embeddings": True, "shared": True, "source_vocab_size": 10}


@pytest.mark.parametrize("changes", [{}, {"cell": "gru"}, TIED])
def test_a_reload_is_exact(tmp_path: Path, changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    sizes = {"source_vocab_size": 12, "vocab_size": 10, "embedding_size": 6, "hidden_size": 6, **ONE, **changes}
    module = Seq2SeqForConditionalGeneration(Seq2SeqConfig(**sizes)).eval()
    module.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    torch.manual_seed(99)  # what a reload draws must not show
    found = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(found) is Seq2SeqForConditionalGeneration
    with torch.no_grad():
        assert torch.equal(found(IDS, MASK, GIVEN).logits, module(IDS, MASK, GIVEN).logits)
    tied = "tie_word_embeddings" in changes
    assert (found.lm_head.weight is found.model.embedding.weight) == tied
    assert (found.model.source_embedding is None) == tied


def test_padding_on_either_side_changes_nothing() -> None:
    module = made()
    with torch.no_grad():
        right = module(IDS, MASK, GIVEN).logits
        left = module(IDS[:, [2, 3, 0, 1]], MASK[:, [2, 3, 0, 1]], GIVEN).logits  # the first row is another text
        alone = module(IDS[1:, :2], None, GIVEN[1:]).logits
    torch.testing.assert_close(left[1], right[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(alone[0], right[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scores", [1, 2**22])
def test_attention_of_the_equations(monkeypatch: pytest.MonkeyPatch, scores: int) -> None:
    """Word by word in float64, and the same in pieces: e = v . tanh(W s + U h), softmax over the source, sum of h."""
    monkeypatch.setattr(seq2seq, "SCORES", scores)
    torch.manual_seed(0)
    layer = Additive(4).double()
    states, encoded, mask = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 4).double(), torch.ones(2, 5)
    mask[1, 3:] = 0
    w, u, v = (layer.get_parameter(f"{name}.weight").detach().numpy() for name in ("query", "key", "score"))
    found = layer(states, encoded, mask).detach().numpy()
    for row, length in ((0, 5), (1, 3)):
        h = encoded[row, :length].numpy()
        for t in range(3):
            e = np.array([(v @ np.tanh(w @ states[row, t].numpy() + u @ one))[0] for one in h])
            a = np.exp(e) / np.exp(e).sum()
            np.testing.assert_allclose(found[row, t], a @ h, rtol=0, atol=1e-12)


def test_the_decoder_begins_where_the_encoder_ended() -> None:
    """Without attention: one row by hand, with the cells alone."""
    module = made(attention=False)
    model = module.model
    with torch.no_grad():
        _, state = model.reader(model.source_embedding(IDS[1:, :2]))
        written, _ = model.writer(model.embedding(GIVEN[1:]), state)
        expected = written @ module.lm_head.weight.T + module.lm_head.bias
        torch.testing.assert_close(module(IDS, MASK, GIVEN).logits[1], expected[0], rtol=0, atol=1e-6)


def test_a_target_is_needed() -> None:
    with pytest.raises(ValueError, match="decoder_input_ids"):
        made()(IDS, MASK)
    with pytest.raises(ValueError, match=r"\['gru', 'lstm'\].*'rnn'"):
        Seq2SeqConfig(cell="rnn")
    with pytest.raises(ValueError, match=r"one vocabulary.*12 and 10"):
        Seq2SeqConfig(12, 10, shared=True)


def test_each_side_has_its_own_words() -> None:
    tokenizer = pair_tokenizer(["a b a", "x y", "c a", "x"], 5)
    one, other = word_tokenizer(["a b a", "c a"], 5), word_tokenizer(["x y", "x"], 5)
    assert tokenizer(["a c x"])["input_ids"] == [[*one("a c x")["input_ids"], 0]]
    assert tokenizer(text_target=["x a y"])["input_ids"] == [[*other("x a y")["input_ids"], 0]]
    assert tokenizer(["a"])["input_ids"] == [[2, 0]]  # back on the source's side
    assert tokenizer.sizes == (5, 4)
    shared = pair_tokenizer(["a b a", "x y", "c a", "x"], 5, shared=True)
    assert shared(["a x b"])["input_ids"] == shared(text_target=["a x b"])["input_ids"] == [[2, 3, 4, 0]]


def test_a_tokenizer_survives_its_folder_and_its_key_sees_both_sides(tmp_path: Path) -> None:
    tokenizer = pair_tokenizer(["a b", "x y", "c", "x"], 5)
    made().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert type(found) is PairTokenizer
    for text in ("a b c x", ""):
        assert found(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert found(text_target=text)["input_ids"] == tokenizer(text_target=text)["input_ids"]
    assert tokenizer_key(found) == tokenizer_key(tokenizer)
    assert tokenizer_key(pair_tokenizer(["a b", "x z", "c", "x"], 5)) != tokenizer_key(tokenizer)


def test_examples_are_padded_and_shifted() -> None:
    pairs = Pairs([[5, 0], [6, 7, 8, 0]], [[0, 3, 4, 0], [0, 9, 0]], padding=0)
    inputs, targets = pairs.batch(torch.tensor([1, 0]))
    assert inputs["input_ids"].tolist() == [[6, 7, 8, 0], [5, 0, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert inputs["decoder_input_ids"].tolist() == [[0, 9, 0], [0, 3, 4]]
    assert targets.tolist() == [[9, 0, UNSCORED], [3, 4, 0]]


def test_an_epoch_holds_every_pair_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(2, 60, 103)
    pairs = Pairs([[1]] * 103, [[0] * int(n) for n in lengths], padding=0)
    epochs = [pairs.batches(10, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    for batches in epochs:
        assert sorted(torch.cat(list(batches)).tolist()) == list(range(103))
        assert len(batches) == 11
        padded = sum(int(lengths[rows].max()) * len(rows) for rows in batches)
        assert padded < 1.15 * lengths.sum()
    assert all(torch.equal(a, b) for a, b in zip(epochs[0], epochs[1], strict=True))
    assert not torch.equal(torch.cat(list(epochs[0])), torch.cat(list(epochs[2])))


def test_the_loss_is_summed_over_a_target_and_not_over_its_padding(tmp_path: Path) -> None:
    recipe = TINY["seq2seq-lstm"]
    tokenizer = recipe.processor(OUTSIDE)
    torch.manual_seed(0)
    module = recipe.module(tokenizer).eval()
    examples = recipe.examples(RECORDS, tokenizer)
    inputs, targets = examples.batch(torch.arange(6))
    losses = []
    for row in range(6):
        length = int((targets[row] != UNSCORED).sum())
        source = tokenizer(RECORDS[row]["source"])["input_ids"]
        labels = tokenizer(text_target=RECORDS[row]["target"])["input_ids"]
        assert len(labels) == length
        logits = module(torch.tensor([source]), None, torch.tensor([[0, *labels[:-1]]])).logits[0].double()
        losses.append(-logits.log_softmax(-1)[range(length), labels].sum().item())
    assert recipe.loss(module(**inputs).logits, targets).item() == pytest.approx(np.mean(losses), rel=1e-5)


def train(recipe: PairRecipe, folder: Path, progress: Callable[[int, int, str], None] = lambda *_: None) -> None:
    folder.mkdir(exist_ok=True)
    recipe.train(RECORDS, recipe.processor(OUTSIDE), 7, folder, Accelerator(cpu=True), progress)


@pytest.mark.parametrize("name", list(TINY))
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path: Path, name: str) -> None:
    recipe = TINY[name]

    def killed(done: int, total: int, note: str) -> None:
        if note.startswith("epoch 3"):
            raise KeyboardInterrupt

    train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "killed", killed)
    assert (tmp_path / "killed" / "checkpoint.safetensors").exists()
    steps: list[int] = []
    train(recipe, tmp_path / "killed", lambda done, total, note: steps.append(done))
    assert min(steps) > 2 * 5  # two epochs of five batches were not done again
    whole, again = (load_file(tmp_path / kind / "model.safetensors") for kind in ("whole", "killed"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[weight], again[weight]) for weight in whole)
    answers = recipe.load(tmp_path / "whole")
    assert answers.collate.encode({"source": SOURCES[:2], "target": TARGETS[:2]})
    assert answers.load()(IDS, MASK, GIVEN).logits.shape == (2, 3, recipe.processor(OUTSIDE).sizes[1])  # type: ignore[attr-defined]


def test_steps_are_what_training_takes(tmp_path: Path) -> None:
    recipe, counted = TINY["seq2seq-gru"], []
    train(recipe, tmp_path / "run", lambda done, total, note: counted.append((done, total)))
    assert counted[-1] == (15, 15)
    assert recipe.steps(RECORDS, recipe.processor(OUTSIDE)) == 15


@pytest.mark.parametrize("name", ["bart", "t5", "mbart"])
def test_a_fine_tune_starts_from_the_weights_it_names(tmp_path: Path, name: str) -> None:
    languages = {"source_language": "en_XX", "target_language": "fr_XX"} if name == "mbart" else {}
    folder = saved(tmp_path / name, name)
    recipe = FineTunedPairs(model=str(folder), epochs=1, batch=4, learning_rate=1e-2, **languages)
    records = Dataset.from_dict({"source": SOURCES, "target": TARGETS})
    processor = recipe.processor([])
    inputs, targets = recipe.examples(records, processor).batch(torch.arange(3))
    module = recipe.module(processor)
    for row in range(3):  # the decoder is fed as the model itself would feed it
        labels = processor(text_target=TARGETS[row], return_tensors="pt")["input_ids"]
        moved = module.prepare_decoder_input_ids_from_labels(labels)[0].tolist()
        assert inputs["decoder_input_ids"][row, : len(moved)].tolist() == moved
        assert targets[row, : len(moved)].tolist() == labels[0].tolist()
    for epochs in (0, 1):
        place = tmp_path / f"tuned-{epochs}"
        place.mkdir()
        tuned = replace(recipe, epochs=epochs)
        tuned.train(records, processor, 0, place, Accelerator(cpu=True), lambda *_: None)
        before, after = load_file(folder / "model.safetensors"), load_file(place / "model.safetensors")
        assert all(torch.equal(before[key], after[key]) for key in before) == (epochs == 0)
        asked, fresh = (m.collate.encode({"source": SOURCES, "target": TARGETS})
                        for m in (tuned.load(place), pair_model(folder, **languages)))  # fmt: skip
        assert [item.values for item in asked] == [item.values for item in fresh]


def test_a_fine_tune_needs_an_encoder_decoder(gpt2_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"causal language model \(gpt2\).*name one"):
        FineTunedPairs(model=str(gpt2_folder)).processor([])
    with pytest.raises(ValueError, match=r"\{source\}, where the source goes, but is 'translate:'"):
        FineTunedPairs(model=str(gpt2_folder), prompt="translate:")


@pytest.mark.parametrize("changes", [{"attention": True}, {"embedding": 64}])
def test_a_tied_output_must_fit(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tied needs an output as wide as the embedding"):
        replace(RECIPES["seq2seq-gru"], **changes)  # type: ignore[type-var]


def test_what_is_beyond_the_window_is_not_trained_on_and_said(caplog: pytest.LogCaptureFixture) -> None:
    recipe = replace(TINY["seq2seq-lstm"], window=6)
    examples = recipe.examples(RECORDS, recipe.processor(OUTSIDE))
    assert isinstance(examples, Pairs)
    assert max(map(len, examples.sources)) == max(map(len, examples.targets)) == 6
    assert "sources are longer than 6 tokens" in caplog.text
    assert "targets are longer than 6 tokens" in caplog.text
    with pytest.raises(ValueError, match="at least one pair"):
        recipe.examples(RECORDS.select([]), recipe.processor(OUTSIDE))


def test_windows_of_texts_are_batched_as_before() -> None:
    windows = loop.Windows(torch.arange(40).reshape(10, 4).int())
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    found = windows.batches(3, torch.Generator().manual_seed(3))
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in torch.split(order, 3)]
    inputs, targets = windows.batch(found[0])
    assert torch.equal(inputs["input_ids"][:, 1:], targets[:, :-1])
