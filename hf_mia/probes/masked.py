"""Neighbours of a text that a masked language model proposes, as the neighbourhood attack was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from hf_mia.collate import Collate, Item
from hf_mia.core import Booleans, Integers
from hf_mia.models.checkpoints import check_weights, configuration, folder_of
from hf_mia.models.language import TextCollate, context, saved_tokenizer
from hf_mia.probes.versions import Versions
from hf_mia.storage.keys import folder_key

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BERT = "google-bert/bert-base-cased"
POSITIONS = 4096  # in one pass of the masked language model
SPARE = 4  # candidates of a place beyond those that are wanted: some are the word itself in another case
FLOOR = 2.0**-24  # float32 tells no smaller chance of another word from none
MARKS = ("Ġ", "▁")  # what begins a token that begins a word, in vocabularies that mark beginnings
CONTINUED = "##"  # in those that mark what does not begin one

Candidate = tuple[float, int, int, str]  # the score, negated; the characters from and to; the word that goes there


@dataclass(frozen=True)
class MaskedNeighbours(Versions):
    """Each text, and the `n` neighbours of it, one word replaced in each, that a masked language model likes best.

    `model` is that model's Hub id or folder, safetensors only. Of all places and words, those are taken whose
    p(word) / (1 - p(word that stands there)) is largest (Mattern et al. 2023, with one word replaced). The model
    sees the word under a `dropout` of its embedding (0.7 there), or, with null, the mask in its place. The dropout's
    draws hang on `seed` and the text's tokens alone. Words of one of the model's tokens give way to such words, in the
    case of the first letter; a text without one is its own neighbour, and with fewer neighbours than n they stand
    several times. Texts beyond the model's context are read in pieces. Raises ValueError for n below 1, a dropout
    outside (0, 1), and a model that is no masked language model with a fast tokenizer.
    """

    n: int = 10
    model: str = BERT
    revision: str | None = None
    dropout: float | None = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1 neighbour of a text, but is {self.n}.")
        if self.dropout is not None and not 0 < self.dropout < 1:
            raise ValueError(f"dropout must be in (0, 1), or null for the mask itself, but is {self.dropout}.")

    def through(self, collate: Collate) -> Collate:
        return Versions.through(replace(self), collate)  # a copy, with which the loaded model goes

    def stands_on(self) -> str:
        return folder_key(folder_of(self.model, self.revision))

    @cached_property
    def filler(self) -> Filler:
        """The masked language model, loaded when the first text is asked about."""
        return filler(folder_of(self.model, self.revision), self.model)

    def others(self, texts: Sequence[str], collate: TextCollate) -> Iterator[list[list[Item]]]:
        for record, text in enumerate(texts):
            yield [collate.windows(record, words) for words in collate.tokens(self.neighbours(text))]

    def neighbours(self, text: str) -> list[str]:
        """The n neighbours of a text, the likeliest first."""
        best = sorted(self.filler.candidates(text, self.n + SPARE, self.dropout, self.seed))[: self.n]
        return list(islice(cycle([text[:start] + word + text[end:] for _, start, end, word in best] or [text]), self.n))


@dataclass(frozen=True, eq=False)
class Filler:
    """A masked language model that proposes words; `whole` (V,) says which tokens are words by themselves."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int | None
    whole: Booleans

    def candidates(self, text: str, most: int, dropout: float | None, seed: int) -> Iterator[Candidate]:
        """For every word of the text that is one token, up to `most` words that could stand in its place."""
        cut = {"truncation": True, "max_length": self.context} if self.context else {}
        encoded = self.tokenizer(text, return_overflowing_tokens=True, return_offsets_mapping=True, **cut)
        pieces = encoded["input_ids"]
        counts = Counter(word for i in range(len(pieces)) for word in encoded.word_ids(i))
        for i, ids in enumerate(pieces):
            spans = [_trimmed(text, *span) for span in encoded["offset_mapping"][i]]
            alone = [word is not None and counts[word] == 1 for word in encoded.word_ids(i)]
            places = [p for p, (start, end) in enumerate(spans) if alone[p] and _is_word(text[start:end])]
            for place, scores, tokens in self._scored(np.array(ids, dtype=np.int64), places, most, dropout, seed):
                start, end = spans[place]
                for score, token in zip(scores, tokens, strict=True):
                    word = _cased(self.tokenizer.decode([token]).strip(), text[start:end])
                    if word.casefold() != text[start:end].casefold():
                        yield -score, start, end, word

    def _scored(
        self, ids: Integers, places: Sequence[int], most: int, dropout: float | None, seed: int
    ) -> Iterator[tuple[int, list[float], list[int]]]:
        """Each place with the scores and the tokens of its likeliest words, itself left out."""
        import torch

        rows = max(1, POSITIONS // len(ids))
        for first in range(0, len(places), rows):
            here = list(places[first : first + rows])
            with torch.inference_mode():
                p = self._logits(ids, here, dropout, seed).double().softmax(1)
            own = torch.from_numpy(ids[here]).to(p.device)[:, None]
            scores = p / (1 - p.gather(1, own)).clamp(min=FLOOR)
            barred = torch.from_numpy(~self.whole[: p.shape[1]]).to(p.device)
            scores = scores.masked_fill(barred, -1.0).scatter(1, own, -1.0)
            best, tokens = scores.topk(min(most, scores.shape[1]), dim=1)
            for place, values, names in zip(here, best.tolist(), tokens.tolist(), strict=True):
                kept = sum(value >= 0 for value in values)
                yield place, values[:kept], names[:kept]

    def _logits(self, ids: Integers, places: Sequence[int], dropout: float | None, seed: int) -> torch.Tensor:
        """What the model says (places, V) of each place, whose own word it hardly sees, in one pass."""
        import torch

        device = next(self.module.parameters()).device
        rows, row = torch.from_numpy(np.tile(ids, (len(places), 1))).to(device), torch.arange(len(places))
        mask = torch.ones_like(rows)
        if dropout is None:
            rows[row, list(places)] = self.tokenizer.mask_token_id
            return cast("torch.Tensor", self.module(input_ids=rows, attention_mask=mask).logits[row, list(places)])
        seen = self.module.get_input_embeddings()(rows)
        kept = np.stack([_kept(ids, place, seen.shape[2], dropout, seed) for place in places])
        seen[row, list(places)] *= torch.from_numpy(kept).to(seen) / (1 - dropout)
        return cast("torch.Tensor", self.module(inputs_embeds=seen, attention_mask=mask).logits[row, list(places)])


def filler(folder: Path, source: str) -> Filler:
    """A saved masked language model, on the accelerator if there is one. ValueError, with the way out, for another."""
    import torch
    from transformers import AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = configuration(folder, source)
    check_weights(folder, source)
    tokenizer = saved_tokenizer(folder, source)
    known = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder
    if not known or not tokenizer.is_fast or tokenizer.mask_token_id is None:
        raise ValueError(
            f"model {source!r} ({config.model_type}) should propose words, which takes a masked language model with a "
            f"fast tokenizer and a mask: name one, such as {BERT}."
        )
    module = AutoModelForMaskedLM.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
    limits = [limit for limit in (context(config), tokenizer.model_max_length) if limit is not None and limit < 10**9]
    whole = np.zeros(max(config.vocab_size, len(tokenizer)), dtype=np.bool_)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    whole[: len(tokens)] = _whole(tokens)
    whole[tokenizer.all_special_ids] = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Filler(module.to(device).eval(), tokenizer, min(limits, default=None), whole)


def _whole(tokens: Sequence[str]) -> list[bool]:
    """Which tokens begin a word and hold a letter, by how the vocabulary marks its tokens."""
    marked = any(token.startswith(MARKS) for token in tokens)
    begins = [token.startswith(MARKS) if marked else not token.startswith(CONTINUED) for token in tokens]
    return [start and _is_word(token) for start, token in zip(begins, tokens, strict=True)]


def _is_word(text: str) -> bool:
    return any(letter.isalpha() for letter in text)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's characters without the space that some tokenizers count to it."""
    return end - len(text[start:end].lstrip()), end


def _cased(word: str, like: str) -> str:
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _kept(ids: Integers, place: int, width: int, dropout: float, seed: int) -> Booleans:
    """Which numbers (width,) of a token's embedding are left."""
    digest = blake2b(ids.tobytes(), digest_size=8, key=f"{seed} {place}".encode()).digest()
    return np.asarray(np.random.default_rng(int.from_bytes(digest, "big")).random(width) >= dropout, dtype=np.bool_)
