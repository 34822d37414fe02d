"""Controls: is the game itself fair? How far one gets without asking the model at all.

Where members and non-members differ by themselves (in topic, date, length), an attack can succeed though the model
leaks nothing. What an attack finds counts only as far as it beats the blind baseline on the same units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hf_mia.reports.estimates import checked

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BANDS = 16  # of a sound's spectrum
SOUND_LOOKS = 7 + BANDS
_FRAME = 1024  # samples that are looked at together
_SILENCE = 1e-20  # added to powers before the logarithm: below the rounding of 32-bit samples
_DRAWN = 1_000_000  # ranks shuffled at a time: bounds the memory, does not change the result


@dataclass(frozen=True)
class Shuffled:
    """The AUC, beside its mean and 95 % range under membership dealt out anew, and the permutation p-value."""

    auc: float
    mean: float
    low: float
    high: float
    p_value: float
    draws: int


def shuffled(scores: Floats, member: Bools, draws: int = 1000, seed: int = 0) -> Shuffled:
    """The shuffled-membership control: what AUCs the same scores give where membership means nothing.

    The p-value is (1 + the draws with at least the true AUC) / (1 + draws). The range must hold 0.5: where it is wide,
    the units are too few. scores (units,), member (units,) bool. ValueError as in `checked`, or for draws < 1.
    Source: Phipson and Smyth 2010.
    """
    from scipy.stats import rankdata

    if draws < 1:
        raise ValueError(f"draws: must be at least 1, not {draws}. 1000 do for a p-value of 0.001.")
    scores, member = checked(scores, member)
    twice = (2 * rankdata(scores)).astype(np.int64)  # middle ranks: whole numbers, so that equal AUCs compare as equal
    members, rng = int(member.sum()), np.random.default_rng(seed)
    rows = max(1, _DRAWN // member.size)
    blocks = (np.tile(twice, (min(rows, draws - start), 1)) for start in range(0, draws, rows))
    drawn = np.concatenate([rng.permuted(block, axis=1)[:, :members].sum(axis=1) for block in blocks])
    sums = int(twice[member].sum()), drawn.mean(), *np.quantile(drawn, [0.025, 0.975])
    scale = 2 * members * (member.size - members)
    auc, mean, low, high = (float((total - members * (members + 1)) / scale) for total in sums)
    return Shuffled(auc, mean, low, high, (1 + int((drawn >= sums[0]).sum())) / (1 + draws), draws)


def blind_scores(texts_per_unit: Iterable[Iterable[str]], member: Bools, folds: int = 5, seed: int = 0) -> Floats:
    """How much each unit's own text looks like a member's, the model never asked: the blind baseline, (units,) float64.

    Logistic regression on bags of words (TF-IDF) and length features. A unit's score comes from the regression fitted
    to the other folds, where the words' weights and the features' scales are fitted as well, and is the normal score of
    its rank in its own fold. Raw scores of different folds must not be pooled: a fold with more members leaves fewer to
    train on and is scored lower, so that the pooled AUC of a fair game falls below 0.5 (Parker, Gunter and Bedo 2007).

    texts_per_unit: an iterable of texts for each unit, read once. One unit's texts are in memory at a time; afterwards
    12 bytes for each different word of each unit. member (units,) bool. folds: at least 2, fewer are made where a side
    has fewer different units. Neither the order of the units nor that of a unit's texts matters, and units of equal
    text share a fold and a score. ValueError for a `member` of another type or length, for a unit that is a string,
    for folds < 2 and for fewer than 2 different units a side.
    Source: Das, Zhang and Tramer 2024, Blind baselines beat membership inference attacks for foundation models.
    """
    lengths, counts, content = _read(texts_per_unit, seed)
    member = _booleans(member, len(content))
    return _cross_fitted(
        content, member, folds, lambda held_out, order: _held_out_scores(
            lengths[order], counts[order], member[order], held_out)
    )  # fmt: skip


def blind_looks(features: Floats, content: Sequence[bytes], member: Bools, folds: int = 5) -> Floats:
    """How much each unit looks like a member by some numbers about it, the model never asked: (units,) float64.

    As `blind_scores`, with standardised `features` (units, f) in place of words: an image's coarse pixels and its size.
    `content` tells equal units, which share a fold.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    member = _booleans(member, len(content))

    def held_out_scores(held_out: Bools, order: Ints) -> Floats:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        fitted = model.fit(features[order][~held_out], member[order][~held_out])
        return np.asarray(fitted.decision_function(features[order][held_out]), dtype=np.float64)

    return _cross_fitted(content, member, folds, held_out_scores)


