"""Where questions are put and how they are worded: OpenAI's completions and chat, and text generation inference.

An endpoint makes questions, and sends them; each question knows how its reply is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from hf_mia.services.replies import (
    Lacking,
    Reply,
    Scored,
    chatted,
    completed,
    echoed,
    generated,
    mapping,
    next_chatted,
    next_completed,
    next_generated,
    prefilled,
)

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient
    from huggingface_hub.inference._providers import PROVIDER_OR_POLICY_T as Provider

T = TypeVar("T")
NO_KEY = "none"  # said where there is no key: huggingface_hub would send the user's own token to anyone
CONTINUE = "Continue this text. Answer with the continuation alone, in the same style, and nothing else.\n\n"


@dataclass(frozen=True, eq=False)
class Question(Generic[T]):
    """What is sent, as JSON holds it, and how the reply is read; `read` raises `Lacking` or `Unreadable`."""

    parameters: Mapping[str, object]
    read: Callable[[Reply], T]


@dataclass(frozen=True)
class Endpoint(ABC):
    """A model of a service and the words in which it is asked; `ranks` tells whether a prompt's tokens come with the
    likeliest in their place."""

    ranks: ClassVar[bool] = True
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
        from huggingface_hub.utils import (  # type: ignore[attr-defined, unused-ignore]
            get_session,
            hf_raise_for_status,
        )

        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        where = f"{self.url.rstrip('/')}/completions"
        response = get_session().post(where, json=dict(parameters), headers=headers, timeout=timeout)
        hf_raise_for_status(response)
        return mapping(response.json())

    def about(self, text: str, k: int) -> Question[Scored]:
        asked = {"prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": k}  # 0: no end, for some
        return Question({"model": self.model, **asked}, partial(echoed, text))

    def following(self, prefix: str, k: int) -> Question[Mapping[str, float]]:
        asked = {"prompt": prefix, "max_tokens": 1, "temperature": 0, "logprobs": k}
        return Question({"model": self.model, **asked}, next_completed)

    def continuing(self, prompt: str, tokens: int, temperature: float, seed: int) -> Question[str]:
        asked = {"prompt": prompt, "max_tokens": tokens, "temperature": temperature, "seed": seed}
        return Question({"model": self.model, **asked}, completed)


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
        return Question({**self._messages(prefix), **asked}, next_chatted)

    def continuing(self, prompt: str, tokens: int, temperature: float, seed: int) -> Question[str]:
        asked = {"max_tokens": tokens, "temperature": temperature, "seed": seed}
        return Question({**self._messages(prompt), **asked}, chatted)

    def _messages(self, prompt: str) -> dict[str, object]:
        return {"model": self.model, "messages": [{"role": "user", "content": self.instruction + prompt}]}


@dataclass(frozen=True)
class TextGeneration(Endpoint):
    """Hugging Face's text generation: a server of text-generation-inference at `url`, or `model` at a `provider`.

    Prompts' log-probabilities come without the likeliest tokens in their place, so there are no ranks of them.
    """

    ranks: ClassVar[bool] = False
    url: str | None = None
    provider: Provider | None = None

    def __post_init__(self) -> None:
        checked_url(self.url)

    def send(self, parameters: Mapping[str, object], key: SecretStr | None, timeout: float) -> Reply:
        client = _client(self.model, self.url, self.provider, key, timeout)
        return mapping(client.text_generation(**parameters))  # type: ignore[call-overload, unused-ignore]

    def about(self, text: str, k: int) -> Question[Scored]:
        asked = {"prompt": text, "max_new_tokens": 1, "details": True, "decoder_input_details": True}
        return Question(asked, prefilled)

    def following(self, prefix: str, k: int) -> Question[Mapping[str, float]]:
        asked = {"prompt": prefix, "max_new_tokens": 1, "details": True, "top_n_tokens": k}
        return Question(asked, next_generated)

    def continuing(self, prompt: str, tokens: int, temperature: float, seed: int) -> Question[str]:
        heat = {"do_sample": True, "temperature": temperature, "seed": seed} if temperature else {"do_sample": False}
        asked = {"prompt": prompt, "max_new_tokens": tokens, "details": True, **heat}
        return Question(asked, generated)


def _client(
    model: str, url: str | None, provider: Provider | None, key: SecretStr | None, timeout: float
) -> InferenceClient:
    from huggingface_hub import InferenceClient

    secret = NO_KEY if key is None else key.get_secret_value()
    if url is None:
        return InferenceClient(model, provider=provider, api_key=secret, timeout=timeout)
    return InferenceClient(base_url=url, api_key=secret, timeout=timeout)
