"""Near-duplicates against all pairs compared one by one, and planted ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from hf_mia.controls import twins
from hf_mia.controls.twins import Twins, image_twins, ngram_overlap, text_twins
from hf_mia.core import Booleans, Floats, Pool
from hf_mia.models.pixels import looks, pixel_digests

NEWS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs", "away", "from", "it"]


def named(units: int) -> list[str]:
    return [f"u{i:03d}" for i in range(units)]


def naive_runs(text: str, n: int) -> list[tuple[str, ...]]:
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def naive_text_twins(texts: Sequence[str], member: Booleans) -> tuple[set[int], dict[int, set[int]]]:
    """Members with an equal non-member, and of each member the non-members of a Jaccard index of 1/2 or more."""
    sets = []
    for text in texts:
        words = naive_runs(text, 1)
        sets.append(set(naive_runs(text, 3)) if len(words) >= 3 else {tuple(words)} if words else set())
    exact, near = set(), {}
    for i in np.flatnonzero(member):
        for j in np.flatnonzero(~member):
            if texts[i] == texts[j]:
                exact.add(int(i))
            elif sets[i] | sets[j] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.5:
                near.setdefault(int(i), set()).add(int(j))
    return exact, near


def garbled(seed: int, units: int = 120) -> tuple[list[str], Booleans]:
    """Sentences of 0 to 15 words, most of them another one with some words changed, cut, doubled or shouted."""
    rng = np.random.default_rng(seed)
    texts = ["", "!", "Hello", "hello", "hello hello"]
    while len(texts) < units:
        if rng.random() < 0.4:
            words = rng.choice(NEWS, rng.integers(0, 15)).tolist()
        else:
            words = texts[rng.integers(len(texts))].split()
            for _ in range(rng.integers(0, 4)):
                if words:
                    place, change = int(rng.integers(len(words))), rng.integers(4)
                    words[place : place + 1] = [
                        [rng.choice(NEWS)], [], [words[place]] * 2, [words[place].upper() + ","],
                    ][change]  # fmt: skip
        texts.append(" ".join(words))
    return texts, rng.random(units) < 0.5


@pytest.mark.parametrize("seed", range(8))
def test_text_twins_are_those_of_all_pairs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, member = garbled(seed)
    exact, near = naive_text_twins(texts, member)
    assert exact
    assert near.keys() - exact
    found = text_twins(texts, member, named(120))
    assert (found.exact, found.near, found.of) == (len(exact), len(exact | near.keys()), int(member.sum()))
    monkeypatch.setattr(twins, "SHOWN", 1000)
    whole = text_twins(texts, member, named(120))
    pairs = [(int(one[1:]), int(other[1:])) for one, other in whole.examples]
    assert [i for i, _ in pairs] == [*sorted(exact), *sorted(near.keys() - exact)]
    for i, j in pairs:
        twin = [k for k in np.flatnonzero(~member) if (texts[k] == texts[i] if i in exact else k in near[i])]
        assert j == min(twin)
    assert found.examples == whole.examples[:5]
    monkeypatch.setattr(twins, "_WORK", 3)  # block by block
    monkeypatch.setattr(twins, "_COMPARED", 2)
    assert text_twins(texts, member, named(120)) == whole


@pytest.mark.parametrize("alike", [0.1, 0.3, 0.7, 0.9, 1.0])
def test_no_pair_is_lost_at_any_level(alike: float) -> None:
    """Only the rarest runs are looked up, as many as the level allows to miss."""
    texts = garbled(1, 80)[0]
    grams = twins._grams(twins._numbered(texts), 2)
    dense = grams.toarray()
    first = twins._first_alike(grams[:40], grams[40:], alike)
    for i in range(40):
        both, either = (dense[i] & dense[40:]).sum(axis=1), (dense[i] | dense[40:]).sum(axis=1)
        alikes = np.flatnonzero((both >= alike * either) & (either > 0) & (dense[i].sum() > 0))
        assert first[i] == (alikes[0] if alikes.size else 40)


def test_planted_twins_are_found_and_shown() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{k}" for k in rng.integers(0, 5000, 20)) for _ in range(400)]
    member = np.arange(400) < 150
    assert text_twins(texts, member, named(400)) == Twins(0, 0, 150)
    texts[200] = texts[3]
    texts[250] = " ".join("changed" if k == 9 else word for k, word in enumerate(texts[7].split()))
    texts[260] = texts[8].upper() + "!"
    texts[9] = texts[10]  # twins on one side are none
    pairs = (("u003", "u200"), ("u007", "u250"), ("u008", "u260"))
    assert text_twins(texts, member, named(400)) == Twins(1, 3, 150, pairs)


def test_texts_of_one_kind_take_no_longer() -> None:
    """A phrase that all texts begin with is not looked up in all pairs."""
    rng = np.random.default_rng(1)
    texts = [" ".join([*NEWS[:8], *(f"w{k}" for k in rng.integers(0, 5000, 12))]) for _ in range(3000)]
    grams = twins._grams(twins._numbered(texts), 3)
    common = np.asarray(grams[:1500].sum(axis=0), dtype=np.int64) * np.asarray(grams[1500:].sum(axis=0))
    mine, theirs = (twins._rarest(part, common, 0.5) for part in (grams[:1500], grams[1500:]))
    assert common.max() == 1500**2
    assert (mine.sum(axis=0) * theirs.sum(axis=0)).sum() < 15_000
    assert text_twins(texts, np.arange(3000) < 1500, named(3000)).near == 0


def pool_of(images: Sequence[Image.Image], form: str = "PNG") -> Pool:
    encoded = []
    for image in images:
        stream = io.BytesIO()
        image.save(stream, form)
        encoded.append({"bytes": stream.getvalue(), "path": None})
    return Pool(Dataset.from_dict({"image": encoded}), np.arange(len(images)), tuple(named(len(images))))


def picture(seed: int, size: int = 48) -> Image.Image:
    """Smooth patches of colour with some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((size, size), 2)
    noisy = np.asarray(coarse) + rng.normal(scale=6, size=(size, size, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def judged(images: Sequence[Image.Image], member: Booleans) -> Twins:
    pool = pool_of(images)
    return image_twins(looks(pool)[0], pixel_digests(pool), member, pool.names)


def test_image_twins_survive_size_quality_and_tint() -> None:
    images, member = [picture(seed) for seed in range(40)], np.arange(40) < 20
    assert judged(images, member) == Twins(0, 0, 20)
    stream = io.BytesIO()
    images[2].save(stream, "JPEG", quality=30)
    images[30] = images[1]
    images[31] = Image.open(stream).convert("RGB")
    images[32] = images[4].resize((31, 31))
    images[33] = Image.fromarray((np.asarray(images[5]) * 0.95).astype(np.uint8))
    images[34] = images[6].transpose(Image.Transpose.FLIP_LEFT_RIGHT)  # another picture
    images[8] = images[9]  # on one side
    found = judged(images, member)
    assert found == Twins(1, 4, 20, (("u001", "u030"), ("u002", "u031"), ("u004", "u032"), ("u005", "u033")))


def test_clear_skies_are_no_twins() -> None:
    sky, bird = np.full((32, 32, 3), (110, 140, 200), dtype=np.uint8), np.zeros((32, 32, 3), dtype=np.uint8)
    here, there = sky.copy(), sky.copy()
    here[4:8, 4:8], there[22:26, 22:26] = bird[:4, :4], bird[:4, :4]
    blank = Image.fromarray(sky)
    images = [Image.fromarray(here), blank, Image.fromarray(there), Image.fromarray(sky + np.uint8(2)), blank]
    found = judged(images, np.array([True, True, False, False, False]))
    assert found == Twins(1, 1, 2, (("u001", "u004"),))


def naive_image_twins(small: Floats, digests: Sequence[str], member: Booleans) -> tuple[int, int]:
    exact = near = 0
    for i in np.flatnonzero(member):
        equal = any(digests[i] == digests[j] for j in np.flatnonzero(~member))
        gap = min(float(np.sqrt(np.mean((small[i] - small[j]) ** 2))) for j in np.flatnonzero(~member))
        colours = [small[i, channel::3] for channel in range(3)]
        contrast = float(np.sqrt(np.mean([(one - one.mean()) ** 2 for one in colours])))
        exact += equal
        near += equal or (gap <= 16 / 255 and gap <= contrast / 3)
    return exact, near


@pytest.mark.parametrize("seed", range(4))
def test_image_twins_are_those_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents = 0.5 + rng.normal(size=(30, 192)) * rng.uniform(0, 0.3, (30, 1))
    small = parents[rng.integers(0, 30, 90)] + rng.normal(size=(90, 192)) * rng.uniform(0, 0.1, (90, 1))
    member = rng.random(90) < 0.5
    digests = [str(k) for k in rng.integers(0, 400, 90)]
    features = np.column_stack([small, rng.normal(size=(90, 4)) * 100])  # sizes and the like do not count
    found = image_twins(features, digests, member, named(90))
    assert (found.exact, found.near) == naive_image_twins(small, digests, member)
    assert 0 < found.exact < found.near < found.of


@pytest.mark.parametrize("n", [1, 2, 7])
def test_ngram_overlap_against_a_loop(n: int) -> None:
    texts, member = garbled(5)
    sides = [[text for text, m in zip(texts, member, strict=True) if m == side] for side in (True, False)]
    expected = []
    for ours, theirs in (sides, sides[::-1]):
        known = {run for text in theirs for run in naive_runs(text, n)}
        runs = [naive_runs(text, n) for text in ours]
        expected.append(np.mean([np.mean([run in known for run in own]) for own in runs if own]))
    assert ngram_overlap(*sides, n) == pytest.approx(expected)
    assert all(0.01 < share < 1.0 for share in expected) or n == 1


def test_overlap_of_texts_that_share_all_or_nothing() -> None:
    long, other = " ".join(NEWS), " ".join(reversed(NEWS))
    assert ngram_overlap([long], [long]) == (1.0, 1.0)
    assert ngram_overlap([long], [other, "too short"]) == (0.0, 0.0)
    assert ngram_overlap([long], [f"{other} {long}"]) == (1.0, 8 / 22)  # of 22 runs, 8 are those of the other text
    assert ngram_overlap([long], ["too short"]) == (0.0, None)
    assert ngram_overlap([], []) == (None, None)


def test_runs_are_told_apart_by_order_and_number() -> None:
    words = [[1, 2, 3], [2, 1, 3], [3, 2, 1], [1, 2, 0], [1, 0, 2], [0, 0, 1], [1, 1, 1], [1, 1], []]
    runs, text = twins._runs(words, 3)
    assert len(set(runs.tolist())) == 7
    assert text.tolist() == list(range(7))
    rng = np.random.default_rng(0)
    many = np.unique(rng.integers(0, 50, (20_000, 4)), axis=0)
    assert len(np.unique(twins._runs(many.tolist(), 4)[0])) == len(many)


def test_blocks_cover_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "_WORK", 10)
    work = np.array([3, 4, 3, 1, 50, 0, 0, 9, 2])
    found = list(twins._blocks(work))
    assert [b.start for b in found] == [0, *(b.stop for b in found[:-1])]
    assert found[-1].stop == 9
    assert all(work[b].sum() <= 10 or b.stop - b.start == 1 for b in found)
    assert all(work[a.start : b.stop].sum() > 10 for a, b in pairwise(found))
    assert not list(twins._blocks(work[:0]))


def test_errors_name_the_way_out() -> None:
    member = np.array([True, False])
    with pytest.raises(
        ValueError, match=r"member, names: .* for each of 2 units, but are bool of shape \(2,\) and 1 names: give"
    ):
        text_twins(["a", "b"], member, ["a"])
    with pytest.raises(ValueError, match="at least 1 of each class"):
        text_twins(["a", "b"], ~(member & ~member), ["a", "b"])
    with pytest.raises(ValueError, match="but are float64 of shape"):
        text_twins(["a", "b"], member * 1.0, ["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="looks: must be a row for each of 2 units, but are 3"):
        image_twins(np.zeros((3, 196)), ["a", "b"], member, ["a", "b"])
    with pytest.raises(ValueError, match=r"must be a boolean .* of 2 units, but are bool of shape \(1,\)"):
        image_twins(np.zeros((2, 196)), ["a", "b"], member[:1], ["a", "b"])
    with pytest.raises(ValueError, match="n: must be at least 1 word, not 0"):
        ngram_overlap(["a"], ["b"], 0)
