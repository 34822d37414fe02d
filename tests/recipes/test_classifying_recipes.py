"""Recipes of classifiers: what is saved answers as what was trained, heads fit the records, keys cover all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import datasets
import pytest
import torch
import transformers as hf
from accelerate import Accelerator
from datasets import Dataset
from labelled import IMAGES, KINDS, NAMES, TEXTS, bert, images, outside, recipe, records, texts, vit

from hf_mia import shadows
from hf_mia.recipes import classifier
from hf_mia.recipes.classifier import Classifier
from hf_mia.recipes.classifying import ImageClassifier
from hf_mia.recipes.fine_tuning import FineTunedImageClassifier, FineTunedTextClassifier
from hf_mia.shadows import Job, train

MLP = replace(IMAGES, architecture="mlp")
OWN = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}


def job(made: Classifier, some: Dataset | None = None, seed: int = 7) -> Job:
    return Job(f"model {seed}", made, records(made) if some is None else some, made.processor(outside()), seed)


def trained(made: Classifier, cache: Path, some: Dataset | None = None, seed: int = 7) -> Path:
    (folder,) = train([job(made, some, seed)], cache)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What is saved.


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_answers_as_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    made, kept, keep = recipe(kind, tmp_path), [], classifier.keep
    monkeypatch.setattr(classifier, "keep", lambda module, *rest: (kept.append(module), keep(module, *rest)))
    some = records(made, 5, seed=1)
    model = made.load(trained(made, tmp_path))
    (module,), loaded = kept, model.load()
    for name, weight in module.state_dict().items():
        assert torch.equal(loaded.inner.state_dict()[name], weight), name
    assert [loaded.inner.config.id2label[i] for i in range(3)] == list(NAMES)
    feed = made.feed(some, made.processor(outside()))
    with torch.no_grad():
        for row in range(5):  # alone, for in training some models hear padding
            expected = made.answer(module.eval(), feed.batch(torch.tensor([row]), torch.zeros(1, feed.numbers)))
            found = loaded(model.collate.pad(model.collate.encode(some[row : row + 1])))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_blank_is_the_model_before_training(tmp_path: Path, kind: str) -> None:
    made = recipe(kind, tmp_path)
    some, processor = records(made), made.processor(outside())
    assert made.blank().steps(some, processor) == 0
    begin = made.started(some, processor, 7).state_dict()
    found = made.load(trained(made.blank(), tmp_path)).load().inner.state_dict()
    assert begin.keys() == found.keys()
    assert all(torch.equal(begin[name], found[name]) for name in begin)
    other = made.started(some, processor, 8).state_dict()
    assert any(not torch.equal(begin[name], other[name]) for name in begin)


def test_the_vocabulary_is_that_of_texts_outside_the_game(tmp_path: Path) -> None:
    """The 28 most frequent words besides the special ones; a member's own word is unknown, whoever trains on it."""
    processor = TEXTS.processor(outside())
    words = {f"w{i:02d}" for i in range(28)}
    assert set(processor.get_vocab()) == words | {"<eos>", "<unk>"}
    own = Dataset.from_dict({"text": ["mine mine mine", "w00"], "label": [0, 1]})
    own = own.cast_column("label", datasets.ClassLabel(names=list(NAMES)))
    feed = TEXTS.feed(own, processor)
    batch = feed.batch(torch.tensor([0, 1]), torch.zeros(2, 0))
    assert batch["input_ids"].tolist() == [[1, 1, 1], [2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    with pytest.raises(ValueError, match="vocabulary must be larger than the 2 special tokens, but is 2"):
        replace(TEXTS, vocabulary=2).processor(outside())
    with pytest.raises(ValueError, match="vocabulary needs texts outside"):
        TEXTS.processor([])


# Heads.


def weights(made: Classifier, seed: int = 7) -> dict[str, torch.Tensor]:
    return made.started(records(made), made.processor([]), seed).state_dict()


def test_a_head_of_the_same_classes_is_kept(tmp_path: Path) -> None:
    for classes in (OWN, {"id2label": {0: "CAT", 1: "dog ", 2: "owl"}}, {"num_labels": 3}):
        folder = vit(tmp_path / str(len(list(tmp_path.iterdir()))), **classes)
        saved, found = hf.ViTForImageClassification.from_pretrained(folder), weights(recipe_of(folder))
        assert all(torch.equal(found[name], weight) for name, weight in saved.state_dict().items())


@pytest.mark.parametrize(
    "classes", [{"id2label": {0: "dog", 1: "cat", 2: "owl"}}, {"num_labels": 5}, {"id2label": {0: "a", 1: "b", 2: "c"}}]
)
def test_a_head_of_other_classes_is_drawn_anew_and_the_rest_is_kept(tmp_path: Path, classes: dict[str, object]) -> None:
    folder = vit(tmp_path, **classes)
    saved = hf.ViTForImageClassification.from_pretrained(folder).state_dict()
    found, again, other = (weights(recipe_of(folder), seed) for seed in (7, 7, 8))
    for name, weight in found.items():
        assert torch.equal(again[name], weight)
        if name.startswith("classifier"):
            assert weight.shape[0] == 3
            assert not torch.equal(other["classifier.weight"], found["classifier.weight"])
            assert saved[name].shape != weight.shape or "bias" in name or not torch.equal(saved[name], weight)
        else:
            assert torch.equal(saved[name], weight)


def recipe_of(folder: Path) -> FineTunedImageClassifier:
    return FineTunedImageClassifier(model=str(folder), epochs=1, batch=8)


def test_a_base_without_a_head_gets_one(tmp_path: Path) -> None:
    base = bert(tmp_path, hf.BertForMaskedLM)
    made = FineTunedTextClassifier(model=str(base), epochs=1, batch=8)
    saved, found = hf.BertForMaskedLM.from_pretrained(base).state_dict(), weights(made)
    shared = [name for name in found if name in saved]
    assert len(shared) > 30
    assert all(torch.equal(found[name], saved[name]) for name in shared)
    assert {name for name in found if name not in saved} <= {
        f"{part}.{kind}" for part in ("classifier", "bert.pooler.dense") for kind in ("weight", "bias")
    }


def test_what_cannot_be_fine_tuned_is_refused(tmp_path: Path) -> None:
    wrong = FineTunedTextClassifier(model=str(vit(tmp_path / "vit")))
    with pytest.raises(ValueError, match=r"is a vit, of which transformers makes no classifier of texts: name one"):
        wrong.module(NAMES, None)  # type: ignore[arg-type]
    model = hf.ViTForImageClassification.from_pretrained(vit(tmp_path / "lacking"))
    kept = {name: weight for name, weight in model.state_dict().items() if "layernorm" not in name}
    model.save_pretrained(tmp_path / "lacking", state_dict=kept)
    with pytest.raises(ValueError, match=r"lacks 10 of the weights that its config\.json asks for.*Save the whole"):
        weights(recipe_of(tmp_path / "lacking"))
    for path in (tmp_path / "lacking").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ValueError, match="has no safetensors weights"):
        weights(recipe_of(tmp_path / "lacking"))


# Keys.


def test_a_key_covers_fields_checkpoint_and_names_of_classes(tmp_path: Path) -> None:
    changed = {"architecture": "mlp", "width": 5, "size": 9, "hidden": 17, "epochs": 4, "batch": 7, "decay": 0.1,
               "learning_rate": 0.2, "augment": True, "mean": (0.4,) * 3, "deviation": (0.2,) * 3, "clip": 1.0,
               "optimizer": "adam", "momentum": 0.5, "schedule": "constant", "precision": "bf16",
               "compile": True}  # fmt: skip
    assert {item.name for item in fields(IMAGES) if item.init} == set(changed)
    assert len({IMAGES.key(), *(replace(IMAGES, **{name: value}).key() for name, value in changed.items())}) == 18
    some = images(5)
    renamed = some.cast_column("label", datasets.ClassLabel(names=["a", "b", "c"]))
    more = some.cast_column("label", datasets.ClassLabel(names=[*NAMES, "fox"]))
    assert len({job(IMAGES, one).folder(tmp_path) for one in (some, renamed, more)}) == 3
    assert job(IMAGES, images(5)).folder(tmp_path) == job(IMAGES, some).folder(tmp_path)
    made = recipe_of(vit(tmp_path / "base"))
    before = made.key()
    assert made.key() == before
    vit(tmp_path / "base", initializer_range=0.3)
    assert made.key() != before


# Side by side.


def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    @contextmanager
    def bar(title: str, **_: object) -> Iterator[Callable[[int, int, str], None]]:
        found.append(title)
        yield lambda done, total, note: None

    monkeypatch.setattr(shadows, "bar", bar)
    return found


def test_alike_jobs_are_trained_side_by_side_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(MLP, images(21, seed), seed) for seed in range(4)]
    jobs += [job(MLP, images(20), 9), job(replace(MLP, hidden=17), seed=9), job(IMAGES, seed=9), job(IMAGES, seed=10)]
    told = titles(monkeypatch)
    folders = train(jobs, tmp_path / "together")
    assert sum("4 models side by side" in title for title in told) == 1
    assert len(told) == 5
    for one, folder in zip(jobs, folders, strict=True):
        (alone,) = train([one], tmp_path / "alone")
        assert contents(alone) == contents(folder)
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == len(jobs)


