"""How to ask what writes: the first part of each text is given, and what is written is set beside the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_mia.collate import Batch
from hf_mia.core import Probe

if TYPE_CHECKING:
    import torch

_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Continuations(Probe):
    """What is written after the first `share` of each text: access to generated text is enough.

    `samples` continuations are drawn at `temperature`, or one of the likeliest words at 0. As many tokens are asked for
    as a third of the rest's bytes, at most `tokens`; a text that cannot be cut is not asked about. Answers `texts`,
    int16: the UTF-8 bytes of the rest of the text, then of each continuation, every one ended by -1. Takes what is
    asked in text: a service, or a local model by `in_text`. Raises ValueError for anything else.
    """

    shows: ClassVar[str] = "what the model writes after the beginning of each text, as text"
    share: float = 0.5
    samples: int = 1
    temperature: float = 0.0
    tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must be above 0 and below 1, the part of a text that is given, not {self.share}.")
        for name in ("samples", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if self.temperature < 0 or (self.temperature == 0 and self.samples > 1):
            raise ValueError(
                f"temperature must be above 0 where {self.samples} samples are drawn, or 0 for the likeliest words "
                f"and one sample, but is {self.temperature}."
            )

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        from hf_mia.probes.respondents import coded, respondent, texts_of

        asked = respondent(module, self)
        halves = [halved(text, self.share) for text in texts_of(batch)]
        known = [(prompt, rest) for prompt, rest in halves if rest]
        tokens = [min(self.tokens, -(-len(rest.encode("utf-8", "surrogatepass")) // 3)) for _, rest in known]
        written = iter(
            asked.continued([prompt for prompt, _ in known], tokens, self.samples, self.temperature, self.seed)
        )
        rows = [[rest, *(next(written) if rest else [""] * self.samples)] for _, rest in halves]
        codes = [np.concatenate([_ended(text) for text in row]) for row in rows]
        whole, sizes = coded(codes), torch.tensor([len(one) for one in codes])
        return {"texts": whole, "scored": torch.arange(whole.shape[1]) < sizes[:, None]}


def halved(text: str, share: float) -> tuple[str, str]:
    """A text's beginning and its rest, cut at the first space after `share` of its characters, or the last before it.

    A text without spaces is cut between characters; one of fewer than two characters has no rest.
    """
    text = text.strip()
    at = round(share * len(text))
    spaces = list(_SPACE.finditer(text))
    if spaces:
        space = next((space for space in spaces if space.start() >= at), spaces[-1])
        return text[: space.start()], text[space.end() :]
    at = min(max(at, 1), len(text) - 1)
    return (text[:at], text[at:]) if len(text) > 1 else (text, "")


def _ended(text: str) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """A text's codes and the -1 that ends it."""
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    return np.append(codes.astype(np.int16), np.int16(-1))
