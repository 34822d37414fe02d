"""Tiny encoder-decoders of every family, saved as a Hub repository is, and texts that they know the words of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)
from worlds import texts

from hf_mia.architectures.seq2seq import Seq2SeqConfig, Seq2SeqForConditionalGeneration
from hf_mia.recipes.vocabulary import pair_tokenizer, word_tokenizer

TEXTS = [text for user in texts(3, 6, seed=8) for text in user]
SOURCES, TARGETS = TEXTS[:9], TEXTS[9:]
PAIRS = {"source": SOURCES, "target": TARGETS}
SIZES = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
SIZES |= {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "init_std": 0.5, "max_position_embeddings": 40}
ONE = {"eos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 0, "bos_token_id": 0}


def words(template: str = "$A <eos>") -> PreTrainedTokenizerBase:
    tokenizer = word_tokenizer(TEXTS, 60)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<eos>", 0)])
    return tokenizer


def two_sided() -> PreTrainedTokenizerBase:
    """Sources and targets by words of their own: the same word has two numbers."""
    return pair_tokenizer((text for pair in zip(SOURCES, TARGETS, strict=True) for text in pair), 50)


def marian() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = two_sided()
    config = MarianConfig(vocab_size=50, decoder_vocab_size=50, share_encoder_decoder_embeddings=False, **SIZES, **ONE)
    return biased(MarianMTModel(config)), tokenizer


def bart() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = words("<eos> $A <eos>")
    return biased(BartForConditionalGeneration(BartConfig(vocab_size=len(tokenizer), **SIZES, **ONE))), tokenizer


def biased(model: PreTrainedModel) -> PreTrainedModel:
    """With a bias behind the output layer, as trained ones have it."""
    model.final_logits_bias.normal_()
    return model


def t5(tied: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer, sizes = words(), {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    sizes |= {"initializer_factor": 2.0 if tied else 0.5, "tie_word_embeddings": tied, "n_positions": 40}
    return T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ONE)), tokenizer


def mbart() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = specials + [(f"\u2581{word}", -3.0) for word in sorted({w for text in TEXTS for w in text.split()})]
    tokenizer = MBartTokenizer(vocab=vocabulary)
    return biased(MBartForConditionalGeneration(MBartConfig(vocab_size=len(tokenizer), **SIZES))), tokenizer


def recurrent(**changes: object) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    config = Seq2SeqConfig(50, 50, 12, 12, **{**ONE, **changes})  # type: ignore[arg-type]
    return Seq2SeqForConditionalGeneration(config), two_sided()


MAKERS: dict[str, Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]] = {
    "marian": marian,
    "bart": bart,
    "t5": lambda: t5(tied=True),
    "t5-untied": lambda: t5(tied=False),
    "mbart": mbart,
    "lstm": recurrent,
    "gru": lambda: recurrent(cell="gru", attention=False, tie_word_embeddings=True),
}
LANGUAGES = {"mbart": {"source_language": "en_XX", "target_language": "fr_XX"}}


def saved(folder: Path, name: str) -> Path:
    torch.manual_seed(1)
    module, tokenizer = MAKERS[name]()
    if name in ("lstm", "gru"):
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
