"""Classifiers by name or folder: each answers as its own processor and model do, alone or in a batch, or is refused."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
import transformers as hf
from datasets import Dataset
from PIL import Image
from scipy.signal import resample_poly
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from worlds import each, tiny_gpt2

from hf_mia.architectures.classifiers import (
    BagOfWordsConfig,
    BagOfWordsForSequenceClassification,
    SmallImagesConfig,
    SmallImagesForImageClassification,
)
from hf_mia.core import Model
from hf_mia.models.classifiers import audio_classifier, class_order, image_classifier, text_classifier
from hf_mia.models.classifying import LabelledImages, LabelledSounds, LabelledTexts
from hf_mia.models.vision import encoder
from hf_mia.probes.posteriors import Posteriors, Shifts
from hf_mia.runner import Runner
from hf_mia.signals.classifier import LogitGap, Loss, ModifiedEntropy

NAMES = ("cat", "dog", "owl", "fox")
CLASSES = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
SPREAD = {"initializer_range": 0.5}  # logits that are far apart
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, **SPREAD}
WORDS = [f"w{i:02d}" for i in range(60)]
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, size=n)) for n in (5, 1, 9, 2, 30, 14, 9, 7, 3, 1, 12, 6)]
LABELS = [int(label) for label in RNG.integers(0, 4, len(TEXTS))]
RATE = 1600

Made = tuple[hf.PreTrainedModel, object]


def saved(folder: Path, made: Made) -> Path:
    made[0].save_pretrained(folder)
    made[1].save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def changed(folder: Path, file: str = "config.json", **settings: object) -> Path:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def without(folder: Path, pattern: str) -> Path:
    for path in folder.glob(pattern):
        path.unlink()
    return folder


# Images.


def vit(classes: Mapping[str, object] = CLASSES) -> Made:
    config = hf.ViTConfig(**SIZES, image_size=32, patch_size=8, **classes)
    return hf.ViTForImageClassification(config), hf.ViTImageProcessorPil(size={"height": 32, "width": 32})


def resnet() -> Made:
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **CLASSES)
    return hf.ResNetForImageClassification(config), ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.8)


def ours() -> Made:
    config = SmallImagesConfig(width=4, size=32, hidden=16, **CLASSES)
    processor = hf.ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6])
    return SmallImagesForImageClassification(config), processor


IMAGE_KINDS = {"vit": vit, "resnet": resnet, "ours": ours}


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> dict[str, object]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


PICTURES = [picture(20 + i, 47 - 2 * i) for i in range(len(LABELS))]


def image_records() -> Dataset:
    kinds = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=list(NAMES))})
    return Dataset.from_dict({"image": [png(image) for image in PICTURES], "label": LABELS}, features=kinds)


# Texts.


def tokenizer(**settings: object) -> hf.PreTrainedTokenizerFast:
    """Of whole words, between [CLS] and [SEP]."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special.values(), *WORDS])}, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return hf.PreTrainedTokenizerFast(tokenizer_object=raw, **{**special, **settings})


def bert(side: str = "right") -> Made:
    config = hf.BertConfig(**SIZES, vocab_size=64, max_position_embeddings=24, **CLASSES)
    return hf.BertForSequenceClassification(config), tokenizer(padding_side=side)


def roberta(side: str = "right") -> Made:
    config = hf.RobertaConfig(**SIZES, vocab_size=64, max_position_embeddings=24, pad_token_id=0, **CLASSES)
    return hf.RobertaForSequenceClassification(config), tokenizer(padding_side=side)


def distilbert() -> Made:
    sizes = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 24, **SPREAD}
    config = hf.DistilBertConfig(**sizes, vocab_size=64, **CLASSES)
    return hf.DistilBertForSequenceClassification(config), tokenizer()


def llama(side: str = "left") -> Made:
    config = hf.LlamaConfig(**SIZES, vocab_size=64, max_position_embeddings=24, **CLASSES)
    return hf.LlamaForSequenceClassification(config), tokenizer(padding_side=side)


def gpt2(side: str = "right") -> Made:
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 24, "vocab_size": 64, **SPREAD}
    return hf.GPT2ForSequenceClassification(hf.GPT2Config(**sizes, **CLASSES)), tokenizer(padding_side=side)


def xlnet() -> Made:
    config = hf.XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=32, vocab_size=64, **SPREAD, **CLASSES)
    return hf.XLNetForSequenceClassification(config), tokenizer(padding_side="left")


