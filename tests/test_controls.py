"""The blind baseline: nothing in a fair game, a find in an unfair one; neither order nor the held-out fold matters."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hf_mia import controls
from hf_mia.controls import Bools, Floats, blind_looks, blind_scores

VOCABULARY = np.array([f"w{i}" for i in range(500)])
Texts = list[list[str]]


def _auc(scores: Floats, member: Bools) -> float:
    gaps = scores[member][:, None] - scores[~member][None, :]
    return float((gaps > 0).mean() + (gaps == 0).mean() / 2)


def _world(seed: int, units: int = 60, texts: int = 6, members: int | None = None) -> tuple[Texts, Bools]:
    """Units of one distribution and a random half (or `members`) of them."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, len(VOCABULARY) + 1)
    drawn = rng.choice(VOCABULARY, size=(units, texts, 9), p=chance / chance.sum())
    member = np.zeros(units, dtype=bool)
    member[rng.permutation(units)[: units // 2 if members is None else members]] = True
    return [[" ".join(text) for text in unit] for unit in drawn], member


@pytest.mark.parametrize(("units", "members"), [(60, 30), (43, 14), (12, 6)])
def test_a_random_split_gives_nothing(units: int, members: int) -> None:
    games = [_world(seed, units, members=members) for seed in range(40)]
    aucs = [_auc(blind_scores(texts, member), member) for texts, member in games]
    assert abs(np.mean(aucs) - 0.5) < 0.05


def test_a_planted_word_is_found() -> None:
    texts, member = _world(0)
    planted = [[*unit[:-1], unit[-1] + " zebra"] if m else unit for unit, m in zip(texts, member, strict=True)]
    assert _auc(blind_scores(planted, member), member) > 0.95


@pytest.mark.parametrize("change", ["fewer", "longer", "uneven", "rarer"])
def test_a_difference_in_form_alone_is_found(change: str) -> None:
    texts, member = _world(0)
    alter: Callable[[list[str], int], list[str]] = {
        "fewer": lambda unit, i: unit[:-3],
        "longer": lambda unit, i: [text + " w0 w1 w2" for text in unit],
        "uneven": lambda unit, i: [" ".join(unit[:5]), *(text[:2] for text in unit[5:])],
        "rarer": lambda unit, i: [f"{text} q{i}x{j} q{i}y{j}" for j, text in enumerate(unit)],
    }[change]
    changed = [alter(unit, i) if m else unit for i, (unit, m) in enumerate(zip(texts, member, strict=True))]
    assert _auc(blind_scores(changed, member), member) > 0.9


def test_order_of_units_and_of_their_texts_does_not_matter() -> None:
    texts, member = _world(3)
    texts[4] = texts[9] = texts[17]  # the same text on whichever side
    scores = blind_scores(texts, member)
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = [texts[i][::-1] for i in order]
    np.testing.assert_array_equal(blind_scores(shuffled, member[order]), scores[order])
    assert scores[4] == scores[9] == scores[17]


def test_reads_iterators_once_and_the_seed_moves_the_folds() -> None:
    texts, member = _world(4)
    scores = blind_scores(texts, member)
    assert scores.dtype == np.float64
    assert scores.shape == (60,)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(blind_scores((iter(unit) for unit in texts), member), scores)
    assert (blind_scores(texts, member, seed=1) != scores).any()


def test_the_held_out_fold_does_not_reach_its_own_model() -> None:
    texts, member = _world(5)
    lengths, counts, _ = controls._read(texts, 0)
    held_out = np.arange(60) % 5 == 0
    scores = controls._held_out_scores(lengths, counts, member, held_out)
    np.testing.assert_array_equal(controls._held_out_scores(lengths, counts, member ^ held_out, held_out), scores)
    altered = [[text[:2] + " w1 zebra" for text in unit] if i == 5 else unit for i, unit in enumerate(texts)]
    lengths, counts, _ = controls._read(altered, 0)
    moved = controls._held_out_scores(lengths, counts, member, held_out)
    np.testing.assert_allclose(np.delete(moved, 1), np.delete(scores, 1), rtol=1e-9)
    assert moved[1] != scores[1]


def test_rare_share_is_of_words_in_no_other_training_unit() -> None:
    texts = [["a b c"], ["a b d d"], ["a e"], ["c d a f"]]
    train = np.array([True, True, False, False])
    _, counts, _ = controls._read(texts, 0)
    np.testing.assert_allclose(controls._rare_share(counts, train), [1 / 3, 2 / 4, 1 / 2, 1 / 4])


@pytest.mark.parametrize(("units", "members", "folds", "expected"), [(60, 30, 5, 5), (9, 3, 5, 3), (4, 2, 5, 2)])
def test_folds_hold_both_sides_in_even_shares(units: int, members: int, folds: int, expected: int) -> None:
    texts, member = _world(6, units, members=members)
    fold = controls._folds([controls._content(unit, 0) for unit in texts], member, folds)
    for side in (member, ~member):
        sizes = np.bincount(fold[side], minlength=expected)
        assert sizes.size == expected
        assert sizes.min() >= 1
        assert sizes.max() - sizes.min() <= 1
    assert np.isfinite(blind_scores(texts, member, folds)).all()


def test_scores_of_every_fold_are_on_one_scale() -> None:
    texts, member = _world(7)
    fold = controls._folds([controls._content(unit, 0) for unit in texts], member, 5)
    scores = blind_scores(texts, member)
    for k in range(1, 5):
        np.testing.assert_allclose(np.sort(scores[fold == k]), np.sort(scores[fold == 0]))


def test_errors_name_the_way_out() -> None:
    texts, member = _world(8, 8)
    with pytest.raises(ValueError, match="member must be one boolean for each of the 8 units, but is float64"):
        blind_scores(texts, member.astype(np.float64))
    with pytest.raises(ValueError, match=r"each of the 8 units, but is bool of shape \(7,\)"):
        blind_scores(texts, member[:7])
    with pytest.raises(
        ValueError, match=r"2 units of different content a side, .* folds is 5 and the smaller side has 1"
    ):
        blind_scores(texts, np.arange(8) == 0)
    with pytest.raises(ValueError, match="smaller side has 1"):
        blind_scores([texts[0] if m else unit for unit, m in zip(texts, member, strict=True)], member)
    with pytest.raises(ValueError, match=r"at least 2 folds .* folds is 1"):
        blind_scores(texts, member, folds=1)
    with pytest.raises(ValueError, match="smaller side has 0"):
        blind_scores([], np.zeros(0, dtype=bool))
    with pytest.raises(ValueError, match="unit 0 is a string: put it into a list"):
        blind_scores(["one text", "another"], np.array([True, False]))


def _numbers(seed: int, units: int = 60, members: int | None = None) -> tuple[Floats, list[bytes], Bools]:
    """Images of one distribution as numbers on all scales, and a random half (or `members`) of them."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(units, 20)) * 10.0 ** rng.integers(-3, 4, 20)
    member = np.zeros(units, dtype=bool)
    member[rng.permutation(units)[: units // 2 if members is None else members]] = True
    return features, [row.tobytes() for row in features], member


@pytest.mark.parametrize(("units", "members"), [(60, 30), (43, 14), (12, 6)])
def test_looks_of_a_random_split_give_nothing(units: int, members: int) -> None:
    games = [_numbers(seed, units, members) for seed in range(25)]
    aucs = [_auc(blind_looks(features, content, member), member) for features, content, member in games]
    assert abs(np.mean(aucs) - 0.5) < 0.05


def test_brighter_members_are_found() -> None:
    features, content, member = _numbers(0)
    features[:, 3] += 5 * features[:, 3].std() * member
    assert _auc(blind_looks(features, content, member), member) > 0.9


def test_labels_are_not_learnt_by_heart() -> None:
    """Each image has a number of its own: who has seen its label knows all, who has not knows nothing whatever."""
    for seed in range(5):
        _, content, member = _numbers(seed)
        scores = blind_looks(np.eye(len(member)), content, member)
        assert _auc(scores, member) == 0.5
        assert (scores == 0).all()  # the middle rank of a fold, whose images all look alike


def test_looks_do_not_depend_on_the_order_and_equal_images_share_a_score() -> None:
    features, content, member = _numbers(3)
    for i in (4, 9):
        features[i], content[i] = features[17], content[17]
    scores = blind_looks(features, content, member)
    order = np.random.default_rng(0).permutation(len(member))
    shuffled = blind_looks(features[order], [content[i] for i in order], member[order])
    np.testing.assert_array_equal(shuffled, scores[order])
    assert scores[4] == scores[9] == scores[17]
    scaled = blind_looks(features * 10.0 ** np.arange(-9, 11), content, member)
    np.testing.assert_allclose(scaled, scores, rtol=0, atol=1e-9)  # ranks: no scale matters


def test_looks_that_cannot_be_judged_are_refused() -> None:
    features, content, member = _numbers(8, 8)
    with pytest.raises(ValueError, match="member must be one boolean for each of the 8 units, but is float64"):
        blind_looks(features, content, member.astype(np.float64))
    with pytest.raises(ValueError, match=r"blind baseline needs .* 2 units of different content a side.*side has 1"):
        blind_looks(features, content, np.arange(8) == 0)
    with pytest.raises(ValueError, match=r"at least 2 folds .* folds is 1"):
        blind_looks(features, content, member, folds=1)


def test_importing_the_module_loads_no_scikit_learn() -> None:
    code = "import sys, hf_mia.controls; print('sklearn' in sys.modules, 'scipy' in sys.modules)"
    root = Path(controls.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
