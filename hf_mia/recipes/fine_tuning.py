"""Any checkpoint of transformers fine-tuned to classify: images, texts or sounds."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from hf_mia.collate import Batch
from hf_mia.core import Model
from hf_mia.models.checkpoints import check_weights, configuration, folder_of
from hf_mia.recipes.classifier import Classifier
from hf_mia.recipes.labels import labels_of
from hf_mia.storage.keys import folder_key

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase, SequenceFeatureExtractor

    from hf_mia.models.classifying import LabelledTexts
    from hf_mia.recipes import Processor
    from hf_mia.recipes.feeds import Encoded, Streamed, StreamedImages


@dataclass(frozen=True, kw_only=True)
class FineTunedClassifier(Classifier):
    """A checkpoint of transformers, fine-tuned from `model`, a Hub id or a folder, with its own processor.

    Its head is kept where its classes are the records', in their order and whatever their case, or where it is of as
    many that have no names of their own (LABEL_0 and so on); else the seed draws a fresh one, as it does the pooler
    where there is none. Loads safetensors only. Raises ValueError, with the way out, where transformers makes no such
    classifier of the checkpoint, or where it lacks weights or a processor.
    """

    kind: ClassVar[Literal["images", "texts", "sounds"]]
    model: str
    revision: str | None = None
    epochs: int = 3
    batch: int = 16
    learning_rate: float = 5e-5
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    decay: float = 0.01
    clip: float | None = 1.0

    def key(self) -> str:
        return f"{self!r} from {folder_key(self.folder())}"

    def folder(self) -> Path:
        """Where the checkpoint is, downloaded first if need be."""
        return folder_of(self.model, self.revision)

    def module(self, names: Sequence[str], processor: Processor) -> PreTrainedModel:
        from hf_mia.recipes.heads import headed

        check_weights(self.folder(), self.model)
        return headed(self.folder(), self.model, self.kind, names)

    def answer(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        taken = inspect.signature(module.forward).parameters
        inputs = {name: tensor for name, tensor in batch.items() if name in taken and name != "label"}
        return cast("torch.Tensor", module(**inputs).logits)


@dataclass(frozen=True, kw_only=True)
class FineTunedImageClassifier(FineTunedClassifier):
    """A checkpoint such as a ViT or ResNet, fine-tuned on images as its image processor makes them, not augmented."""

    columns: ClassVar[tuple[str, ...]] = ("image", "label")
    kind: ClassVar[Literal["images", "texts", "sounds"]] = "images"

    def processor(self, outside: Iterable[str]) -> BaseImageProcessor:
        from hf_mia.models.vision import image_processor

        return image_processor(self.folder(), self.model)

    def processor_key(self, processor: BaseImageProcessor) -> str:
        return str(processor.to_json_string())

    def feed(self, records: Dataset, processor: BaseImageProcessor) -> StreamedImages:
        import torch

        from hf_mia.models.classifying import LabelledImages
        from hf_mia.models.vision import image_channels, image_collate
        from hf_mia.recipes.feeds import StreamedImages

        labels, plain = torch.from_numpy(labels_of(records)), image_collate(processor, self.model)
        collate = LabelledImages(plain.size, plain.resized, plain.resample)
        return StreamedImages(records, labels, collate, image_channels(processor, plain, self.model))

    def load(self, folder: Path) -> Model:
        from hf_mia.models.classifiers import image_classifier

        return image_classifier(folder)


@dataclass(frozen=True, kw_only=True)
class FineTunedTextClassifier(FineTunedClassifier):
    """A checkpoint such as a BERT, or a GPT-2 with a padding token, fine-tuned on texts cut off at its context."""

    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    kind: ClassVar[Literal["images", "texts", "sounds"]] = "texts"

    def processor(self, outside: Iterable[str]) -> PreTrainedTokenizerBase:
        from hf_mia.models.language import saved_tokenizer

        return saved_tokenizer(self.folder(), self.model)

    def processor_key(self, processor: PreTrainedTokenizerBase) -> str:
        from hf_mia.recipes.vocabulary import tokenizer_key

        return tokenizer_key(processor)

    def module(self, names: Sequence[str], processor: PreTrainedTokenizerBase) -> PreTrainedModel:
        found = super().module(names, processor)
        found.config.get_text_config().pad_token_id = self.collate(processor).padding  # some find a text's end by it
        return found

    def feed(self, records: Dataset, processor: PreTrainedTokenizerBase) -> Encoded:
        from hf_mia.recipes.feeds import Encoded

        return Encoded.of_records(records, self.collate(processor))

    def collate(self, processor: PreTrainedTokenizerBase) -> LabelledTexts:
        """How texts reach the checkpoint; ValueError where it has no padding token."""
        from hf_mia.models.classifiers import text_collate

        return text_collate(configuration(self.folder(), self.model), processor, self.model)

    def load(self, folder: Path) -> Model:
        from hf_mia.models.classifiers import text_classifier

        return text_classifier(folder)


@dataclass(frozen=True, kw_only=True)
class FineTunedAudioClassifier(FineTunedClassifier):
    """A checkpoint such as a Wav2Vec2 or AST, fine-tuned on sounds; in a batch, shorter ones end in silence.

    What the checkpoint's configuration says of training holds here too, such as Wav2Vec2's masking in time.
    """

    columns: ClassVar[tuple[str, ...]] = ("audio", "label")
    kind: ClassVar[Literal["images", "texts", "sounds"]] = "sounds"

    def processor(self, outside: Iterable[str]) -> SequenceFeatureExtractor:
        from hf_mia.models.classifiers import sound_extractor

        return sound_extractor(self.folder(), self.model)

    def processor_key(self, processor: SequenceFeatureExtractor) -> str:
        return str(processor.to_json_string())

    def feed(self, records: Dataset, processor: SequenceFeatureExtractor) -> Streamed:
        import torch

        from hf_mia.models.classifying import LabelledSounds
        from hf_mia.recipes.feeds import Streamed

        return Streamed(records, torch.from_numpy(labels_of(records)), LabelledSounds(processor))

    def load(self, folder: Path) -> Model:
        from hf_mia.models.classifiers import audio_classifier

        return audio_classifier(folder)