def sound_looks(samples: Floats, rate: int) -> Floats:
    """What the blind baseline hears of a clip, for `blind_looks`: numbers (23,), all finite, for silence as well.

    Duration in s, level in dB, peak, zero crossings in Hz; centroid, bandwidth and 85 % roll-off of the power spectrum
    in Hz; and the logarithms of its power in 16 bands that are equally wide in mel, from 0 to half the rate. samples
    (n,) floats, one channel; rate in Hz. ValueError for another shape or type, no samples, or what is not finite.
    Source: Peeters 2004 for the descriptors; O'Shaughnessy 1987 for the mel scale.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 or not samples.size or samples.dtype.kind != "f" or not np.isfinite(samples).all() or rate < 1:
        raise ValueError(
            f"samples, rate: must be the finite floats (n,) of one channel, and Hz, not {samples.dtype} of shape "
            f"{samples.shape} at {rate}. Average the channels, and divide whole numbers by their largest."
        )
    samples = samples.astype(np.float64)
    crossed = np.count_nonzero(np.diff(np.signbit(samples))) * rate / samples.size
    level = 10 * np.log10(np.mean(samples**2) + _SILENCE)
    frames = np.pad(samples, (0, -samples.size % _FRAME)).reshape(-1, _FRAME) * np.hanning(_FRAME)
    power, hertz = (np.abs(np.fft.rfft(frames)) ** 2).mean(axis=0), np.fft.rfftfreq(_FRAME, 1 / rate)
    share = power / (power.sum() or 1.0)
    centroid = hertz @ share
    width = np.sqrt(np.maximum((hertz - centroid) ** 2 @ share, 0))
    rolloff = hertz[np.searchsorted(np.cumsum(share), 0.85 * share.sum())]
    mel = np.log1p(hertz / 700) / np.log1p(rate / 2 / 700)  # 0 to 1
    bands = np.bincount(np.minimum(mel * BANDS, BANDS - 1).astype(np.int64), power, BANDS)
    form = [samples.size / rate, level, np.abs(samples).max(), crossed, centroid, width, rolloff]
    return np.array([*form, *np.log10(bands + _SILENCE)], dtype=np.float64)


def _booleans(member: Bools, units: int) -> Bools:
    member = np.asarray(member)
    if member.dtype != np.bool_ or member.shape != (units,):
        raise ValueError(
            f"member must be one boolean for each of the {units} units, but is {member.dtype} of "
            f"shape {member.shape}: pass True for members, in the units' order."
        )
    return member


def _cross_fitted(
    content: Sequence[bytes], member: Bools, folds: int, held_out_scores: Callable[[Bools, Ints], Floats]
) -> Floats:
    """Each unit's score by what was fitted to the other folds, as the normal score of its rank in its own fold."""
    order = np.array(sorted(range(len(content)), key=content.__getitem__), dtype=np.int64)
    fold = _folds([content[i] for i in order], member[order], folds)
    scores = np.empty(len(order))
    for held_out in (fold == k for k in range(fold.max() + 1)):
        scores[order[held_out]] = _normal_scores(held_out_scores(held_out, order))
    return scores


