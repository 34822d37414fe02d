"""Models by name or folder: a transformers module, loaded when it is asked, and the collate that feeds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast
from zlib import compress

import numpy as np

from hf_mia.collate import Batch, Collate, Item, Values
from hf_mia.core import Model
from hf_mia.models.checkpoints import check_weights, configuration, folder_of, name_of
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.storage.keys import folder_key

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Words = tuple[list[int], list[int]]  # the ids of a text's tokens, and for each 1 where it begins a word
LEVEL = 6  # zlib's own default, fixed: another one would change scores


@dataclass(frozen=True, eq=False)
class TextCollate(Collate):
    """Texts for a causal language model: every token once, given all that stands before it.

    A text opens with the tokenizer's BOS (or EOS) token where it has one, so that its first word is scored too. A text
    longer than `context` tokens is scored in windows that overlap by half: each token once, none without a left
    context. Rows are padded on the right, which a causal model never looks at. A text with nothing to score (one token,
    and no BOS) is a row all the same, of which nothing is scored. Beside its tokens, each row holds `compressed`, the
    bytes of the whole text in UTF-8 once zlib has compressed it.
    """

    tokenizer: PreTrainedTokenizerBase
    context: int | None = None
    columns: ClassVar[tuple[str, ...]] = ("text",)  # the last one holds what is scored
    side: ClassVar[str] = "text"  # by which argument the tokenizer takes what is scored

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        texts = [str(text) for text in records["text"]]
        return [
            item
            for record, (text, words) in enumerate(zip(texts, self.tokens(texts), strict=True))
            for item in self.windows(record, words, compressed(text))
        ]

    def tokens(self, texts: Sequence[str]) -> Iterator[Words]:
        """Each text's token ids, the opening one first, and for each 1 where it begins a word."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        first = self._opening()
        for record, ids in enumerate(encoded["input_ids"]):
            yield first + list(ids), [1] * len(first) + self._starts(encoded, record, len(ids))

    def _opening(self) -> list[int]:
        """What stands before a text's first token, if the tokenizer has such a token."""
        tokens = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return [token for token in tokens if token is not None][:1]

    def _starts(self, encoded: object, record: int, size: int) -> list[int]:
        """1 where a token begins a word; a slow tokenizer cannot tell, and calls every token a word."""
        if not self.tokenizer.is_fast:
            return [1] * size
        words = encoded.word_ids(record)  # type: ignore[attr-defined]
        return [int(i == 0 or word is None or word != words[i - 1]) for i, word in enumerate(words)]

    def windows(
        self, record: int, words: Words, size: int = 0, context: int | None = None, given: int = 1
    ) -> list[Item]:
        """The rows of one text, which is `size` bytes once compressed, of at most `context` tokens each.

        Every token behind the first `given` is scored once, after half a row or all that stands before it.
        """
        (ids, starts), items = words, list[Item]()
        width = context or self.context or max(len(ids), 2)
        done = max(1, given)  # position 0 has nothing before it
        while not items or done < len(ids):
            left = 0 if len(ids) <= width else max(0, done - width // 2)
            right = min(left + width, len(ids))
            scored = [int(done <= i) for i in range(left, right)]
            values = {"input_ids": ids[left:right], "starts": starts[left:right], "scored": scored}
            items.append(Item(record, right - left, {**values, "compressed": size}))
            done = right
        return items

    def pad(self, items: Sequence[Item]) -> Batch:
        import torch

        names = ("input_ids", "starts", "scored")
        batch = {name: filled([item.values[name] for item in items], 0) for name in names}
        mask = filled([[1] * item.size for item in items], 0)
        batch |= {"scored": batch["scored"].to(torch.bool), "attention_mask": mask}
        return batch | {"compressed": torch.tensor([[item.values["compressed"]] for item in items], dtype=torch.int32)}


def compressed(text: str) -> int:
    """The bytes of a text in UTF-8 once compressed by zlib at `LEVEL`, as the published scores count them."""
    return len(compress(text.encode("utf-8", "surrogatepass"), LEVEL))


def filled(rows: Sequence[Values], value: int) -> torch.Tensor:
    """Rows of different lengths as one tensor (rows, length) int64, at least two wide, filled up on the right."""
    import torch

    sizes = [np.size(row) for row in rows]
    array = np.full((len(rows), max(2, *sizes)), value, dtype=np.int64)
    for place, row, size in zip(array, rows, sizes, strict=True):
        place[:size] = row
    return torch.from_numpy(array)


def language_model(source: str | Path, revision: str | None = None, loading: Loading = WHOLE) -> Model:
    """A causal language model from a local folder or the Hub, as the auditor meets it.

    Loads safetensors only and runs no code from the repository. Raises ValueError, with the way out, where `loading`
    takes a package that is not there, or the model has no tokenizer, is an encoder, is an encoder-decoder, has pickled
    weights only, or wants remote code.
    """
    loading.check()
    folder = folder_of(source, revision)
    config = _config(folder, str(source))
    check_weights(folder, str(source))
    collate = TextCollate(saved_tokenizer(folder, str(source)), context(config))
    key = loading.key(folder_key(folder))
    return Model(name_of(source, revision), key, collate, partial(_load, folder, loading))


def blueprint(source: str | Path, revision: str | None = None) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """What a causal language model is before it has weights: configuration and tokenizer. ValueError as above."""
    folder = folder_of(source, revision)
    return _config(folder, str(source)), saved_tokenizer(folder, str(source))


def _load(folder: Path, loading: Loading = WHOLE) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    import hf_mia.architectures.recurrent  # noqa: F401  registers our architecture with the Auto classes

    found = AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, **loading.options()
    )
    return cast("PreTrainedModel", found.eval())


def _config(folder: Path, source: str) -> PretrainedConfig:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    import hf_mia.architectures.recurrent  # noqa: F401  registers our architecture with the Auto classes

    config = configuration(folder, source)
    if config.is_encoder_decoder:
        raise ValueError(
            f"model {source!r} is an encoder-decoder ({config.model_type}), and next-word audits need a "
            "causal language model, such as GPT-2 or Llama."
        )
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise ValueError(
            f"model {source!r} is encoder-only ({config.model_type}): it fills in blanks and predicts no "
            "next word. Name a causal language model, such as GPT-2 or Llama."
        )
    return config


def saved_tokenizer(folder: Path, source: str) -> PreTrainedTokenizerBase:
    """A saved model's tokenizer; ValueError where it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what transformers makes of a folder without files
            raise ValueError("its vocabulary is empty")
        return tokenizer
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"model {source!r} has no tokenizer that transformers can load ({error}). Save the one that "
            "it was trained with beside it: `tokenizer.save_pretrained(folder)`."
        ) from error


def context(config: PretrainedConfig) -> int | None:
    """Positions that the model can take, or None where there is no such limit."""
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
    limits = [config.to_dict().get(name) for name in names]
    return next((int(limit) for limit in limits if isinstance(limit, int) and limit > 1), None)
