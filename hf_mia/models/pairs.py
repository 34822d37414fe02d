"""Models that answer a source with a target: encoder-decoders, and causal language models given a prompt."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from hf_mia.collate import Batch, Item
from hf_mia.core import Model
from hf_mia.models.checkpoints import check_weights, configuration, folder_of, name_of
from hf_mia.models.language import TextCollate, _config, _load, compressed, context, filled, saved_tokenizer
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.storage.keys import content_key, folder_key

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
SOURCE = "{source}"  # what stands for a record's source in a prompt


@dataclass(frozen=True, eq=False)
class PromptCollate(TextCollate):
    """Sources and targets for a causal language model: each token of a target once, given its source.

    A tokenizer with a chat template gets the prompt as the user's turn and the target as the reply; else the prompt and
    the target follow the opening token, each tokenized by itself. Where both are longer than `context`, the target's
    tokens are scored in windows that overlap by half, and the prompt keeps its end.
    """

    prompt: str = SOURCE + "\n"
    columns: ClassVar[tuple[str, ...]] = ("source", "target")

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        sources = [self.prompt.replace(SOURCE, str(source)) for source in records["source"]]
        targets = [str(target) for target in records["target"]]
        encoded = self.tokenizer(targets, add_special_tokens=False, return_attention_mask=False, verbose=False)
        items = []
        for record, (prompt, ids) in enumerate(zip(self._prompts(sources), encoded["input_ids"], strict=True)):
            words = prompt + list(ids), [1] * len(prompt) + self._starts(encoded, record, len(ids))
            items += self.windows(record, words, compressed(targets[record]), given=len(prompt))
        return items

    def _prompts(self, sources: list[str]) -> list[list[int]]:
        """What stands before each target, in tokens."""
        if self.tokenizer.chat_template is None:
            encoded = self.tokenizer(sources, add_special_tokens=False, return_attention_mask=False, verbose=False)
            return [self._opening() + list(ids) for ids in encoded["input_ids"]]
        turns = [[{"role": "user", "content": source}] for source in sources]
        told = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        return [list(ids) for ids in told]


@dataclass(frozen=True, eq=False)
class PairCollate(TextCollate):
    """Sources and targets for an encoder-decoder: each token of a target once, given the source and what stands before.

    The decoder's inputs are the target moved to the right by one token, as the model moves it: behind `start`, or
    behind the last of the target's special tokens where that is None, as in mBART. Special tokens are not scored. A
    target longer than `context` is scored in windows that overlap by half, each given the whole source. A source longer
    than `longest` is cut there, which is logged. Rows are padded on the right, whatever side the tokenizer prefers.
    """

    start: int | None = None
    longest: int | None = None
    prompt: str = SOURCE
    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    side: ClassVar[str] = "text_target"

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        targets = [str(target) for target in records["target"]]
        encoded = self.tokenizer(
            text_target=targets, add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        before, after = self.specials
        opening = [after[-1] if self.start is None else self.start, *before]
        items = []
        for record, (source, ids) in enumerate(zip(self.sources(records), encoded["input_ids"], strict=True)):
            words = opening + list(ids), [1] * len(opening) + self._starts(encoded, record, len(ids))
            windows = self.windows(record, words, compressed(targets[record]), given=len(opening))
            items += [Item(record, one.size + len(source), {**one.values, "source": source}) for one in windows]
        return items

    def sources(self, records: Mapping[str, Sequence[object]]) -> list[list[int]]:
        """Each source in tokens, special ones included, as the encoder takes it."""
        texts = [self.prompt.replace(SOURCE, str(source)) for source in records["source"]]
        found = [list(ids) for ids in self.tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]]
        if long := [i for i, ids in enumerate(found) if self.longest is not None and len(ids) > self.longest]:
            logger.warning(
                "%d of %d sources are longer than %d tokens, and are cut there.", len(long), len(found), self.longest
            )
            cut = self.tokenizer([texts[i] for i in long], truncation=True, max_length=self.longest)
            for i, ids in zip(long, cut["input_ids"], strict=True):
                found[i] = list(ids)
        return found

    def cut(self, records: Dataset, most: int) -> tuple[list[list[int]], list[list[int]]]:
        """The first `most` tokens of sources, and of targets with the opening before them; what is cut is logged."""
        before, after = self.specials
        opening, limits = after[-1] if self.start is None else self.start, (self.longest or most, self.context or most)
        sources, targets = [], []
        for rows in records.select_columns(list(self.columns)).iter(batch_size=4096):
            found = self.tokenizer(text_target=rows["target"], add_special_tokens=False, verbose=False)
            sources += self.sources(rows)
            targets += [[opening, *before, *ids, *after] for ids in found["input_ids"]]
        for name, texts, limit in zip(self.columns, (sources, targets), limits, strict=True):
            if long := [ids for ids in texts if len(ids) > min(most, limit)]:
                logger.warning(
                    "%d of %d %ss are longer than %d tokens, and are trained on up to there.",
                    len(long), len(texts), name, min(most, limit),
                )  # fmt: skip
                for ids in long:
                    del ids[min(most, limit) :]
        return sources, targets

    @cached_property
    def specials(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer puts before and after a target."""
        bare, whole = (
            list(self.tokenizer(text_target="a", add_special_tokens=special)["input_ids"]) for special in (False, True)
        )
        first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[:first], whole[first + len(bare) :]

    def pad(self, items: Sequence[Item]) -> Batch:
        import torch

        sources = [cast("Sequence[int]", item.values["source"]) for item in items]
        rows = {name: filled([i.values[name] for i in items], 0) for name in ("input_ids", "starts", "scored")}
        return {
            "input_ids": filled(sources, self.tokenizer.pad_token_id or 0),
            "attention_mask": filled([[1] * len(source) for source in sources], 0),
            "decoder_input_ids": rows["input_ids"][:, :-1],
            "labels": rows["input_ids"][:, 1:],
            "starts": rows["starts"][:, 1:],
            "scored": rows["scored"][:, 1:].to(torch.bool),
            "compressed": torch.tensor([[item.values["compressed"]] for item in items], dtype=torch.int32),
        }