def _read(texts_per_unit: Iterable[Iterable[str]], seed: int) -> tuple[Floats, csr_matrix, list[bytes]]:
    """Length features (units, 4), counts of hashed words (units, buckets used), and a hash of each unit's content."""
    from scipy.sparse import csr_matrix, vstack
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(token_pattern=r"\b\w+\b", n_features=2**18, alternate_sign=False, norm=None)
    lengths, counts, content = [], [csr_matrix((0, hashing.n_features))], []
    for i, unit in enumerate(texts_per_unit):
        if isinstance(unit, str):
            raise ValueError(
                f"texts_per_unit must hold a sequence of texts a unit, but unit {i} is a string: put it into a list."
            )
        texts = list(unit)
        lengths.append(_lengths(texts))
        counts.append(hashing.transform(["\n".join(texts)]))
        content.append(_content(texts, seed))
    words = vstack(counts, format="csr")
    used = np.unique(words.indices)  # a column that no unit uses would only cost time
    return np.array(lengths, dtype=np.float64).reshape(-1, 4), words[:, used], content


def _lengths(texts: Sequence[str]) -> tuple[float, float, float, float]:
    """log(1 + texts), mean and deviation of words a text, mean characters a word; the same in any order of texts."""
    words = [len(text.split()) for text in texts]
    texts_, words_ = max(len(texts), 1), max(sum(words), 1)
    mean = sum(words) / texts_
    spread = max(sum(n * n for n in words) / texts_ - mean**2, 0.0) ** 0.5
    return np.log1p(len(texts)), mean, spread, sum(len("".join(text.split())) for text in texts) / words_


def _content(texts: Sequence[str], seed: int) -> bytes:
    """A hash of the texts in any order: the sum of their hashes, keyed by the seed."""
    key = str(seed).encode()
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    total = sum(int.from_bytes(hashlib.blake2b(text, digest_size=16, key=key).digest()) for text in encoded)
    return (total % 2**128).to_bytes(16)


def _folds(content: Sequence[bytes], member: Bools, folds: int) -> Ints:
    """A fold for each unit, equal content together; the sides are dealt out evenly in the order of the content.

    Content is laid out as non-members' only, both sides', members' only. Each side is then one run, so that dealing
    gives every fold some of both as long as there are no more folds than the smaller side has different content.
    """
    sides = {c: [False, False] for c in sorted(content)}
    for c, side in zip(content, member, strict=True):
        sides[c][int(side)] = True
    least = min(sum(has[side] for has in sides.values()) for side in (0, 1))
    if folds < 2 or least < 2:
        raise ValueError(
            f"the blind baseline needs at least 2 folds and 2 units of different content a side, but folds is "
            f"{folds} and the smaller side has {least}: add units."
        )
    dealt = sorted(sides, key=lambda c: sides[c][1] - sides[c][0])
    place = {c: i % min(folds, least) for i, c in enumerate(dealt)}
    return np.array([place[c] for c in content], dtype=np.int64)


def _held_out_scores(lengths: Floats, counts: csr_matrix, member: Bools, held_out: Bools) -> Floats:
    """The decision values of the held-out units by a regression that has seen only the others."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train = ~held_out
    lengths = np.column_stack([lengths, _rare_share(counts, train)])
    scaler = StandardScaler().fit(lengths[train])
    weights = TfidfTransformer(sublinear_tf=True).fit(counts[train])
    features = hstack([weights.transform(counts), csr_matrix(scaler.transform(lengths))], format="csr")
    model = LogisticRegression(max_iter=1000).fit(features[train], member[train])
    return np.asarray(model.decision_function(features[held_out]), dtype=np.float64)


def _rare_share(counts: csr_matrix, train: Bools) -> Floats:
    """The share of each unit's words that stand in no other unit of the training part."""
    present = counts.sign()
    others = np.asarray(present[train].sum(axis=0)).ravel()[counts.indices]
    own = np.repeat(train, np.diff(counts.indptr))  # a training unit is not its own neighbour
    rare = np.where(others - own <= 0, counts.data, 0.0)
    unit = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return np.asarray(np.bincount(unit, rare, minlength=len(total)) / np.maximum(total, 1), dtype=np.float64)


def _normal_scores(scores: Floats) -> Floats:
    """The normal quantiles of (rank - 1/2) / n, ties at their middle rank: one scale for the scores of every fold."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return np.asarray(ndtri((rankdata(scores) - 0.5) / scores.size), dtype=np.float64)
