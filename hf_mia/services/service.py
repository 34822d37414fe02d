"""Models behind an API: a `Model` like any other, that answers what the service shows, or says what it lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from hf_mia.core import Model, Probe
from hf_mia.probes.continuations import Continuations, halved
from hf_mia.probes.respondents import RawTexts, Respondent, Told
from hf_mia.services.calls import Line
from hf_mia.services.endpoints import Endpoint
from hf_mia.services.replies import Scored
from hf_mia.services.terms import Access, Budget, Manners
from hf_mia.storage.keys import content_key

_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")  # in capitals, as keys themselves never are
_MARKS = "Ġ▁ \t\n"  # what stands for a space before a token that begins a word


@dataclass(frozen=True)
class Service:
    """A language model behind an API, and what it shows.

    `access`: `prompt`, log-probabilities of a prompt's tokens, and ranks cut to the `k` likeliest where these are told
    too; `top-k`, the `k` likeliest tokens after a prefix, so ranks of `positions` words of each text, spread evenly,
    one query each; `text`, generated text alone, which the others give as well. `key` is the NAME of the environment
    variable that holds the service's key; the key itself is nowhere else. Another `version` asks anew, where a
    service's model has changed behind its name. ValueError for an unknown access, or numbers below 1.
    """

    endpoint: Endpoint
    access: Access = "text"
    key: str | None = None
    k: int = 5
    positions: int = 8
    version: str = ""
    budget: Budget = field(default=Budget(), repr=False)
    manners: Manners = field(default=Manners(), repr=False)

    def __post_init__(self) -> None:
        known = get_args(Access)
        if self.access not in known:
            near = get_close_matches(str(self.access), known, 1)
            hint = f": did you mean {near[0]!r}" if near else ""
            raise ValueError(f"access must be one of {list(known)}, but is {self.access!r}{hint}.")
        for name in ("k", "positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if self.key is not None and not _NAME.fullmatch(self.key):
            raise ValueError(
                "key must be the name of an environment variable in capitals, such as HF_TOKEN, and not the key itself."
            )
        if self.access == "prompt":
            self.endpoint.about("", self.k)  # says what it lacks

    def silent(self) -> ValueError:
        """What is said where a service that shows text alone is asked for numbers."""
        return ValueError(
            f"{self.endpoint.model} shows text alone, and no log-probability or rank of a token: take an attack on "
            "generated text, such as generation-chrf, or set access to 'prompt' or 'top-k' if it shows more."
        )

    def queries(self, probe: Probe, texts: Sequence[str]) -> int:
        """How many queries the answers of a probe to some texts take: equal texts are asked about once."""
        unique = set(texts)
        if isinstance(probe, Continuations):
            return probe.samples * len({halved(text, probe.share) for text in unique if halved(text, probe.share)[1]})
        if self.access == "prompt":
            return len(unique)
        return len({prefix for text in unique for prefix, _ in cuts(text, self.positions)})


def service_model(service: Service, cache: Path) -> Model:
    """A service as a `Model`: a `Runner` asks it like any other, with replies kept under `cache`/replies.

    All that are asked of it in this process share one rate and one budget.
    """
    key = content_key([repr(service.endpoint), service.access, str(service.k), str(service.positions), service.version])
    words = content_key([repr(service.endpoint), service.version])
    line = Line(service.endpoint, service.key, service.budget, service.manners, cache, words)
    return Model(service.endpoint.model, key, RawTexts(), lambda: Remote(service, line))


class Remote(Respondent):
    """A service as a module without weights."""

    def __init__(self, service: Service, line: Line) -> None:
        super().__init__()
        self.service, self.line = service, line

    def tokens(self, texts: Sequence[str]) -> list[Told]:
        if self.service.access == "text":
            raise self.service.silent()
        return self._scored(texts) if self.service.access == "prompt" else self._ranked(texts)

    def continued(
        self, prompts: Sequence[str], tokens: Sequence[int], samples: int, temperature: float, seed: int
    ) -> list[list[str]]:
        """One query a sample, for not every service draws several at once; the seeds count up from `seed`."""
        ask = self.service.endpoint.continuing
        questions = [
            ask(prompt, most, temperature, seed + i)
            for prompt, most in zip(prompts, tokens, strict=True)
            for i in range(samples)
        ]
        written = self.line.ask(questions)
        return [written[i : i + samples] for i in range(0, len(written), samples)]

    def _scored(self, texts: Sequence[str]) -> list[Told]:
        found = self.line.ask([self.service.endpoint.about(text, self.service.k) for text in texts])
        return [told(text, scored, self.service.k) for text, scored in zip(texts, found, strict=True)]

    def _ranked(self, texts: Sequence[str]) -> list[Told]:
        k, ask = self.service.k, self.service.endpoint.following
        asked = [
            (i, prefix, rest) for i, text in enumerate(texts) for prefix, rest in cuts(text, self.service.positions)
        ]
        listed = self.line.ask([ask(prefix, k) for _, prefix, _ in asked])
        ranks: list[list[int]] = [[] for _ in texts]
        for (i, _, rest), likeliest in zip(asked, listed, strict=True):
            ranks[i].append(place(rest, likeliest, k))
        return [
            Told({"start": np.ones(len(own), dtype=np.int64), "rank": np.array(own, dtype=np.int32)}, {"shown": k})
            for own in ranks
        ]


def told(text: str, scored: Scored, k: int) -> Told:
    """A prompt's tokens as `Tokens` answers: those that have something before them."""
    pieces, first = scored.pieces, int(np.isnan(scored.logprobs[0])) if scored.logprobs else 0
    opened = bool(pieces) and not (pieces[0] and text.startswith(pieces[0]))  # by a token that is none of the text's
    before = ["\n", *(" " if i == 0 and opened else piece for i, piece in enumerate(pieces))]
    begins = [piece[:1] in _MARKS or last[-1:].isspace() for last, piece in zip(before, pieces, strict=False)]
    start, logprob = np.array(begins, dtype=np.int64)[first:], np.array(scored.logprobs, dtype=np.float32)[first:]
    numbers: dict[str, npt.NDArray[np.generic]] = {"start": start, "logprob": logprob}
    if scored.others is None:
        return Told(numbers, {})
    above = [sum(other > own for other in others) for own, others in zip(scored.logprobs, scored.others, strict=True)]
    return Told({**numbers, "rank": np.minimum(above, k).astype(np.int32)[first:]}, {"shown": k})


def cuts(text: str, positions: int) -> list[tuple[str, str]]:
    """A text cut before `positions` of its words but the first, spread evenly, or before all: (prefix, rest) each."""
    words = [match.start() for match in re.finditer(r"(?<=\s)\S", text.strip())]
    chosen = np.unique(np.linspace(0, len(words) - 1, min(positions, len(words))).round().astype(int))
    return [(text.strip()[: words[i]].rstrip(), text.strip()[words[i] :]) for i in chosen]


def place(rest: str, likeliest: Mapping[str, float], k: int) -> int:
    """The rank of the true next token among the likeliest, or `k` where it is not among them.

    It is the longest one that the rest begins with, for what the service's tokens are is not known.
    """
    bare = {token: token.strip(_MARKS) for token in likeliest}
    true = [token for token, letters in bare.items() if letters and rest.startswith(letters)]
    if not true:
        return k
    own = likeliest[max(true, key=lambda token: len(bare[token]))]
    return min(k, sum(other > own for other in likeliest.values()))