def bag() -> Made:
    config = BagOfWordsConfig(vocab_size=64, embedding=8, hidden=8, **CLASSES)
    return BagOfWordsForSequenceClassification(config), tokenizer()


TEXT_KINDS: dict[str, tuple[Callable[[], Made], bool, int | None]] = {  # whether padding moves it, and its context
    "bert": (bert, False, 24),
    "bert-left": (lambda: bert("left"), True, 24),  # its first token is read, and positions count from the left edge
    "roberta": (roberta, False, 23),
    "roberta-left": (lambda: roberta("left"), True, 23),
    "distilbert": (distilbert, False, 24),
    "llama-left": (llama, False, 24),
    "llama-right": (lambda: llama("right"), False, 24),
    "gpt2": (gpt2, False, 24),
    "gpt2-left": (lambda: gpt2("left"), True, 24),
    "xlnet-left": (xlnet, False, None),
    "bag-of-words": (bag, False, None),
}


def text_records() -> Dataset:
    return Dataset.from_dict({"text": TEXTS, "label": LABELS})


def text_folder(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    return saved(folder, TEXT_KINDS[kind][0]())


# Sounds.


def sound(samples: np.ndarray, path: str | None = None, rate: int = RATE) -> dict[str, object]:
    """A WAV of float32 samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return {"bytes": file.getvalue(), "path": path}


SOUNDS = [RNG.normal(0, 0.1, 800 + 37 * (i % 5)).astype(np.float32) for i in range(len(LABELS))]


def wav2vec2(norm: str = "group", mask: bool = False) -> Made:
    convolutions = {"conv_dim": [8, 8], "conv_kernel": [10, 4], "conv_stride": [5, 4], "feat_extract_norm": norm}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
    config = hf.Wav2Vec2Config(**SIZES, **convolutions, **positions, vocab_size=8, **CLASSES)
    extractor = hf.Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=mask)
    return hf.Wav2Vec2ForSequenceClassification(config), extractor


def ast() -> Made:
    sizes = {"max_length": 64, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}
    extractor = hf.ASTFeatureExtractor(sampling_rate=RATE, max_length=64, num_mel_bins=16)
    return hf.ASTForAudioClassification(hf.ASTConfig(**SIZES, **sizes, **CLASSES)), extractor


SOUND_KINDS: dict[str, Callable[[], Made]] = {
    "wav2vec2": wav2vec2,
    "wav2vec2-masked": lambda: wav2vec2("layer", True),
    "ast": ast,
}


def sound_records() -> Dataset:
    return Dataset.from_dict({"audio": [sound(samples) for samples in SOUNDS], "label": LABELS})


# Tests.


def answers(model: Model, records: Mapping[str, Sequence[object]], size: int) -> Iterator[torch.Tensor]:
    """The logits of each record, asked `size` at a time, those of like length together as the runner does."""
    module = model.load().eval()
    items = model.collate.encode(records)
    order = sorted(range(len(items)), key=lambda i: items[i].size)
    found = {}
    for at in range(0, len(order), size):
        rows = order[at : at + size]
        batch = model.collate.pad([items[i] for i in rows])
        assert batch["label"].tolist() == [LABELS[i] for i in rows]
        with torch.no_grad():
            found |= dict(zip(rows, module(batch), strict=True))
    for i in range(len(items)):
        yield found[i]


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_an_image_is_answered_as_processor_and_model_do(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    whole, processor = IMAGE_KINDS[kind]()
    model = image_classifier(saved(tmp_path, (whole, processor)))
    assert isinstance(model.collate, LabelledImages)
    records = image_records()[:]
    for size in (1, 64):
        for image, found in zip(PICTURES, answers(model, records, size), strict=True):
            with torch.no_grad():
                expected = whole.eval()(**processor(images=image, return_tensors="pt")).logits[0]  # type: ignore[operator]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_a_text_is_answered_as_tokenizer_and_model_do(tmp_path: Path, kind: str) -> None:
    """One after the other without padding, cut at the context, against batches of any size."""
    make, alone, context = TEXT_KINDS[kind]
    model = text_classifier(text_folder(tmp_path, kind))
    assert isinstance(model.collate, LabelledTexts)
    assert model.collate.context == context
    assert model.load().alone == alone
    torch.manual_seed(0)
    whole, processor = make()
    cut = {"truncation": True, "max_length": context} if context else {}
    together, apart = (list(answers(model, text_records()[:], size)) for size in (64, 1))
    for text, one, other in zip(TEXTS, together, apart, strict=True):
        inputs = processor(text, return_tensors="pt", return_token_type_ids=False, **cut)  # type: ignore[operator]
        with torch.no_grad():
            expected = whole.eval()(**inputs).logits[0]
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-6)
    assert torch.stack(apart).std(dim=0).min() > 1e-3


@pytest.mark.parametrize("kind", SOUND_KINDS)
def test_a_sound_is_answered_as_extractor_and_model_do(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    whole, extractor = SOUND_KINDS[kind]()
    model = audio_classifier(saved(tmp_path, (whole, extractor)))
    assert isinstance(model.collate, LabelledSounds)
    together, apart = (list(answers(model, sound_records()[:], size)) for size in (64, 1))
    for samples, one, other in zip(SOUNDS, together, apart, strict=True):
        inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")  # type: ignore[operator]
        with torch.no_grad():
            expected = whole.eval()(**inputs).logits[0]
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-5)
    assert torch.stack(apart).std(dim=0).max() > 1e-4


def test_a_sound_at_another_rate_is_resampled(tmp_path: Path) -> None:
    collate = audio_classifier(saved(tmp_path, wav2vec2())).collate
    slow, fast = SOUNDS[0], resample_poly(SOUNDS[0].astype(np.float64), 2, 1)
    records = {"audio": [sound(slow, rate=RATE // 2), sound(fast)], "label": [0, 1]}
    first, second = collate.encode(records)
    np.testing.assert_array_equal(first.values["input_values"], second.values["input_values"])
    assert first.size == second.size == 4  # 1600 samples
    assert collate.pad([first, second])["input_values"].dtype == torch.float32
    with pytest.raises(ValueError, match=r"sound 1 of its chunk \(b\.wav\) cannot be opened"):
        collate.encode({"audio": [sound(slow), {"bytes": b"", "path": "b.wav"}], "label": [0, 0]})


def runs(kind: str, tmp_path: Path) -> tuple[Model, Dataset]:
    torch.manual_seed(0)
    if kind == "images":
        return image_classifier(saved(tmp_path, vit())), image_records()
    if kind == "texts":
        return text_classifier(saved(tmp_path, bert())), text_records()
    if kind == "texts-left":
        return text_classifier(saved(tmp_path, bert("left"))), text_records()
    return audio_classifier(saved(tmp_path, wav2vec2())), sound_records()


@pytest.mark.parametrize("kind", ["images", "texts", "texts-left", "sounds"])
def test_scores_do_not_depend_on_batches_or_chunks(tmp_path: Path, kind: str) -> None:
    model, records = runs(kind, tmp_path / "model")
    probe = Posteriors(queries=Shifts(1, True) if kind == "images" else Shifts())
    signals = [LogitGap(probe), Loss(probe), ModifiedEntropy(probe)]
    alone = Runner(tmp_path / "a", chunk=5, tokens=1)(model, probe, records)
    together = Runner(tmp_path / "b", tokens=64 * 40)(model, probe, records)
    assert [row["label"].tolist() for row in each(together)] == [[label] for label in LABELS]
    for signal in signals:
        found, expected = (np.concatenate(list(map(signal.measure, shards))) for shards in (together, alone))
        assert found.shape == (len(LABELS), 10 if kind == "images" and signal is signals[0] else 1)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_what_padding_moves_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        text_classifier(saved(tmp_path / "a", bert())).load()
        assert not caplog.records
        text_classifier(saved(tmp_path / "b", bert("left"))).load()
    assert "padding moves the logits of model" in caplog.text


def test_a_batch_of_texts() -> None:
    collate = LabelledTexts(tokenizer(padding_side="left"), 4, 0)
    items = collate.encode({"text": ["w00", "w00 w01 w02 w03", "w05 w06"], "label": [3, 0, 2]})
    batch = collate.pad(items)
    assert batch["input_ids"].tolist() == [[0, 2, 4, 3], [2, 4, 5, 3], [2, 9, 10, 3]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [1] * 4, [1] * 4]
    assert batch["length"].tolist() == [3, 4, 4]
    assert batch["label"].tolist() == [3, 0, 2]
    assert "length" not in collate.pad(items[1:])
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert [item.size for item in items] == [3, 4, 4]


def test_a_text_without_a_token_is_all_padding(tmp_path: Path) -> None:
    processor = tokenizer()
    processor.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    module = BagOfWordsForSequenceClassification(BagOfWordsConfig(vocab_size=64, **CLASSES))
    model = text_classifier(saved(tmp_path, (module, processor)))
    items = model.collate.encode({"text": ["", "w00 w01"], "label": [0, 1]})
    batch = model.collate.pad(items)
    assert batch["attention_mask"].tolist() == [[0, 0], [1, 1]]
    assert batch["length"].tolist() == [1, 2]
    both = model.load()(batch)
    torch.testing.assert_close(both[:1], model.load()(model.collate.pad(items[:1])))


@pytest.mark.parametrize("label", [None, 1.5, "cat"])
def test_a_label_that_is_no_number_is_refused(tmp_path: Path, label: object) -> None:
    given = {
        LabelledTexts(tokenizer(), 8, 0): {"text": ["w00", "w01"]},
        LabelledImages(8): {"image": [png(PICTURES[0])] * 2},
        LabelledSounds(wav2vec2()[1]): {"audio": [sound(SOUNDS[0])] * 2},  # type: ignore[arg-type]
    }
    for collate, records in given.items():
        with pytest.raises(ValueError, match=r"label must be a whole number.*record 1 of its chunk has"):
            collate.encode({**records, "label": [np.int64(0), label]})


ORDERS = [
    (("Dog", "cat"), (1, 0)),  # the place of each of the data's classes among the model's
    (("cat", "dog"), (0, 1)),
    ((" CAT", "dog "), (0, 1)),
]


@pytest.mark.parametrize(("names", "order"), ORDERS)
def test_logits_stand_in_the_order_of_the_data(names: tuple[str, ...], order: tuple[int, ...]) -> None:
    assert class_order(["cat", "dog"], names, "m") == order
    assert class_order(["a", "b", "c"], ("c", "a", "b"), "m") == (2, 0, 1)
    assert class_order(["b", "c", "a"], ("a", "b", "c"), "m") == (2, 0, 1)


@pytest.mark.parametrize(
    ("known", "names", "told"),
    [
        (["LABEL_0", "LABEL_1"], ("cat", "dog"), False),
        (["a", "b"], ("cat", "dog"), True),
        (["a", "A"], ("A", "a"), True),  # the same name twice, but for its case
        (["a", "A"], ("a", "A"), False),
        (["LABEL_1", "LABEL_0"], ("cat", "dog"), True),
        (["a", "b"], None, False),
    ],
)
def test_names_that_differ_go_by_number_and_are_told(
    known: list[str], names: tuple[str, ...] | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert class_order(known, names, "m") == (0, 1)
    assert len(caplog.records) == told
    if told:
        assert all(str(list(some)) in caplog.text for some in (known, names or ()))


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, vit())
    with pytest.raises(ValueError, match=r"has 4 classes and the data 3: take a model of the data's classes"):
        image_classifier(folder, names=("cat", "dog", "owl"))
    with pytest.raises(ValueError, match="has 4 classes and the data 5"):
        image_classifier(saved(tmp_path / "unnamed", vit({"num_labels": 4})), names=tuple("abcde"))


def test_a_model_with_other_order_gives_its_logits_in_ours(tmp_path: Path) -> None:
    folder = text_folder(tmp_path, "bert")
    names = ("OWL", "cat", "fox", "dog")
    plain, sorted_ = text_classifier(folder), text_classifier(folder, names=names)
    pairs = zip(*(answers(model, text_records()[:], 64) for model in (plain, sorted_)), strict=True)
    for own, other in pairs:
        assert other.tolist() == [own[NAMES.index(name.casefold())].item() for name in names]
    assert sorted_.key != plain.key
    assert text_classifier(folder, names=NAMES).key == plain.key


def test_the_key_is_the_content_and_not_the_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = saved(tmp_path / "a", made := vit())
    again = saved(tmp_path / "b", made)
    key = image_classifier(first).key
    assert image_classifier(again).key == key != encoder(first).key
    assert image_classifier(saved(tmp_path / "c", vit())).key != key
    assert image_classifier(changed(again, "preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])).key != key
    texts = text_classifier(folder := saved(tmp_path / "d", bert()))
    assert text_classifier(changed(folder, "tokenizer_config.json", padding_side="left")).key != texts.key
    assert image_classifier(first).name == str(first)


def test_a_text_is_cut_at_what_is_shorter(tmp_path: Path) -> None:
    folder = saved(tmp_path, bert())
    path = changed(folder, "tokenizer_config.json", model_max_length=9)
    assert text_classifier(path).collate.context == 9  # type: ignore[attr-defined]
    assert max(item.size for item in text_classifier(path).collate.encode(text_records()[:])) == 9


def no_padding_token(folder: Path) -> Path:
    made = gpt2()[0], tokenizer(pad_token=None)
    return changed(saved(folder, made), pad_token_id=None)


def remote(folder: Path) -> Path:
    mapped = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (changed(saved(folder, bert()), **mapped) / "theirs.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


def lacking(folder: Path) -> Path:
    model, processor = bert()
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    model.save_pretrained(folder, state_dict={n: v for n, v in model.state_dict().items() if "classifier" not in n})
    return folder


def headless(folder: Path) -> Path:
    return saved(folder, (bert()[0].bert, tokenizer()))


def pickled(folder: Path) -> Path:
    torch.save({}, without(saved(folder, bert()), "*.safetensors") / "pytorch_model.bin")
    return folder


def small(folder: Path) -> Path:
    return changed(saved(folder, vit()), "preprocessor_config.json", size={"height": 48, "width": 48})


REFUSED: list[tuple[Callable[..., Model], Callable[[Path], Path], str]] = [
    (text_classifier, headless, r"is no classifier of texts, but BertModel: name one saved as BertForSequenceClass"),
    (text_classifier, lacking, r"lacks 2 of the weights.*classifier\.bias.*Save the whole model again"),
    (text_classifier, tiny_gpt2, r"is no classifier of texts, but GPT2LMHeadModel: .*GPT2ForSequenceClassification"),
    (text_classifier, no_padding_token, r"has no padding token.*tokenizer\.pad_token = "),
    (text_classifier, pickled, r"no safetensors weights"),
    (text_classifier, remote, r"code.*not run"),
    (
        text_classifier,
        lambda folder: changed(saved(folder, bert()), problem_type="multi_label_classification"),
        r"gives 4 numbers for multi_label_classification.*name a model",
    ),
    (
        text_classifier,
        lambda folder: changed(saved(folder, bert()), id2label={"0": "x"}, label2id={"x": 0}),
        r"gives 1 numbers for regression",
    ),
    (text_classifier, lambda folder: without(saved(folder, bert()), "tokenizer*"), r"has no tokenizer"),
    (text_classifier, lambda folder: saved(folder, vit()), r"is no classifier of texts, but ViTForImageClassif.*Auto"),
    (image_classifier, lambda folder: saved(folder, bert()), r"is no classifier of images, but BertForSequenceClass"),
    (image_classifier, lambda folder: without(saved(folder, vit()), "pre*"), r"no image processor.*processor\.save"),
    (image_classifier, small, r"\(ViTForImage.*cannot be asked about .*48, 48.*doesn't match.*that fit each other"),
    (audio_classifier, lambda folder: saved(folder, bert()), r"is no classifier of sounds, but BertForSequenceClass"),
    (audio_classifier, lambda folder: without(saved(folder, wav2vec2()), "pre*"), r"no feature extractor.*save_pre"),
]


@pytest.mark.parametrize(("kind", "make", "message"), REFUSED, ids=[message[:30] for _, _, message in REFUSED])
def test_what_cannot_be_audited_is_refused(
    tmp_path: Path, kind: Callable[..., Model], make: Callable[[Path], Path], message: str
) -> None:
    folder = make(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"(?s){message}") as caught:
        kind(folder).load()
    assert str(folder) in str(caught.value)
    assert not (folder / "ran").exists()


def test_a_missing_path_is_named() -> None:
    for kind in (image_classifier, text_classifier, audio_classifier):
        with pytest.raises(ValueError, match=r"'no/such/folder'.*local folder"):
            kind("no/such/folder")


def test_weights_that_are_pickled_beside_safe_ones_are_never_read(tmp_path: Path) -> None:
    folder = saved(tmp_path, bert())
    (folder / "pytorch_model.bin").write_bytes(b"a bomb")
    module = text_classifier(folder).load()
    assert not module.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in module.parameters())
