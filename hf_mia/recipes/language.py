"""Next-word recipes: the paper's recurrent network from scratch, and any causal language model fine-tuned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import numpy as np

from hf_mia.core import Model
from hf_mia.models.language import blueprint, language_model
from hf_mia.recipes import Progress, Recipe

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hf_mia.recipes.loop import Examples


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(Recipe):
    """Texts in one stream, each ended by EOS, cut into windows whose order is drawn anew in every epoch.

    `window` is in tokens, `batch` in windows. `precision` and `compile` count on a GPU and are ignored on a CPU.
    `together` trains one model on all processes (data parallel) where the default gives each process its own models.
    """

    columns: ClassVar[tuple[str, ...]] = ("text",)
    epochs: int
    batch: int
    window: int
    learning_rate: float
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: float = 0.9
    clip: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    together: bool = False

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 0), ("batch", 1), ("window", 1), ("learning_rate", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, but is {getattr(self, name)}.")

    @abstractmethod
    def module(self, processor: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The model before training."""

    def examples(self, records: Dataset, processor: PreTrainedTokenizerBase) -> Examples:
        """What the model learns from."""
        from hf_mia.recipes.loop import Windows

        return Windows(windows(records, processor, self.window))

    def processor_key(self, processor: PreTrainedTokenizerBase) -> str:
        from hf_mia.recipes.vocabulary import tokenizer_key

        return tokenizer_key(processor)

    def blank(self) -> LanguageRecipe:
        return replace(self, epochs=0)

    @abstractmethod
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of logits (rows, length, V) for the next tokens (rows, length)."""

    def weight(self, targets: torch.Tensor) -> float:
        """What a loss is a mean of: how much a part of a batch counts. Its rows; tokens where the mean is over them."""
        return len(targets)

    def train(
        self,
        records: Dataset,
        processor: PreTrainedTokenizerBase,
        seed: int,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        import torch

        from hf_mia.recipes.checkpoint import writing
        from hf_mia.recipes.loop import fit

        torch.manual_seed(seed)
        module = self.module(processor)
        fit(module, self.examples(records, processor), self, seed, folder, accelerator, progress)
        if accelerator.is_main_process or not self.together:
            module.should_save_on_this_rank = lambda _: True  # transformers saves on rank 0 only; this one is ours
            with writing(folder):
                module.to("cpu").save_pretrained(folder)
                processor.save_pretrained(folder)

    def steps(self, records: Dataset, processor: PreTrainedTokenizerBase) -> int:
        return self.epochs * -(-len(self.examples(records, processor)) // self.batch)

    def time(
        self, records: Dataset, processor: PreTrainedTokenizerBase, folder: Path, accelerator: Accelerator
    ) -> float:
        from hf_mia.recipes.loop import fit

        module, some = self.module(processor), self.examples(records, processor).first(5 * self.batch)
        marks: list[float] = []
        for _ in range(2):  # the first round warms up
            begin = perf_counter()
            fit(module, some, replace(self, epochs=1), 0, folder, accelerator, lambda done, total, note: None)
            marks.append(perf_counter() - begin)
        return marks[-1] / -(-len(some) // self.batch)

    def load(self, folder: Path) -> Model:
        return language_model(folder)


@dataclass(frozen=True, kw_only=True)
class Recurrent(LanguageRecipe):
    """AuditMI's next-word model with the paper's numbers (Song and Shmatikov 2019): one LSTM or GRU of 128 units.

    The loss is summed over time and averaged over the batch, and gradients are clipped at norm 5.
    """

    cell: Literal["lstm", "gru"] = "lstm"
    vocabulary: int = 5000
    lowercase: bool = True
    embedding: int = 256
    hidden: int = 128
    dropout: float = 0.25
    epochs: int = 30
    batch: int = 20
    window: int = 35
    learning_rate: float = 1e-3
    clip: float | None = 5.0

    def processor(self, outside: Iterable[str]) -> PreTrainedTokenizerBase:
        from hf_mia.recipes.vocabulary import word_tokenizer

        return word_tokenizer(outside, self.vocabulary, self.lowercase)

    def module(self, processor: PreTrainedTokenizerBase) -> PreTrainedModel:
        from hf_mia.architectures.recurrent import RecurrentConfig, RecurrentForCausalLM

        return RecurrentForCausalLM(
            RecurrentConfig(
                len(processor),
                self.embedding,
                self.hidden,
                self.dropout,
                self.cell,
                eos_token_id=processor.eos_token_id,
                pad_token_id=processor.pad_token_id,
            )
        )

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from hf_mia.recipes.loop import summed

        return summed(logits, targets)


@dataclass(frozen=True, kw_only=True)
class CausalLM(LanguageRecipe):
    """Any causal language model of transformers, fine-tuned from `model`, a Hub id or a folder, with its own tokenizer.

    The loss is the mean over tokens.
    """

    model: str
    revision: str | None = None
    epochs: int = 3
    batch: int = 8
    window: int = 128
    learning_rate: float = 5e-5
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    clip: float | None = 1.0

    def key(self) -> str:
        return f"{self!r} from {language_model(self.model, self.revision).key}"

    def processor(self, outside: Iterable[str]) -> PreTrainedTokenizerBase:
        return blueprint(self.model, self.revision)[1]

    def module(self, processor: PreTrainedTokenizerBase) -> PreTrainedModel:
        return cast("PreTrainedModel", language_model(self.model, self.revision).load())

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from hf_mia.recipes.loop import averaged

        return averaged(logits, targets)

    def weight(self, targets: torch.Tensor) -> float:
        from hf_mia.recipes.loop import counted

        return counted(targets)


@dataclass(frozen=True, kw_only=True)
class FromConfig(CausalLM):
    """A causal language model trained from nothing: of `model` only the configuration and the tokenizer are used."""

    epochs: int = 30
    learning_rate: float = 3e-4

    def key(self) -> str:
        return f"{self!r} from {blueprint(self.model, self.revision)[0].to_json_string()}"

    def module(self, processor: PreTrainedTokenizerBase) -> PreTrainedModel:
        from transformers import AutoModelForCausalLM

        config, _ = blueprint(self.model, self.revision)
        return cast("PreTrainedModel", AutoModelForCausalLM.from_config(config, trust_remote_code=False))


def windows(records: Dataset, processor: PreTrainedTokenizerBase, window: int) -> torch.Tensor:
    """All texts as one stream, cut into windows (n, window + 1): inputs and, shifted by one, targets."""
    import torch

    if processor.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS token to end each text with: set `tokenizer.eos_token` and save it.")
    stream = torch.from_numpy(np.concatenate(list(_streams(records, processor))))
    if len(stream) <= window:
        raise ValueError(f"training needs more than window = {window} tokens, but the texts have {len(stream)}.")
    return stream.unfold(0, window + 1, window)


def _streams(
    records: Dataset, processor: PreTrainedTokenizerBase
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int32]]]:
    for rows in records.select_columns(["text"]).iter(batch_size=4096):
        encoded = processor(rows["text"], add_special_tokens=False, return_attention_mask=False, verbose=False)
        yield np.concatenate([np.array([*ids, processor.eos_token_id], dtype=np.int32) for ids in encoded["input_ids"]])
