"""What a language model said of each word of a text, or of a target, in a form that people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hf_mia.core import Answers, Model
from hf_mia.models.language import TextCollate


@dataclass(frozen=True)
class Word:
    """A word as it stands in the text, or a piece of one where it `begins` none, beside what the model said of it.

    `rank`: how many others the model found likelier, 0 for its first guess; `logprob` in nats. Where the word is not
    `known`, both are of the token that stands for all unknown words.
    """

    text: str
    rank: int
    logprob: float
    begins: bool
    known: bool


def words(model: Model, texts: Sequence[str], answers: Sequence[Answers]) -> list[tuple[Word, ...]]:
    """The words of each text, of pairs the targets, of answers to `Tokens`; nothing where the answers are others, such
    as about images."""
    collate = model.collate
    if not isinstance(collate, TextCollate) or not all(
        {"token", "rank", "logprob", "start"} <= set(a) for a in answers
    ):
        return [()] * len(texts)
    found, given = [], iter(texts)
    for chunk in answers:
        for start, end in pairwise(chunk["rank"].offsets):
            here = slice(start, end)
            pieces = _pieces(collate, next(given), chunk["token"].values[here].tolist())
            columns = (chunk[name].values[here].tolist() for name in ("token", "rank", "logprob", "start"))
            unknown = collate.tokenizer.unk_token_id
            found.append(
                tuple(
                    Word(piece, int(rank), float(logprob), bool(begins), token != unknown)
                    for piece, token, rank, logprob, begins in zip(pieces, *columns, strict=True)
                )
            )
    return found


def _pieces(collate: TextCollate, text: str, tokens: Sequence[int]) -> list[str]:
    """The part of the text that each scored token stands for: the last ones, where the first has nothing before it."""
    tokenizer = collate.tokenizer
    if not tokenizer.is_fast:
        return [str(token) for token in tokenizer.convert_ids_to_tokens(list(tokens))]
    given = {collate.side: text, "add_special_tokens": False, "verbose": False}
    spans = tokenizer(**given, return_offsets_mapping=True)["offset_mapping"]
    return [text[start:end].strip() for start, end in spans[len(spans) - len(tokens) :]]
