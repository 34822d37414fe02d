"""From records and their classes to the batches of a classifier: images, texts, sounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import numpy.typing as npt

from hf_mia.collate import Batch, Collate, Item
from hf_mia.models.vision import ImageCollate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, SequenceFeatureExtractor

SAMPLES = 400  # of a sound, that count as one position of a batch
TOKENS = ("input_ids", "token_type_ids", "attention_mask")  # what a tokenizer may give, and a module may take


@dataclass(frozen=True)
class LabelledImages(ImageCollate):
    """Images as `ImageCollate` makes them, and `label` int64 (b,). ValueError also where a label is no whole number."""

    columns: ClassVar[tuple[str, ...]] = ("image", "label")

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        return labelled(super().encode(records), records)

    def pad(self, items: Sequence[Item]) -> Batch:
        return {**super().pad(items), "label": labels(items)}


@dataclass(frozen=True)
class LabelledTexts(Collate):
    """Texts for a classifier, with the tokenizer's own special tokens; what is beyond `context` tokens is cut off.

    A batch is what the tokenizer gives of `input_ids`, `token_type_ids` and `attention_mask`, int64 (b, length), padded
    with the token `padding` on the tokenizer's side; `label` (b,); and, where texts differ in length, `length` (b,). A
    text without a token is one of padding, which the mask leaves out. ValueError where a label is no whole number.
    """

    tokenizer: PreTrainedTokenizerBase
    context: int | None
    padding: int
    columns: ClassVar[tuple[str, ...]] = ("text", "label")

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        texts = [str(text) for text in records["text"]]
        cut = {"truncation": True, "max_length": self.context} if self.context else {}
        encoded = self.tokenizer(texts, return_attention_mask=True, verbose=False, **cut)
        names = [name for name in TOKENS if name in encoded]
        rows = zip(*(encoded[name] for name in names), strict=True)
        items = [
            Item(record, max(1, len(row[0])), dict(zip(names, row, strict=True))) for record, row in enumerate(rows)
        ]
        return labelled(items, records)

    def pad(self, items: Sequence[Item]) -> Batch:
        fill = {"input_ids": self.padding, "token_type_ids": self.tokenizer.pad_token_type_id, "attention_mask": 0}
        rows = {
            name: [np.asarray(item.values[name], dtype=np.int64) for item in items]
            for name in fill
            if name in items[0].values
        }
        left = self.tokenizer.padding_side == "left"
        batch = {name: padded(values, fill[name], left, least=1) for name, values in rows.items()}
        return {**batch, **lengths([item.size for item in items]), "label": labels(items)}


@dataclass(frozen=True)
class LabelledSounds(Collate):
    """Sounds for a classifier, as one channel at the rate of its feature extractor, which sees each alone and whole.

    A batch is what the extractor gives: `input_values` (b, samples) or `input_features` (b, ...), float32, and
    `attention_mask` (b, ...) if it makes one, padded with 0 on the right; `label` (b,); and, where sounds differ in
    length, `length` (b,), along the first axis of the values. Raises ValueError, which names the sound, where one
    cannot be opened, and where a label is no whole number.
    """

    extractor: SequenceFeatureExtractor
    columns: ClassVar[tuple[str, ...]] = ("audio", "label")

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        rows = zip(records["audio"], records["label"], strict=True)
        return [self.item(i, self._samples(i, value), checked(label, i)) for i, (value, label) in enumerate(rows)]

    def pad(self, items: Sequence[Item]) -> Batch:
        names = [name for name in items[0].values if name != "label"]
        rows = {name: [np.asarray(item.values[name]) for item in items] for name in names}
        batch = {name: padded(values, 0, left=False) for name, values in rows.items()}
        return {**batch, **lengths([len(row) for row in rows[names[0]]]), "label": labels(items)}

    def item(self, record: int, samples: npt.NDArray[np.float32], label: int) -> Item:
        """What the extractor makes of samples (n,) at its own rate, the values first, and a class."""
        found = self.extractor(samples, sampling_rate=self.extractor.sampling_rate, return_tensors="np")
        kinds = {self.extractor.model_input_names[0]: np.float32, "attention_mask": np.int64}
        values = {name: np.asarray(found[name][0], dtype=kind) for name, kind in kinds.items() if name in found}
        return Item(record, math.ceil(len(samples) / SAMPLES), {**values, "label": label})

    def _samples(self, record: int, value: object) -> npt.NDArray[np.float32]:
        """A sound's one channel (n,) at the extractor's rate."""
        from hf_mia.models.sounds import decode, resample

        encoded = cast("Mapping[str, object]", value)
        samples, rate = decode(encoded, f"{record} of its chunk ({encoded.get('path') or 'without a path'})")
        return resample(samples, rate, int(self.extractor.sampling_rate))


def labelled(items: Sequence[Item], records: Mapping[str, Sequence[object]]) -> list[Item]:
    """Items, one a record in the records' order, with the record's class in `label`."""
    return [
        replace(item, values={**item.values, "label": checked(label, item.record)})
        for item, label in zip(items, records["label"], strict=True)
    ]


def checked(label: object, record: int) -> int:
    """A record's class; ValueError where it is no whole number."""
    if not isinstance(label, (int, np.integer)):
        raise ValueError(
            f"label must be a whole number, the place of a record's class among all classes, but record {record} of "
            f"its chunk has {label!r}: leave out records without a class, and number the classes."
        )
    return int(label)


def labels(items: Sequence[Item]) -> torch.Tensor:
    """The classes of a batch (b,), int64."""
    import torch

    return torch.tensor([cast("int", item.values["label"]) for item in items], dtype=torch.int64)


def lengths(sizes: Sequence[int]) -> Batch:
    """`length` (b,), int64, where the rows of a batch differ in it; else nothing."""
    import torch

    return {"length": torch.tensor(sizes, dtype=torch.int64)} if len(set(sizes)) > 1 else {}


def padded(rows: Sequence[npt.NDArray[np.generic]], fill: int, left: bool, least: int = 0) -> torch.Tensor:
    """One tensor (b, length, ...) of rows that may differ in their first axis; it is at least `least` long."""
    import torch

    length = max(least, *(len(row) for row in rows))
    found = np.full((len(rows), length, *rows[0].shape[1:]), fill, dtype=rows[0].dtype)
    for place, row in zip(found, rows, strict=True):
        place[length - len(row) if left else 0 :][: len(row)] = row
    return torch.from_numpy(found)
