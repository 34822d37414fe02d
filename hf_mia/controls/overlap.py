"""How much text both sides share: the more, the less "non-member" means that a model has not seen the words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_mia.controls.twins import ngram_overlap
from hf_mia.core import Booleans, Pool

RUN = 7  # words; Duan et al. 2024
MOST = 20_000  # texts a side that are read: bounds the memory


@dataclass(frozen=True)
class Overlap:
    """Mean share of a side's runs of `n` words that also stand on the other side; None where no text is that long.

    `read`: how many texts of the members and of the non-members were read, at random, of how many (`of`).
    """

    members: float | None
    non_members: float | None
    n: int
    read: tuple[int, int]
    of: tuple[int, int]

    def __str__(self) -> str:
        shares = ("n/a" if share is None else f"{100 * share:.1f} %" for share in (self.members, self.non_members))
        ours, others = shares
        drawn = f" ({self.read[0]:,} and {self.read[1]:,} texts, drawn at random)" if self.read != self.of else ""
        said = f"{ours} of a member's runs of {self.n} words also stand in a non-member's text"
        return f"{said}, and {others} the other way round{drawn}."


def text_overlap(pool: Pool, member: Booleans, columns: Sequence[str], most: int = MOST, seed: int = 0) -> Overlap:
    """The overlap (`ngram_overlap`) of both sides' texts, which stand in some columns of the records.

    At most `most` texts a side are read, of records drawn by the seed, so that a larger share may be found in all.
    member (units,) bool. ValueError where `most` does not allow one record a side.
    """
    if most < len(columns):
        raise ValueError(f"most: must be at least {len(columns)}, the texts of one record, not {most}.")
    rng, inside = np.random.default_rng(seed), np.asarray(member)[pool.unit]
    sides, of = [], []
    for side in (inside, ~inside):
        rows = np.flatnonzero(side)
        drawn = np.sort(rng.choice(rows, min(len(rows), most // len(columns)), replace=False))
        some = pool.records.select(drawn)
        sides.append([str(text) for column in columns for text in some[column]])
        of.append(len(rows) * len(columns))
    ours, others = ngram_overlap(sides[0], sides[1], RUN)
    return Overlap(ours, others, RUN, (len(sides[0]), len(sides[1])), (of[0], of[1]))
