"""Who is asked in text, as a service is, and how its answers become a probe's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from hf_mia.collate import Batch, Collate, Item


@dataclass(frozen=True, eq=False)
class Told:
    """What is told of one text: numbers of each token told of, all (tokens,), and numbers of the whole."""

    tokens: Mapping[str, npt.NDArray[np.generic]]
    whole: Mapping[str, int]


class Respondent(torch.nn.Module, ABC):
    """What is asked in text and answers in text or numbers: the one place where a service and a local model differ."""

    @abstractmethod
    def tokens(self, texts: Sequence[str]) -> list[Told]:
        """What is known of each text's tokens, by the names of `Tokens`' answers; ValueError where nothing is.

        Where ranks are cut, `shown` tells how many tokens are listed, and stands for any further rank.
        """

    @abstractmethod
    def continued(
        self, prompts: Sequence[str], tokens: Sequence[int], samples: int, temperature: float, seed: int
    ) -> list[list[str]]:
        """`samples` continuations of each prompt of at most `tokens` tokens; at temperature 0, the likeliest words."""


@dataclass(frozen=True, eq=False)
class RawTexts(Collate):
    """Texts as they are, for what is asked in text: `bytes` (rows, length), UTF-8, int16; -1 is padding."""

    columns: ClassVar[tuple[str, ...]] = ("text",)

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        texts = [str(text).encode("utf-8", "surrogatepass") for text in records["text"]]
        return [Item(i, 1, {"bytes": np.frombuffer(text, dtype=np.uint8)}) for i, text in enumerate(texts)]

    def pad(self, items: Sequence[Item]) -> Batch:
        return {"bytes": coded([np.asarray(item.values["bytes"], dtype=np.int16) for item in items])}


def coded(rows: Sequence[npt.NDArray[np.int16]]) -> torch.Tensor:
    """Rows of codes (rows, length), padded by -1."""
    whole = np.full((len(rows), max(map(len, rows), default=0)), -1, dtype=np.int16)
    for row, codes in zip(whole, rows, strict=True):
        row[: len(codes)] = codes
    return torch.from_numpy(whole)


def texts_of(batch: Batch) -> list[str]:
    """The texts of a batch of `RawTexts`."""
    rows = batch["bytes"].cpu().numpy()
    return [row[row >= 0].astype(np.uint8).tobytes().decode("utf-8", "surrogatepass") for row in rows]


def respondent(module: torch.nn.Module, probe: object) -> Respondent:
    """The module, if it can be asked in text; else ValueError."""
    if isinstance(module, Respondent):
        return module
    raise ValueError(
        f"{type(probe).__name__} asks in text, and {type(module).__name__} takes tensors: ask a service, or "
        "`hf_mia.services.spoken.in_text(model)`."
    )


def tabled(told: Sequence[Told]) -> dict[str, torch.Tensor]:
    """What is told of some texts as a probe's answers: numbers of tokens (rows, length), where `scored` tells."""
    sizes = [len(next(iter(one.tokens.values()))) for one in told]
    scored = np.arange(max(2, *sizes)) < np.array(sizes)[:, None]
    answers = {"scored": torch.from_numpy(scored)}
    for name, first in told[0].tokens.items():
        whole = np.zeros(scored.shape, dtype=first.dtype)
        whole[scored] = np.concatenate([one.tokens[name] for one in told])
        answers[name] = torch.from_numpy(whole)
    for name in told[0].whole:
        answers[name] = torch.tensor([[one.whole[name]] for one in told], dtype=torch.int32)
    return answers
