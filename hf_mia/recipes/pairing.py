"""Recipes for pairs: AuditMI's translation and dialogue models, a small Marian, and any encoder-decoder fine-tuned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from hf_mia.core import Model
from hf_mia.models.checkpoints import folder_of
from hf_mia.models.pairs import SOURCE, PairCollate, check_prompt, configured, pair_collate, pair_model
from hf_mia.recipes.language import LanguageRecipe

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from hf_mia.architectures.seq2seq import PairTokenizer
    from hf_mia.recipes.loop import Examples

TOKENS = {
    "eos_token_id": 0,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "bos_token_id": None,
}  # `<eos>` is them all


@dataclass(frozen=True, kw_only=True)
class PairRecipe(LanguageRecipe):
    """Sources and targets, in an order drawn anew in every epoch; the decoder learns each token given those before it.

    `batch` is in pairs. What of a source or a target is beyond `window` tokens is not trained on, which is logged.
    """

    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    window: int = 128

    @abstractmethod
    def collate(self, processor: PreTrainedTokenizerBase) -> PairCollate:
        """What turns the pairs into tokens."""

    def examples(self, records: Dataset, processor: PreTrainedTokenizerBase) -> Examples:
        from hf_mia.recipes.loop import Pairs

        if len(records) == 0:
            raise ValueError("training needs at least one pair, but has none.")
        sources, targets = self.collate(processor).cut(records, self.window)
        return Pairs(sources, targets, processor.pad_token_id or 0)

    def steps(self, records: Dataset, processor: PreTrainedTokenizerBase) -> int:
        return self.epochs * -(-len(records) // self.batch)

    def load(self, folder: Path) -> Model:
        return pair_model(folder)


@dataclass(frozen=True, kw_only=True)
class WordPairs(PairRecipe):
    """A model from nothing over words: the `vocabulary` most frequent of each side, or of both where it is `shared`."""

    vocabulary: int = 5000
    lowercase: bool = True
    shared: bool = False

    def processor(self, outside: Iterable[str]) -> PairTokenizer:
        from hf_mia.recipes.vocabulary import pair_tokenizer

        return pair_tokenizer(outside, self.vocabulary, self.lowercase, self.shared)

    def collate(self, processor: PreTrainedTokenizerBase) -> PairCollate:
        return PairCollate(processor, start=processor.eos_token_id)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from hf_mia.recipes.loop import summed

        return summed(logits, targets)


@dataclass(frozen=True, kw_only=True)
class RecurrentPairs(WordPairs):
    """AuditMI's translation model with the paper's numbers (Song and Shmatikov 2019): an LSTM of 128 units a side.

    With `attention`, additive, on the decoder's output. `tied`: the output layer's weights are the target's embedding.
    The dialogue model is a GRU without attention, tied, and with one vocabulary, and its gradients are not clipped.
    """

    cell: Literal["lstm", "gru"] = "lstm"
    attention: bool = True
    tied: bool = False
    embedding: int = 128
    hidden: int = 128
    dropout: float = 0.5
    epochs: int = 30
    batch: int = 20
    learning_rate: float = 1e-3
    clip: float | None = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tied and (self.attention or self.embedding != self.hidden):
            raise ValueError(
                f"tied needs an output as wide as the embedding, but attention is {self.attention}, embedding "
                f"{self.embedding} and hidden {self.hidden}: set attention to false and the widths equal."
            )

    def module(self, processor: PairTokenizer) -> PreTrainedModel:
        from hf_mia.architectures.seq2seq import Seq2SeqForConditionalGeneration

        return Seq2SeqForConditionalGeneration(self._config(*processor.sizes))

    def _config(self, sources: int, targets: int) -> PretrainedConfig:
        from hf_mia.architectures.seq2seq import Seq2SeqConfig

        sizes = sources, targets, self.embedding, self.hidden, self.dropout
        kinds = self.cell, self.attention, self.shared
        return Seq2SeqConfig(*sizes, *kinds, tie_word_embeddings=self.tied, **TOKENS)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class MarianSmall(WordPairs):
    """A transformer from nothing, as Marian is built (Junczys-Dowmunt et al. 2018), over words: `layers` a side."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    inner: int = 512
    dropout: float = 0.1
    epochs: int = 30
    batch: int = 32
    learning_rate: float = 1e-3
    clip: float | None = 5.0

    def module(self, processor: PairTokenizer) -> PreTrainedModel:
        from transformers import MarianConfig, MarianMTModel

        sources, targets = processor.sizes
        each = ("layers", self.layers), ("attention_heads", self.heads), ("ffn_dim", self.inner)
        sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in each}
        config = MarianConfig(
            vocab_size=sources,
            decoder_vocab_size=targets,
            share_encoder_decoder_embeddings=self.shared,
            d_model=self.width,
            dropout=self.dropout,
            scale_embedding=True,
            use_cache=False,
            **sizes,
            **TOKENS,
        )
        return MarianMTModel(config)


@dataclass(frozen=True, kw_only=True)
class FineTunedPairs(PairRecipe):
    """Any encoder-decoder of transformers, fine-tuned from `model`, a Hub id or a folder, with its own tokenizer.

    `prompt` and the languages as in `hf_mia.models.pairs.pair_model`. The loss is the mean over tokens.
    """

    model: str
    revision: str | None = None
    prompt: str = SOURCE
    source_language: str | None = None
    target_language: str | None = None
    epochs: int = 3
    batch: int = 8
    learning_rate: float = 5e-5
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)

    def key(self) -> str:
        return f"{self!r} from {self._opened(self.model, self.revision).key}"

    def processor(self, outside: Iterable[str]) -> PreTrainedTokenizerBase:
        return self._collate(folder_of(self.model, self.revision)).tokenizer

    def collate(self, processor: PreTrainedTokenizerBase) -> PairCollate:
        return self._collate(folder_of(self.model, self.revision))

    def _collate(self, folder: Path) -> PairCollate:
        config = configured(folder, self.model)
        if not config.is_encoder_decoder:
            raise ValueError(
                f"model {self.model!r} is a causal language model ({config.model_type}), and this recipe fine-tunes "
                "encoder-decoders: name one, such as Marian, T5 or BART."
            )
        found = pair_collate(folder, self.model, config, self.prompt, self.source_language, self.target_language)
        return cast("PairCollate", found)

    def module(self, processor: PreTrainedTokenizerBase) -> PreTrainedModel:
        return cast("PreTrainedModel", self._opened(self.model, self.revision).load())

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from hf_mia.recipes.loop import averaged

        return averaged(logits, targets)

    def weight(self, targets: torch.Tensor) -> float:
        from hf_mia.recipes.loop import counted

        return counted(targets)

    def load(self, folder: Path) -> Model:
        return self._opened(folder)

    def _opened(self, source: str | Path, revision: str | None = None) -> Model:
        return pair_model(source, revision, self.prompt, self.source_language, self.target_language)
