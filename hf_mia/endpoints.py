"""Where questions are put and how they are worded: OpenAI's completions and chat, and text generation inference.

An endpoint makes questions, sends them, and reads what comes back, checked against the documented format. What a
service does not give at all is `Lacking`; what is malformed or incomplete is `Unreadable`, and worth asking again.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import SecretStr

from hf_mia.replies import Chatted, Completed, Entry, Generated, Usage, parsed

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient
    from huggingface_hub.inference._providers import PROVIDER_OR_POLICY_T as Provider

T = TypeVar("T")
Reply = dict[str, object]
NO_KEY = "none"  # said where there is no key: huggingface_hub would send the user's own token to anyone
CONTINUE = "Continue this text. Answer with the continuation alone, in the same style, and nothing else.\n\n"


class Lacking(ValueError):
    """A service that does not give what is asked for; asking again would not help."""


class Unreadable(ValueError):
    """A reply that is malformed or incomplete."""


@dataclass(frozen=True, eq=False)
class Question(Generic[T]):
    """What is sent, as JSON holds it, and how the reply is read; `read` raises `Lacking` or `Unreadable`."""

    parameters: Mapping[str, object]
    read: Callable[[Reply], T]


@dataclass(frozen=True)
class Scored:
    """What is told of a prompt's tokens: each one's text, its log-probability (NaN for the first, where there is
    nothing before it), and those of the likeliest tokens in its place, if they are told."""

    pieces: tuple[str, ...]
    logprobs: tuple[float, ...]
    others: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class Endpoint(ABC):
    """A model of a service and the words in which it is asked."""

    model: str

    @abstractmethod
    def send(self, parameters: Mapping[str, object], key: SecretStr | None, timeout: float) -> Reply:
        """One request; raises what huggingface_hub and its transport raise."""

    @abstractmethod
    def about(self, text: str, k: int) -> Question[Scored]:
        """How likely each token of a text is, and the `k` likeliest in its place."""

    @abstractmethod
    def following(self, prefix: str, k: int) -> Question[Mapping[str, float]]:
        """The `k` likeliest tokens after a prefix, with their log-probabilities."""

    @abstractmethod
    def continuing(self, prompt: str, tokens: int, temperature: float, seed: int) -> Question[str]:
        """What is written after a prompt."""


def checked_url(url: str | None) -> None:
    """ValueError for what is no web address, or carries a secret."""
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must begin with http:// or https:// and name a host, but is {url!r}.")
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "url must not carry a name, a password or a query, which would be written to the cache's facts: put the "
            "key in an environment variable and give its name as `key`."
        )


@dataclass(frozen=True)
class Completions(Endpoint):
    """OpenAI's completions, `url`/completions: raw prompts, log-probabilities of prompts by `echo`."""

    url: str

    def __post_init__(self) -> None:
        checked_url(self.url)

    def send(self, parameters: Mapping[str, object], key: SecretStr | None, timeout: float) -> Reply:
        from huggingface_hub.utils import get_session, hf_raise_for_status

        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        where = f"{self.url.rstrip('/')}/completions"
        response = get_session().post(where, json=dict(parameters), headers=headers, timeout=timeout)
        hf_raise_for_status(response)
        return mapping(response.json())

    def about(self, text: str, k: int) -> Question[Scored]:
        asked = {"prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": k}  # 0: no end, for some
        return Question({"model": self.model, **asked}, partial(_echoed, text, k))

    def following(self, prefix: str, k: int) -> Question[Mapping[str, float]]:
        asked = {"prompt": prefix, "max_tokens": 1, "temperature": 0, "logprobs": k}
        return Question({"model": self.model, **asked}, _next_completed)

    def continuing(self, prompt: str, tokens: int, temperature: float, seed: int) -> Question[str]:
        asked = {"prompt": prompt, "max_tokens": tokens, "temperature": temperature, "seed": seed}
        return Question({"model": self.model, **asked}, lambda reply: one(parsed(Completed, reply).choices).text)


