"""Replies of services as their formats document them, as far as they are read; other fields are let be.

What a service does not give at all is `Lacking`; what is malformed or incomplete is a ValueError (pydantic's, or
`Unreadable`), and worth asking again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, FiniteFloat

T = TypeVar("T")
Reply = dict[str, object]


class Lacking(ValueError):
    """A service that does not give what is asked for; asking again would not help."""


class Unreadable(ValueError):
    """A reply that is malformed or incomplete."""


@dataclass(frozen=True)
class Scored:
    """What is told of a prompt's tokens: each one's text, its log-probability (NaN for the first, where there is
    nothing before it), and those of the likeliest tokens in its place, if they are told."""

    pieces: tuple[str, ...]
    logprobs: tuple[float, ...]
    others: tuple[tuple[float, ...], ...] | None


class Usage(BaseModel):
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int = 0


class Entry(BaseModel):
    """A token and its log-probability in nats."""

    token: str
    logprob: FiniteFloat


class Position(BaseModel):
    """The likeliest tokens at one position, in any order."""

    top_logprobs: list[Entry] = []


class Content(BaseModel):
    """Chat's log-probabilities."""

    content: list[Position] | None = None


class Legacy(Content):
    """Completions' log-probabilities; some servers give chat's in their place."""

    tokens: list[str] = []
    token_logprobs: list[FiniteFloat | None] = []
    top_logprobs: list[dict[str, FiniteFloat] | None] | None = None
    text_offset: list[int] = []


class Completion(BaseModel):
    """One completion."""

    text: str
    logprobs: Legacy | None = None


class Completed(BaseModel):
    """What completions answer."""

    choices: list[Completion]


class Message(BaseModel):
    """What the assistant says; nothing, where it says so."""

    content: str | None = None


class ChatChoice(BaseModel):
    """One answer of a chat."""

    message: Message
    logprobs: Content | None = None


class Chatted(BaseModel):
    """What chat completions answer."""

    choices: list[ChatChoice]


class GeneratedToken(BaseModel):
    """A token of text generation; the first of a prompt has no log-probability."""

    text: str
    logprob: FiniteFloat | None = None


class Details(BaseModel):
    """What text generation tells beside the text."""

    prefill: list[GeneratedToken] = []
    top_tokens: list[list[GeneratedToken]] | None = None


class Generated(BaseModel):
    """What text generation answers."""

    generated_text: str
    details: Details | None = None


M = TypeVar("M", bound=BaseModel)


def parsed(kind: type[M], reply: object) -> M:
    """A reply of one kind; pydantic's ValidationError, a ValueError, where it is none."""
    return kind.model_validate(reply)


def usage(reply: Reply) -> Usage | None:
    """The tokens that a reply says were read and written, if it does."""
    told = reply.get("usage")
    return parsed(Usage, told) if told is not None else None


def mapping(reply: object) -> Reply:
    """A reply as plain JSON; `Unreadable` where it is no object."""
    plain = json.loads(json.dumps(reply))
    if isinstance(plain, str):  # what huggingface_hub makes of a reply without details
        return {"generated_text": plain}
    if not isinstance(plain, dict):
        raise Unreadable(f"an object was to come, but a {type(plain).__name__} came")
    return plain


def one(choices: Sequence[T]) -> T:
    """The first of some choices; `Unreadable` where there is none."""
    if not choices:
        raise Unreadable("a choice was to come, and none came")
    return choices[0]


def echoed(text: str, reply: Reply) -> Scored:
    """The prompt's part of an echoed completion: as many tokens as `usage` counts, else those that begin in it."""
    told = one(parsed(Completed, reply).choices).logprobs
    if told is None or not told.token_logprobs or (len(told.token_logprobs) < 2 <= len(text.split())):
        raise Lacking("completions come without the prompt's log-probabilities: set access to 'top-k' or 'text'.")
    counted = usage(reply)
    size = counted.prompt_tokens if counted is not None else sum(at < len(text) for at in told.text_offset)
    tops = None if told.top_logprobs is None else [list((top or {}).values()) for top in told.top_logprobs[:size]]
    came = min(len(told.tokens), len(told.token_logprobs), size if tops is None else len(tops))
    if came < max(size, 1):
        raise Unreadable(f"{size} tokens of the prompt were to come, but {came} came")
    return _scored(told.tokens[:size], told.token_logprobs[:size], tops)


def _scored(pieces: list[str], logprobs: list[float | None], others: list[list[float]] | None) -> Scored:
    numbers = [np.nan if value is None else value for value in logprobs]
    if not np.isfinite(numbers[1:]).all():
        raise Unreadable("a token of the prompt has no log-probability")
    tops = None if others is None else tuple(map(tuple, others))
    return Scored(tuple(pieces), tuple(numbers), tops)


def prefilled(reply: Reply) -> Scored:
    """A prompt's tokens as text generation tells them."""
    details = parsed(Generated, reply).details
    if details is None or not details.prefill:
        raise Lacking("text generation comes without the prompt's tokens: set access to 'top-k' or 'text'.")
    return _scored([token.text for token in details.prefill], [token.logprob for token in details.prefill], None)


def next_completed(reply: Reply) -> Mapping[str, float]:
    """The likeliest next tokens of a completion; some servers list them as chat does."""
    told = one(parsed(Completed, reply).choices).logprobs
    if told is not None and told.content:
        return _listed({entry.token: entry.logprob for entry in told.content[0].top_logprobs})
    return _listed((told.top_logprobs or [None])[0] if told is not None else None)


def next_chatted(reply: Reply) -> Mapping[str, float]:
    """The likeliest next tokens of a chat's answer."""
    told = one(parsed(Chatted, reply).choices).logprobs
    entries: list[Entry] = told.content[0].top_logprobs if told is not None and told.content else []
    return _listed({entry.token: entry.logprob for entry in entries})


def next_generated(reply: Reply) -> Mapping[str, float]:
    """The likeliest next tokens of text generation."""
    details = parsed(Generated, reply).details
    tops = details.top_tokens if details is not None else None
    return _listed({token.text: token.logprob for token in tops[0] if token.logprob is not None} if tops else None)


def _listed(likeliest: Mapping[str, float] | None) -> Mapping[str, float]:
    if not likeliest:
        raise Lacking("replies come without the likeliest tokens: set access to 'text'.")
    return likeliest


def chatted(reply: Reply) -> str:
    """What a chat's answer says."""
    return one(parsed(Chatted, reply).choices).message.content or ""


def completed(reply: Reply) -> str:
    """What a completion says."""
    return one(parsed(Completed, reply).choices).text


def generated(reply: Reply) -> str:
    """What text generation says."""
    return parsed(Generated, reply).generated_text
