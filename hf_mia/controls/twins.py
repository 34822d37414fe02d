"""Near-duplicates across the sides: a member whose twin is a non-member cannot be told from it, whatever the model.

Twins blur the truth: a model may know a "non-member" by heart, and an attack that says so counts as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hf_mia.core import Booleans, Floats, Integers
from hf_mia.models.pixels import THUMBNAIL
from hf_mia.reports.estimates import checked

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Hashes = npt.NDArray[np.uint64]

WORDS = 3  # in a run of words that two texts may share: one changed word of twelve still leaves half of them
ALIKE = 0.5  # Jaccard index of their runs from which on texts are near-equal
NEAR, CONTRAST = 16 / 255, 1 / 3  # of thumbnails: the largest difference, and its largest share of the contrast
SHOWN = 5  # example pairs
_WORD = re.compile(r"\w+")
_WORK = 5_000_000  # pairs of texts at a time: bounds the memory, does not change the result
_COMPARED = 50_000  # of them that are compared in full at a time


@dataclass(frozen=True)
class Twins:
    """How many of the members have an equal non-member (`exact`), or a near-equal or equal one (`near`), of how many.

    `examples`: the names of a member and of its twin, at most 5 pairs, equal ones first.
    """

    exact: int
    near: int
    of: int
    examples: tuple[tuple[str, str], ...] = ()


def text_twins(texts: Sequence[str], member: Booleans, names: Sequence[str]) -> Twins:
    """Members whose text is also a non-member's, to the letter or nearly; one text a unit.

    Near-equal texts share at least half of the runs of 3 words that stand in either (Jaccard index), without regard to
    case, punctuation and how often; texts of 1 or 2 words are one run. All pairs count, none is sampled; memory grows
    with the words, not with the pairs. texts, member (bool) and names (units,). ValueError for other lengths.
    """
    ours, others = _sides(member, len(texts), names)
    first = _first(texts, others)
    equal = [(i, first[texts[i]]) for i in ours if texts[i] in first]
    rest: dict[str, list[int]] = {}
    for i in ours:
        if texts[i] not in first:
            rest.setdefault(texts[i], []).append(i)
    mine, theirs = list(rest), list(first)
    grams = _grams(_numbered([*mine, *theirs]), WORDS)
    place = _first_alike(grams[: len(mine)], grams[len(mine) :], ALIKE)
    near = [(i, first[theirs[p]]) for text, p in zip(mine, place, strict=True) if p < len(theirs) for i in rest[text]]
    return _found(equal, sorted(near), len(ours), names)


def image_twins(looks: Floats, digests: Sequence[str], member: Booleans, names: Sequence[str]) -> Twins:
    """Members whose image is also a non-member's, pixel by pixel or nearly; one image a unit.

    Near-equal images have 8x8 thumbnails, the first 192 numbers of `pixels.looks` (units, f), that differ in root mean
    square by at most 16 of 255, and by at most a third of the member's own contrast, its deviation from its mean
    colour, so that two clear skies are no twins. That takes in the same picture at another size, quality or tint, and a
    few of the same make; not mirrored or cropped ones. `digests` are those of `pixels.pixel_digests`. member (bool) and
    names (units,). ValueError for other lengths.
    """
    from sklearn.metrics import pairwise_distances_argmin

    ours, others = _sides(member, len(digests), names)
    if len(looks) != len(digests):
        raise ValueError(f"looks: must be a row for each of {len(digests)} units, but are {len(looks)}: give all.")
    first = _first(digests, others)
    equal = [(i, first[digests[i]]) for i in ours if digests[i] in first]
    small = np.asarray(looks[:, : 3 * THUMBNAIL**2], dtype=np.float64)
    mine, theirs = small[ours], small[others]
    place = pairwise_distances_argmin(mine, theirs)
    colours = mine.reshape(len(ours), -1, 3)
    contrast = np.sqrt(((colours - colours.mean(axis=1, keepdims=True)) ** 2).mean(axis=(1, 2)))
    gap = np.sqrt(((mine - theirs[place]) ** 2).mean(axis=1))
    close = gap <= np.minimum(NEAR, CONTRAST * contrast)
    near = [(i, others[j]) for i, j, c in zip(ours, place, close, strict=True) if c and digests[i] not in first]
    return _found(equal, near, len(ours), names)


def ngram_overlap(members: Sequence[str], nonmembers: Sequence[str], n: int = 7) -> tuple[float | None, float | None]:
    """The mean share of a member's runs of n words that occur among the non-members' texts, and the other way round.

    Each run of a text counts as often as it stands there; case and punctuation do not matter. Texts of fewer than n
    words say nothing and are left out; None where a side has no other. ValueError for n < 1.
    Source: Duan et al. 2024, Do membership inference attacks work on large language models?
    """
    if n < 1:
        raise ValueError(f"n: must be at least 1 word, not {n}. 7 is usual.")
    runs, text = _runs(_numbered([*members, *nonmembers]), n)
    inside = text < len(members)
    found = [np.isin(runs[side], runs[~side]) for side in (inside, ~inside)]
    shares = []
    for side, hits in zip((inside, ~inside), found, strict=True):
        _, place, count = np.unique(text[side], return_inverse=True, return_counts=True)
        shares.append(float(np.mean(np.bincount(place, hits) / count)) if count.size else None)
    return shares[0], shares[1]


def _sides(member: Booleans, units: int, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """The positions of members and of non-members."""
    inside = np.asarray(member)
    if len(names) != units or inside.shape != (units,) or inside.dtype != np.bool_:
        raise ValueError(
            f"member, names: must be a boolean and a name for each of {units} units, but are {inside.dtype} of shape "
            f"{inside.shape} and {len(names)} names: give all, in order."
        )
    checked(np.zeros(units), inside, names)
    return np.flatnonzero(inside).tolist(), np.flatnonzero(~inside).tolist()


def _first(shown: Sequence[str], positions: Sequence[int]) -> dict[str, int]:
    """What is shown at some positions, and the first of them at which it is."""
    found: dict[str, int] = {}
    for i in positions:
        found.setdefault(shown[i], i)
    return found


def _found(equal: list[tuple[int, int]], near: list[tuple[int, int]], of: int, names: Sequence[str]) -> Twins:
    pairs = [*equal, *near]
    examples = tuple((names[i], names[j]) for i, j in pairs[:SHOWN])
    return Twins(len(equal), len(pairs), of, examples)


def _numbered(texts: Sequence[str]) -> list[list[int]]:
    """The words of each text, in lower case, as numbers from 1."""
    known: dict[str, int] = {}
    return [[known.setdefault(word, len(known) + 1) for word in _WORD.findall(text.lower())] for text in texts]


def _runs(texts: Sequence[Sequence[int]], n: int) -> tuple[Integers, Integers]:
    """64-bit hashes (runs,) of all runs of n words, and the text that each stands in."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    words = np.fromiter((word for text in texts for word in text), np.uint64, lengths.sum())
    text = np.repeat(np.arange(len(texts)), lengths)
    start = np.arange(words.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    starts = np.flatnonzero(start + n <= lengths[text])
    hashed: Hashes = np.zeros(starts.size, dtype=np.uint64)
    for step in range(n):
        hashed = _mixed(hashed ^ words[starts + step])
    return hashed.view(np.int64), text[starts]


def _mixed(values: Hashes) -> Hashes:
    """A bijection of 64 bits in which every bit sways all (splitmix64; Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _grams(texts: Sequence[Sequence[int]], n: int) -> csr_array:
    """Which runs of n words stand in which text (texts, runs); a shorter text is filled up to one run."""
    from scipy.sparse import csr_array

    runs, text = _runs([[*words, *[0] * (n - len(words))] if words else [] for words in texts], n)
    _, column = np.unique(runs, return_inverse=True)
    width = int(column.max(initial=-1)) + 1
    cells = np.unique(text * width + column)
    return csr_array(
        (np.ones(cells.size, np.int32), (cells // max(width, 1), cells % max(width, 1))), (len(texts), width)
    )


def _first_alike(ours: csr_array, theirs: csr_array, alike: float) -> Integers:
    """For each row of ours the first of theirs with a Jaccard index of at least `alike`; the number of theirs if none.

    Sets of which each shares `alike` of their union also share one of the rarest of either, the first
    size - ceil(alike * size) + 1 in one order for all (Chaudhuri, Ganti and Kaushik 2006): only pairs that do are
    compared, so that common phrases cost nothing.
    """
    common = np.asarray(ours.sum(axis=0), dtype=np.int64) * np.asarray(theirs.sum(axis=0), dtype=np.int64)
    mine, other = _rarest(ours, common, alike), _rarest(theirs, common, alike).T.tocsr()
    sizes, others = np.diff(ours.indptr), np.diff(theirs.indptr)
    first = np.full(len(sizes), len(others), dtype=np.int64)
    for rows in _blocks(mine @ np.diff(other.indptr).astype(np.int64)):
        i, j = (mine[rows] @ other).nonzero()
        for some in np.array_split(np.arange(i.size), 1 + i.size // _COMPARED):
            a, b = i[some] + rows.start, j[some]
            both = np.asarray(ours[a].multiply(theirs[b]).sum(axis=1)).ravel()
            near = both >= alike * (sizes[a] + others[b] - both)
            np.minimum.at(first, a[near], b[near])
    return first


def _rarest(grams: csr_array, common: Integers, alike: float) -> csr_array:
    """Of each row's runs the rarest, as many as two near-equal rows cannot both do without."""
    from scipy.sparse import csr_array

    sizes = np.diff(grams.indptr)
    row = np.repeat(np.arange(grams.shape[0]), sizes)
    order = np.lexsort((grams.indices, common[grams.indices], row))
    place = np.arange(row.size) - np.repeat(grams.indptr[:-1], sizes)
    kept = place < (sizes - np.ceil(alike * sizes - 1e-9) + 1)[row]
    return csr_array((np.ones(int(kept.sum()), np.int32), (row[kept], grams.indices[order][kept])), grams.shape)


def _blocks(work: Integers) -> Iterator[slice]:
    """Slices of rows that hold about `_WORK` together, or one row."""
    total, start = np.cumsum(work), 0
    while start < len(work):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + _WORK, side="right")))
        yield slice(start, stop)
        start = stop
