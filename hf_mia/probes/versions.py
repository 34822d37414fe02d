"""How to ask a causal language model about a text beside other versions of it: reworded, or after other texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_mia.collate import Batch, Collate, Item
from hf_mia.core import Integers, Probe
from hf_mia.models.language import TextCollate
from hf_mia.probes.tokens import Tokens

if TYPE_CHECKING:
    import torch

# Known non-members: written for this file, so that no model that is older has seen them.
UNSEEN = (
    "The ferry to the northern island left an hour late because a family of otters had moved into the lifeboat.",
    "Mrs Adeyemi-Thornquist keeps a ledger of every umbrella that strangers have left in her bakery since March.",
    "Between two readings, the barometer in the reading room fell so far that the librarian sent everybody home.",
    "A beginner should tune the third string first, then hum, and only then look for the screw that has rolled away.",
    "Our cooperative repairs bicycles on Tuesdays, kettles on Thursdays, and, when asked politely, cuckoo clocks.",
)


@dataclass(frozen=True)
class Versions(Probe):
    """How likely a causal language model finds each text and other versions of it, all asked in one pass.

    Answers, each (rows, 1), a row being a window of one version: `version` (int64; 0 is the text itself), `logprob`
    (float32, nats, summed over the window's scored tokens) and `tokens` (int64, their number). What the other versions
    are is the one method to write. Raises ValueError for a model that is no causal language model.
    """

    shows: ClassVar[str] = "the log-probability of any text that is sent, token by token"

    @abstractmethod
    def others(self, texts: Sequence[str], collate: TextCollate) -> Iterator[list[list[Item]]]:
        """For each text, the rows of its version 1, of its version 2, and so on."""

    def through(self, collate: Collate) -> Collate:
        if not isinstance(collate, TextCollate):
            raise ValueError(
                f"{self} asks about versions of texts, and the model takes its records by {type(collate).__name__}: "
                "name a causal language model."
            )
        return Versioned(self, collate)

    def stands_on(self) -> str:
        """The content key of the model that makes the other versions; "" where none does."""
        return ""

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        logprob = Tokens().observe(module, batch)["logprob"]  # 0 where nothing is scored
        return {
            "version": batch["version"],
            "logprob": logprob.sum(1, keepdim=True),
            "tokens": batch["scored"][:, 1:].sum(1, keepdim=True),
        }


@dataclass(frozen=True, eq=False)
class Versioned(Collate):
    """The rows of each text as `inner` makes them, then those of the probe's other versions of it."""

    columns: ClassVar[tuple[str, ...]] = TextCollate.columns
    probe: Versions
    inner: TextCollate

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        texts = [str(text) for text in records["text"]]
        pairs = zip(self.inner.tokens(texts), self.probe.others(texts, self.inner), strict=True)
        return [
            replace(row, values={**row.values, "version": version})
            for record, (words, others) in enumerate(pairs)
            for version, rows in enumerate([self.inner.windows(record, words), *others])
            for row in rows
        ]

    def stands_on(self) -> str:
        return self.probe.stands_on()

    def pad(self, items: Sequence[Item]) -> Batch:
        import torch

        return {**self.inner.pad(items), "version": torch.tensor([[item.values["version"]] for item in items])}


@dataclass(frozen=True)
class Lowercase(Versions):
    """Each text, and the same text in lower case (Carlini et al. 2021)."""

    def others(self, texts: Sequence[str], collate: TextCollate) -> Iterator[list[list[Item]]]:
        for record, words in enumerate(collate.tokens([text.lower() for text in texts])):
            yield [collate.windows(record, words)]


@dataclass(frozen=True)
class Neighbours(Versions):
    """Each text, and `n` neighbours of it in which a `share` of the tokens (at least one) is swapped for others.

    A token gives way to a random one of like frequency: of half to twice its place among the ordinary ids, in which
    vocabularies stand by frequency (word lists) or by merge (BPE), and so about by frequency. Special tokens stay. The
    draws hang on `seed` and the text's tokens alone. Mattern et al. 2023 draw neighbours from a masked language model,
    as `masked.MaskedNeighbours` does; this way needs none. ValueError for n below 1, a share outside (0, 1].
    """

    n: int = 10
    share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1 neighbour of a text, but is {self.n}.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], such as 0.1 for a tenth of the tokens, but is {self.share}.")

    def others(self, texts: Sequence[str], collate: TextCollate) -> Iterator[list[list[Item]]]:
        special = set(collate.tokenizer.all_special_ids)
        ordinary = np.array(sorted(set(collate.tokenizer.get_vocab().values()) - special), dtype=np.int64)
        for record, (ids, starts) in enumerate(collate.tokens(texts)):
            near = self.drawn(np.array(ids, dtype=np.int64), ordinary).tolist()
            yield [collate.windows(record, (row, starts)) for row in near]

    def drawn(self, ids: Integers, ordinary: Integers) -> Integers:
        """Neighbours (n, length) of a text's token ids (length,), given all ordinary ids in ascending order."""
        near = np.tile(ids, (self.n, 1))
        where = np.flatnonzero(np.isin(ids, ordinary))
        if len(where) == 0 or len(ordinary) < 2:
            return near
        digest = blake2b(ids.tobytes(), digest_size=16, key=str(self.seed).encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "big"))
        count = max(1, round(self.share * len(where)))
        chosen = where[np.argsort(rng.random((self.n, len(where))), axis=1)[:, :count]]
        place = np.searchsorted(ordinary, ids[chosen])
        low, high = place // 2, np.minimum(2 * place + 1, len(ordinary) - 1)
        new = low + (rng.random(place.shape) * (high - low)).astype(np.int64)
        np.put_along_axis(near, chosen, ordinary[new + (new >= place)], axis=1)  # never the token itself
        return near


@dataclass(frozen=True)
class Prefixed(Versions):
    """Each text, and the same text after `prefix`, texts that the model is known not to have seen (Xie et al. 2024).

    Each text of the prefix stands as a text does, its opening token first. The prefix fills at most half of the model's
    context, and what is too long is cut from its left; a text too long for the rest is scored in windows, each after
    the prefix. Raises ValueError for an empty prefix.
    """

    prefix: tuple[str, ...] = UNSEEN

    def __post_init__(self) -> None:
        if not any(text.strip() for text in self.prefix):
            raise ValueError(f"prefix must hold texts that the model has never seen, but is {self.prefix}.")

    def others(self, texts: Sequence[str], collate: TextCollate) -> Iterator[list[list[Item]]]:
        before = list(chain.from_iterable(ids for ids, _ in collate.tokens(self.prefix)))
        context = collate.context
        if context is not None:
            before = before[len(before) - min(len(before), context // 2, context - 2) :]
            context -= len(before)
        for record, words in enumerate(collate.tokens(texts)):
            yield [[_after(before, row) for row in collate.windows(record, words, context=context)]]


def _after(before: list[int], row: Item) -> Item:
    """A row with other tokens before it, of which none is scored."""
    nothing = [0] * len(before)
    given = {"input_ids": before, "starts": nothing, "scored": nothing}
    longer = {name: [*front, *row.values[name]] for name, front in given.items()}  # type: ignore[misc]
    return replace(row, size=row.size + len(before), values={**row.values, **longer})
