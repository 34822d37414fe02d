"""Small classifiers trained from nothing: of images, and of texts as bags of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from hf_mia.collate import Batch
from hf_mia.core import Model
from hf_mia.recipes import Progress
from hf_mia.recipes.classifier import Classifier, keep
from hf_mia.recipes.labels import labelled, labels_of

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from hf_mia.recipes.feeds import Encoded, Feed, Pixels

SMALL = 2**17  # parameters up to which models are faster side by side than one after another on a CPU
LARGEST = 2**30  # bytes that the models side by side may take, their optimizer and their records included
MOST = 64  # models side by side


@dataclass(frozen=True, kw_only=True)
class ImageClassifier(Classifier):
    """A classifier of small images, from nothing; without augmentation, for what is of interest is what it overfits to.

    `cnn`: three 3x3 convolutions from `width` to four times as many channels, normalised by group (Wu and He 2018);
    `mlp`: one layer of `hidden` units; `resnet18`: with batch normalisation, for a GPU. Images have `size` pixels
    a side; `augment` moves them by up to an eighth and mirrors some. `mean` and `deviation` of the pixels: CIFAR-10's.
    Where an `mlp` is so small that a step is mostly calls, not arithmetic, several are trained side by side.
    """

    columns: ClassVar[tuple[str, ...]] = ("image", "label")
    architecture: Literal["cnn", "mlp", "resnet18"] = "cnn"
    width: int = 16
    size: int = 32
    hidden: int = 128
    epochs: int = 40
    batch: int = 32
    learning_rate: float = 0.01
    augment: bool = False
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    deviation: tuple[float, float, float] = (0.2023, 0.1994, 0.2010)

    def processor(self, outside: Iterable[str]) -> BaseImageProcessor:
        from transformers import ViTImageProcessorPil

        return ViTImageProcessorPil(
            size={"height": self.size, "width": self.size}, image_mean=list(self.mean), image_std=list(self.deviation)
        )

    def processor_key(self, processor: BaseImageProcessor) -> str:
        return str(processor.to_json_string())

    def module(self, names: Sequence[str], processor: BaseImageProcessor) -> PreTrainedModel:
        import torch

        from hf_mia.architectures.classifiers import SmallImagesConfig, SmallImagesForImageClassification

        config = SmallImagesConfig(
            architecture=self.architecture, width=self.width, size=self.size, hidden=self.hidden, **labelled(names)
        )
        layout = torch.contiguous_format if self.architecture == "mlp" else torch.channels_last  # 1.7 times faster
        return SmallImagesForImageClassification(config).to(memory_format=layout)

    def feed(self, records: Dataset, processor: BaseImageProcessor) -> Pixels:
        import torch

        from hf_mia.recipes.contrastive import pixels
        from hf_mia.recipes.feeds import Pixels

        labels = torch.from_numpy(labels_of(records))
        return Pixels(pixels(records, self.size), labels, self.mean, self.deviation, self.augment)

    def answer(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return cast("torch.Tensor", module(pixel_values=batch["pixel_values"]).logits)

    def fit(
        self,
        module: PreTrainedModel,
        feed: Feed,
        seed: int,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        from hf_mia.recipes.feeds import Pixels
        from hf_mia.recipes.stacks import fit_side_by_side

        if self._stacks(module, accelerator):  # alone too, for then it learns the same in any company
            alone = Pixels.stack([cast("Pixels", feed)])
            fit_side_by_side([module], alone, self, [seed], [folder], accelerator, progress)
        else:
            super().fit(module, feed, seed, folder, accelerator, progress)

    def side_by_side(self, records: Dataset, processor: BaseImageProcessor, accelerator: Accelerator) -> int:
        import torch

        with torch.device("meta"):
            module = self.started(records, processor, 0)
        if not self._stacks(module, accelerator):
            return 1
        each = 16 * parameters(module) + 3 * self.size**2 * len(records)
        return max(1, min(MOST, LARGEST // each))

    def train_side_by_side(
        self,
        records: Sequence[Dataset],
        processor: BaseImageProcessor,
        seeds: Sequence[int],
        folders: Sequence[Path],
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        from hf_mia.recipes.feeds import Pixels
        from hf_mia.recipes.stacks import fit_side_by_side

        if self.side_by_side(records[0], processor, accelerator) < len(records):
            return super().train_side_by_side(records, processor, seeds, folders, accelerator, progress)
        feed = Pixels.stack([self.feed(some, processor) for some in records])
        modules = [self.started(some, processor, seed) for some, seed in zip(records, seeds, strict=True)]
        fit_side_by_side(modules, feed, self, seeds, folders, accelerator, progress)
        for module, folder in zip(modules, folders, strict=True):
            keep(module, processor, folder)

    def _stacks(self, module: PreTrainedModel, accelerator: Accelerator) -> bool:
        """Whether models go side by side here: those of which a step is mostly calls, not arithmetic."""
        small = accelerator.device.type == "cuda" or parameters(module) <= SMALL
        return self.architecture == "mlp" and self.clip is None and small

    def load(self, folder: Path) -> Model:
        from hf_mia.models.classifiers import image_classifier

        return image_classifier(folder)


@dataclass(frozen=True, kw_only=True)
class TextClassifier(Classifier):
    """A small classifier of texts, from nothing: the mean of their words' embeddings, and one layer of `hidden` units.

    It knows the `vocabulary` most frequent words of the texts outside the game: one that was counted on the members'
    would tell them by itself. All other words are one, `<unk>`.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    vocabulary: int = 5000
    lowercase: bool = True
    embedding: int = 64
    hidden: int = 64
    epochs: int = 20
    batch: int = 32
    learning_rate: float = 1e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"

    def processor(self, outside: Iterable[str]) -> PreTrainedTokenizerBase:
        from hf_mia.recipes.vocabulary import word_tokenizer

        return word_tokenizer(outside, self.vocabulary, self.lowercase)

    def processor_key(self, processor: PreTrainedTokenizerBase) -> str:
        from hf_mia.recipes.vocabulary import tokenizer_key

        return tokenizer_key(processor)

    def module(self, names: Sequence[str], processor: PreTrainedTokenizerBase) -> PreTrainedModel:
        from hf_mia.architectures.classifiers import BagOfWordsConfig, BagOfWordsForSequenceClassification

        config = BagOfWordsConfig(
            vocab_size=len(processor),
            embedding=self.embedding,
            hidden=self.hidden,
            pad_token_id=processor.pad_token_id,
            **labelled(names),
        )
        return BagOfWordsForSequenceClassification(config)

    def feed(self, records: Dataset, processor: PreTrainedTokenizerBase) -> Encoded:
        from hf_mia.models.classifying import LabelledTexts
        from hf_mia.recipes.feeds import Encoded

        assert processor.pad_token_id is not None
        return Encoded.of_records(records, LabelledTexts(processor, None, int(processor.pad_token_id)))

    def answer(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        words, mask = batch["input_ids"], batch["attention_mask"]
        return cast("torch.Tensor", module(input_ids=words, attention_mask=mask).logits)

    def load(self, folder: Path) -> Model:
        from hf_mia.models.classifiers import text_classifier

        return text_classifier(folder)


def parameters(module: torch.nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(parameter.numel() for parameter in module.parameters())