@dataclass(frozen=True)
class Chat(Endpoint):
    """Chat completions of any OpenAI-compatible `url`, or of a `provider` that huggingface_hub knows.

    The prompt stands in a user's message after an instruction, for there is no other way to have a text continued.
    """

    url: str | None = None
    provider: Provider | None = None
    instruction: str = CONTINUE

    def __post_init__(self) -> None:
        checked_url(self.url)

    def send(self, parameters: Mapping[str, object], key: SecretStr | None, timeout: float) -> Reply:
        client = _client(self.model, self.url, self.provider, key, timeout)
        return mapping(client.chat_completion(**parameters))  # type: ignore[call-overload, unused-ignore]

    def about(self, text: str, k: int) -> Question[Scored]:
        raise Lacking("chat tells nothing of a prompt's tokens: set access to 'top-k' or 'text'.")

    def following(self, prefix: str, k: int) -> Question[Mapping[str, float]]:
        asked = {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": k}
        return Question({**self._messages(prefix), **asked}, _next_chatted)

    def continuing(self, prompt: str, tokens: int, temperature: float, seed: int) -> Question[str]:
        asked = {"max_tokens": tokens, "temperature": temperature, "seed": seed}
        return Question({**self._messages(prompt), **asked}, _chatted)

    def _messages(self, prompt: str) -> dict[str, object]:
        return {"model": self.model, "messages": [{"role": "user", "content": self.instruction + prompt}]}


@dataclass(frozen=True)
class TextGeneration(Endpoint):
    """Hugging Face's text generation: a server of text-generation-inference at `url`, or `model` at a `provider`.

    Prompts' log-probabilities come without the likeliest tokens in their place, so there are no ranks of them.
    """

    url: str | None = None
    provider: Provider | None = None

    def __post_init__(self) -> None:
        checked_url(self.url)

    def send(self, parameters: Mapping[str, object], key: SecretStr | None, timeout: float) -> Reply:
        client = _client(self.model, self.url, self.provider, key, timeout)
        return mapping(client.text_generation(**parameters))  # type: ignore[call-overload, unused-ignore]

    def about(self, text: str, k: int) -> Question[Scored]:
        asked = {"prompt": text, "max_new_tokens": 1, "details": True, "decoder_input_details": True}
        return Question(asked, _prefilled)

    def following(self, prefix: str, k: int) -> Question[Mapping[str, float]]:
        asked = {"prompt": prefix, "max_new_tokens": 1, "details": True, "top_n_tokens": k}
        return Question(asked, _next_generated)

    def continuing(self, prompt: str, tokens: int, temperature: float, seed: int) -> Question[str]:
        heat = {"do_sample": True, "temperature": temperature, "seed": seed} if temperature else {"do_sample": False}
        asked = {"prompt": prompt, "max_new_tokens": tokens, "details": True, **heat}
        return Question(asked, lambda reply: parsed(Generated, reply).generated_text)


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
    if not choices:
        raise Unreadable("a choice was to come, and none came")
    return choices[0]


def _client(
    model: str, url: str | None, provider: Provider | None, key: SecretStr | None, timeout: float
) -> InferenceClient:
    from huggingface_hub import InferenceClient

    secret = NO_KEY if key is None else key.get_secret_value()
    if url is None:
        return InferenceClient(model, provider=provider, api_key=secret, timeout=timeout)
    return InferenceClient(base_url=url, api_key=secret, timeout=timeout)


def _echoed(text: str, k: int, reply: Reply) -> Scored:
    """The prompt's part of an echoed completion: as many tokens as `usage` counts, else those that begin in it."""
    told = one(parsed(Completed, reply).choices).logprobs
    if told is None or not told.token_logprobs or (len(told.token_logprobs) < 2 <= len(text.split())):
        raise Lacking("completions come without the prompt's log-probabilities: set access to 'top-k' or 'text'.")
    counted = usage(reply)
    size = counted.prompt_tokens if counted is not None else sum(at < len(text) for at in told.text_offset)
    pieces, logprobs, tops = (part[:size] for part in (told.tokens, told.token_logprobs, told.top_logprobs or []))
    if min(size, len(pieces), len(logprobs)) < max(size, 1) or (told.top_logprobs is not None and len(tops) < size):
        raise Unreadable(f"{size} tokens of the prompt were to come, but {min(len(pieces), len(logprobs))} came")
    return _scored(pieces, logprobs, [list((top or {}).values()) for top in tops] if tops else None)


def _scored(pieces: list[str], logprobs: list[float | None], others: list[list[float]] | None) -> Scored:
    numbers = [np.nan if value is None else value for value in logprobs]
    if not np.isfinite(numbers[1:]).all():
        raise Unreadable("a token of the prompt has no log-probability")
    tops = None if others is None else tuple(map(tuple, others))
    return Scored(tuple(pieces), tuple(numbers), tops)


def _prefilled(reply: Reply) -> Scored:
    details = parsed(Generated, reply).details
    if details is None or not details.prefill:
        raise Lacking("text generation comes without the prompt's tokens: set access to 'top-k' or 'text'.")
    return _scored([token.text for token in details.prefill], [token.logprob for token in details.prefill], None)


def _next_completed(reply: Reply) -> Mapping[str, float]:
    told = one(parsed(Completed, reply).choices).logprobs
    if told is not None and told.content:
        return _listed({entry.token: entry.logprob for entry in told.content[0].top_logprobs})
    return _listed((told.top_logprobs or [None])[0] if told is not None else None)


def _next_chatted(reply: Reply) -> Mapping[str, float]:
    told = one(parsed(Chatted, reply).choices).logprobs
    entries: list[Entry] = told.content[0].top_logprobs if told is not None and told.content else []
    return _listed({entry.token: entry.logprob for entry in entries})


def _next_generated(reply: Reply) -> Mapping[str, float]:
    details = parsed(Generated, reply).details
    tops = details.top_tokens if details is not None else None
    return _listed({token.text: token.logprob for token in tops[0] if token.logprob is not None} if tops else None)


def _listed(likeliest: Mapping[str, float] | None) -> Mapping[str, float]:
    if not likeliest:
        raise Lacking("replies come without the likeliest tokens: set access to 'text'.")
    return likeliest


def _chatted(reply: Reply) -> str:
    return one(parsed(Chatted, reply).choices).message.content or ""