def test_large_ones_and_others_go_one_after_another() -> None:
    accelerator, some = Accelerator(cpu=True), images(5)
    assert MLP.side_by_side(some, MLP.processor([]), accelerator) == 64
    for other in (replace(MLP, size=32, hidden=128), replace(MLP, clip=1.0), IMAGES):
        assert other.side_by_side(some, other.processor([]), accelerator) == 1


# Estimates and errors.


@pytest.mark.parametrize("made", [IMAGES, MLP, TEXTS], ids=["cnn", "mlp", "bag-of-words"])
@pytest.mark.parametrize("rows", [3, 21, 50])
def test_steps_and_time_are_those_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Classifier, rows: int
) -> None:
    """By a clock that moves on by a second a step."""
    clock, answer, some = [0.0], type(made).answer, records(made, rows)

    def ticking(self: Classifier, module: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        clock[0] += 1
        return answer(self, module, batch)

    monkeypatch.setattr(type(made), "answer", ticking)
    monkeypatch.setattr(classifier, "perf_counter", lambda: clock[0])
    processor = made.processor(outside())
    assert made.time(some, processor, tmp_path, Accelerator(cpu=True)) == 1
    assert list(tmp_path.iterdir()) == []
    clock[0] = 0.0
    trained(made, tmp_path, some)
    assert clock[0] == made.steps(some, processor) == 3 * -(-rows // 8)


@pytest.mark.parametrize("made", [IMAGES, MLP, TEXTS], ids=["cnn", "mlp", "bag-of-words"])
def test_records_without_classes_are_refused(tmp_path: Path, made: Classifier) -> None:
    some = records(made)
    zeros = some.remove_columns("label").add_column("label", [0] * 21)
    cases = {
        "have None": some.remove_columns("label").add_column("label2", [0] * 21),
        r"have Value\('int64'\)": some.cast_column("label", datasets.Value("int64")),
        r"names=\['cat'\]": zeros.cast_column("label", datasets.ClassLabel(names=["cat"])),
        "training needs at least one record, but has none": some.select(range(0)),
        "label must be 0 to 2, for there are 3 classes, but is -1 in 2 of 21 records: leave out": some.map(
            lambda row, i: {"label": -1 if i in (4, 9) else row["label"]}, with_indices=True
        ),
    }
    for message, given in cases.items():
        with pytest.raises(ValueError, match=message):
            made.train(given, made.processor(outside()), 0, tmp_path, Accelerator(cpu=True), lambda *_: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs must be at least 0, but is -1"),
        ({"batch": 0}, "batch must be at least 1, but is 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0, but is nan"),
        ({"hidden": 0}, "hidden must be at least 1, but is 0"),
        ({"clip": 0.0}, r"clip must be greater than 0, or none, but is 0\.0"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    for made in (IMAGES, TEXTS):
        with pytest.raises(ValueError, match=message):
            replace(made, **changes)


def test_a_classifier_of_images_is_small_and_not_augmented() -> None:
    assert not ImageClassifier().augment
    assert texts(3).features["label"].names == list(NAMES)
