"""A word-level tokenizer: the paper's word list of the V most frequent words, everything else `<unk>`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hf_mia.keys import content_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = ("<eos>", "<unk>")


def word_tokenizer(texts: Iterable[str], size: int, lowercase: bool = True) -> PreTrainedTokenizerBase:
    """A fast tokenizer over the `size` most frequent words and punctuation marks of the texts, specials included.

    Ties in frequency are broken alphabetically, so the result does not depend on the order of the texts. It has no BOS
    token: texts follow each other in one stream, each ended by `<eos>`, which so stands before every text.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if size <= len(SPECIAL):
        raise ValueError(f"vocabulary must be larger than the {len(SPECIAL)} special tokens, but is {size}.")
    normalizer = normalizers.Sequence([normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])])
    splitter = pre_tokenizers.Whitespace()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    if not counts:
        raise ValueError("vocabulary needs texts outside the users in question to count words in, but got none.")
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: size - len(SPECIAL)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *frequent])}, "<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<eos>",
        pad_token="<eos>",
        clean_up_tokenization_spaces=False,
    )


def tokenizer_key(processor: PreTrainedTokenizerBase) -> str:
    """The content of a tokenizer: its words, rules and special tokens."""
    vocabulary = json.dumps(sorted(processor.get_vocab().items()))
    rules = processor.backend_tokenizer.to_str() if processor.is_fast else type(processor).__name__
    return content_key([vocabulary, rules, json.dumps(processor.special_tokens_map, sort_keys=True, default=str)])
