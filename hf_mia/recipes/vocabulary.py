"""A word-level tokenizer: the paper's word list of the V most frequent words, everything else `<unk>`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import cycle
from typing import TYPE_CHECKING

from hf_mia.storage.keys import content_key

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerBase

    from hf_mia.architectures.seq2seq import PairTokenizer

SPECIAL = ("<eos>", "<unk>")
MARKS = {"unk_token": "<unk>", "eos_token": "<eos>", "pad_token": "<eos>", "clean_up_tokenization_spaces": False}


def word_tokenizer(texts: Iterable[str], size: int, lowercase: bool = True) -> PreTrainedTokenizerBase:
    """A fast tokenizer over the `size` most frequent words and punctuation marks of the texts, specials included.

    Ties in frequency are broken alphabetically, so the result does not depend on the order of the texts. It has no BOS
    token: texts follow each other in one stream, each ended by `<eos>`, which so stands before every text.
    """
    from transformers import PreTrainedTokenizerFast

    (counts,) = _counted(texts, lowercase, 1, size)
    return PreTrainedTokenizerFast(tokenizer_object=_words(counts, size, lowercase), **MARKS)


def pair_tokenizer(texts: Iterable[str], size: int, lowercase: bool = True, shared: bool = False) -> PairTokenizer:
    """A tokenizer of sources and targets by the `size` most frequent words of each side, or, if `shared`, of both.

    The texts are sources and targets by turns. Each text is ended by `<eos>`; else as `word_tokenizer`.
    """
    from tokenizers.processors import TemplateProcessing

    from hf_mia.architectures.seq2seq import PairTokenizer

    counts = _counted(texts, lowercase, 2, size)
    sides = [_words(sum(counts, Counter()) if shared else side, size, lowercase) for side in counts]
    for side in sides:
        side.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 0)])
    return PairTokenizer(tokenizer_object=sides[0], target_tokenizer=sides[1].to_str(), **MARKS)


def _counted(texts: Iterable[str], lowercase: bool, turns: int, size: int) -> list[Counter[str]]:
    """How often each word stands in the texts; with several `turns`, in every so many-th of them."""
    if size <= len(SPECIAL):
        raise ValueError(f"vocabulary must be larger than the {len(SPECIAL)} special tokens, but is {size}.")
    normalizer, splitter = _rules(lowercase)
    counts: list[Counter[str]] = [Counter() for _ in range(turns)]
    for text, count in zip(texts, cycle(counts), strict=False):
        count.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    if not all(counts):
        raise ValueError("vocabulary needs texts outside the users in question to count words in, but got none.")
    return counts


def _rules(lowercase: bool) -> tuple[Normalizer, PreTokenizer]:
    """How a text is cleaned, and cut into words and punctuation marks."""
    from tokenizers import normalizers, pre_tokenizers

    cleaned = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    return normalizers.Sequence(cleaned), pre_tokenizers.Whitespace()


def _words(counts: Counter[str], size: int, lowercase: bool) -> Tokenizer:
    """A tokenizer of the `size` most frequent words, specials included."""
    from tokenizers import Tokenizer, models

    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: size - len(SPECIAL)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *frequent])}, "<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _rules(lowercase)
    return tokenizer


def tokenizer_key(processor: PreTrainedTokenizerBase) -> str:
    """The content of a tokenizer: its words, rules and special tokens."""
    vocabulary = json.dumps(sorted(processor.get_vocab().items()))
    rules = processor.backend_tokenizer.to_str() if processor.is_fast else type(processor).__name__
    parts = [vocabulary, rules, json.dumps(processor.special_tokens_map, sort_keys=True, default=str)]
    inner = processor.init_kwargs.get("target_tokenizer")  # a `PairTokenizer`'s other side
    return content_key(parts if inner is None else [*parts, inner])
