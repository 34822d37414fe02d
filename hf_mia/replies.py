"""Replies of services as their formats document them, as far as they are read; other fields are let be."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, FiniteFloat


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