def pair_model(
    source: str | Path,
    revision: str | None = None,
    prompt: str | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
    loading: Loading = WHOLE,
) -> Model:
    """An encoder-decoder or a causal language model, from a local folder or the Hub, that is asked about targets.

    `prompt` is what it is shown, `{source}` in it the source, such as "translate English to French: {source}"; without
    one, the source alone, and for a causal model without a chat template a line break behind it. The languages are for
    tokenizers that put a code of the language beside a text. Loads safetensors only and runs no code from the
    repository. Raises ValueError, with the way out, as `language_model` does, and where a language is missing, unknown
    or of no use.
    """
    loading.check()
    folder, name = folder_of(source, revision), str(source)
    config = configured(folder, name)
    check_weights(folder, name)
    collate = pair_collate(folder, name, config, prompt, source_language, target_language)
    load = partial(_load_pairs if config.is_encoder_decoder else _load, folder, loading)
    key = content_key([loading.key(folder_key(folder)), prompt or "", source_language or "", target_language or ""])
    return Model(name_of(source, revision), key, collate, load)


def pair_collate(
    folder: Path,
    name: str,
    config: PretrainedConfig,
    prompt: str | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
) -> TextCollate:
    """What feeds a saved model with sources and targets; ValueError as in `pair_model`."""
    tokenizer = saved_tokenizer(folder, name)
    _speak(tokenizer, name, source_language, target_language)
    if not config.is_encoder_decoder:
        return PromptCollate(tokenizer, context(config), prompt or SOURCE + "\n")
    start = None if config.model_type == "mbart" else config.decoder_start_token_id  # which mBART ignores
    if start is None and config.model_type != "mbart":
        raise ValueError(
            f"model {name!r} does not say which token a target begins with: set model.config.decoder_start_token_id "
            "and save it again."
        )
    longest, positions = _limits(config)
    return PairCollate(tokenizer, None if positions is None else positions + 1, start, longest, prompt or SOURCE)


def configured(folder: Path, name: str) -> PretrainedConfig:
    """The configuration of a model that answers texts with texts; ValueError for any other."""
    from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    import hf_mia.architectures.seq2seq  # noqa: F401  registers our architecture with the Auto classes

    config = configuration(folder, name)
    if not config.is_encoder_decoder:
        return _config(folder, name)
    if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"model {name!r} is a {config.model_type}, which does not answer a text with a text: name an "
            "encoder-decoder, such as Marian, T5 or BART, or a causal language model."
        )
    return config


def _limits(config: PretrainedConfig) -> tuple[int | None, int | None]:
    """Positions that the encoder and the decoder take, or None where there is no such limit."""
    known = config.to_dict()
    sides = (known.get(f"max_{side}_position_embeddings") for side in ("encoder", "decoder"))
    encoder, decoder = (int(limit) if isinstance(limit, int) else context(config) for limit in sides)
    return encoder, decoder


def _speak(tokenizer: PreTrainedTokenizerBase, name: str, source: str | None, target: str | None) -> None:
    """Tell a multilingual tokenizer its languages; those saved with it may be but defaults, and are not relied on."""
    if "src_lang" not in inspect.signature(type(tokenizer).__init__).parameters:
        if source or target:
            raise ValueError(
                f"source_language and target_language are for multilingual tokenizers, and model {name!r} has none: "
                "leave them out, or name the languages in the prompt."
            )
        return
    if source is None or target is None:
        raise ValueError(
            f"model {name!r} is multilingual, so data.source_language and data.target_language must name its codes, "
            f"such as {tokenizer.all_special_tokens[-3:]}, but are {source!r} and {target!r}."
        )
    try:
        tokenizer.src_lang, tokenizer.tgt_lang = source, target
        put = [token for ids in (tokenizer("")["input_ids"], tokenizer(text_target="")["input_ids"]) for token in ids]
    except (KeyError, TypeError) as error:
        raise ValueError(f"model {name!r} has no code for {source!r} or {target!r}: {error}") from error
    if tokenizer.unk_token_id in put:
        raise ValueError(f"model {name!r} has no code for {source!r} or {target!r}: codes are as its card names them.")


def _load_pairs(folder: Path, loading: Loading) -> PreTrainedModel:
    from transformers import AutoModelForSeq2SeqLM

    import hf_mia.architectures.seq2seq  # noqa: F401  registers our architecture with the Auto classes

    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, **loading.options()
    )
    model.config.use_cache = False  # nothing is generated
    return cast("PreTrainedModel", model.eval())


def check_prompt(prompt: str | None) -> None:
    """ValueError where a prompt has no place for the source."""
    if prompt is not None and "{source}" not in prompt:
        raise ValueError(f"prompt must hold {{source}}, where the source goes, but is {prompt!r}.")
