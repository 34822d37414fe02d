"""AuditMI's models of pairs as `PreTrainedModel`s: a recurrent encoder and decoder, with or without attention.

Song and Shmatikov, KDD 2019. Importing this module registers them, and their tokenizer of two vocabularies, with
transformers' Auto classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import Seq2SeqLMOutput, Seq2SeqModelOutput

from hf_mia.architectures.recurrent import CELLS, RecurrentPreTrainedModel

SCORES = 2**22  # numbers of an attention that exist at once, in training and out of it


class Seq2SeqConfig(PretrainedConfig):  # type: ignore[misc, unused-ignore]
    """The sizes of a recurrent encoder-decoder; `shared` is one embedding for both sides, of one vocabulary."""

    model_type = "hf_mia_seq2seq"

    def __init__(
        self,
        source_vocab_size: int = 5000,
        vocab_size: int = 5000,
        embedding_size: int = 128,
        hidden_size: int = 128,
        dropout: float = 0.5,
        cell: str = "lstm",
        attention: bool = True,
        shared: bool = False,
        **kwargs: object,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {sorted(CELLS)}, but is {cell!r}.")
        kwargs.setdefault("tie_word_embeddings", False)
        if shared and source_vocab_size != vocab_size:
            raise ValueError(f"shared needs one vocabulary, but the sides have {source_vocab_size} and {vocab_size}.")
        self.source_vocab_size = source_vocab_size
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.cell = cell
        self.attention = attention
        self.shared = shared
        kwargs["is_encoder_decoder"] = True
        super().__init__(**kwargs)  # type: ignore[arg-type]


class Additive(nn.Module):
    """Additive attention (Bahdanau et al. 2015): v . tanh(W s + U h) says how much a state looks at an encoded word."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, states: torch.Tensor, encoded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What states (rows, T, size) see of the encoded (rows, S, size) where the mask (rows, S) is 1."""
        queries, keys = self.query(states), self.key(encoded)[:, None]
        steps = max(1, SCORES // keys.numel())
        seen = []
        for some in torch.split(queries, steps, dim=1):
            scores = self.score(torch.tanh(some[:, :, None] + keys))[..., 0]
            weights = scores.masked_fill(mask[:, None] == 0, -torch.inf).softmax(-1)
            seen.append(weights @ encoded)
        return torch.cat(seen, dim=1)


class Seq2SeqPreTrainedModel(RecurrentPreTrainedModel):
    """What both recurrent encoder-decoders share: weights begin as the next-word model's."""

    config_class = Seq2SeqConfig


class Seq2SeqModel(Seq2SeqPreTrainedModel):
    """Source ids (rows, S) and the decoder's inputs (rows, T) to states (rows, T, width); width is twice the hidden
    size with attention, which stands on the decoder's output and beside it."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        own = None if config.shared else nn.Embedding(config.source_vocab_size, config.embedding_size)
        self.source_embedding = own
        self.dropout = nn.Dropout(config.dropout)
        kind, sizes = CELLS[config.cell], (config.embedding_size, config.hidden_size)
        self.reader, self.writer = kind(*sizes, batch_first=True), kind(*sizes, batch_first=True)
        self.attention = Additive(config.hidden_size) if config.attention else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embedding = value

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
    ) -> Seq2SeqModelOutput:
        """Padding of sources may stand on either side, where the `attention_mask` is 0; of targets on the right."""
        if decoder_input_ids is None:
            raise ValueError("decoder_input_ids must hold the target moved to the right by one token, but is None.")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if not mask[:, 0].all():
            order = mask.argsort(dim=1, descending=True, stable=True)  # padding to the right
            input_ids, mask = input_ids.gather(1, order), mask.gather(1, order)
        embedded = self.dropout((self.source_embedding or self.embedding)(input_ids))
        packed = pack_padded_sequence(embedded, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        read, state = self.reader(packed)
        written, _ = self.writer(self.dropout(self.embedding(decoder_input_ids)), state)
        if self.attention is not None:
            encoded, _ = pad_packed_sequence(read, batch_first=True, total_length=input_ids.shape[1])
            written = torch.cat([written, self.attention(written, encoded, mask)], dim=-1)
        return Seq2SeqModelOutput(last_hidden_state=self.dropout(written))


class Seq2SeqForConditionalGeneration(Seq2SeqPreTrainedModel):
    """Source ids (rows, S) and the decoder's inputs (rows, T) to the next words' logits (rows, T, vocab_size)."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "lm_head.weight": "model.embedding.weight"
    }  # where config.tie_word_embeddings

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__(config)
        self.model = Seq2SeqModel(config)
        self.lm_head = nn.Linear(config.hidden_size * (2 if config.attention else 1), config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
    ) -> Seq2SeqLMOutput:
        states = self.model(input_ids, attention_mask, decoder_input_ids).last_hidden_state
        return Seq2SeqLMOutput(logits=self.lm_head(states))


class PairTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc, unused-ignore]
    """A word tokenizer for sources that has another one inside, `target_tokenizer` as JSON, for `text_target`."""

    _sides: tuple[Tokenizer, Tokenizer] | None = None

    @property
    def sides(self) -> tuple[Tokenizer, Tokenizer]:
        """The tokenizers of sources and of targets."""
        if self._sides is None:
            self._sides = self._tokenizer, Tokenizer.from_str(self.init_kwargs["target_tokenizer"])
        return self._sides

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of words of sources and of targets."""
        source, target = (side.get_vocab_size() for side in self.sides)
        return source, target

    def _switch_to_input_mode(self) -> None:
        self._tokenizer = self.sides[0]

    def _switch_to_target_mode(self) -> None:
        self._tokenizer = self.sides[1]


AutoConfig.register("hf_mia_seq2seq", Seq2SeqConfig, exist_ok=True)
AutoModel.register(Seq2SeqConfig, Seq2SeqModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(Seq2SeqConfig, Seq2SeqForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(Seq2SeqConfig, fast_tokenizer_class=PairTokenizer, exist_ok=True)
