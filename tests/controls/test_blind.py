"""Controls: nothing in a fair game, a find in an unfair one; neither order nor the held-out fold matters; sounds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hf_mia.controls import blind as controls
from hf_mia.controls.blind import Bools, Floats, blind_looks, blind_scores, shuffled, sound_looks

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
    code = "import sys, hf_mia.controls.blind; print('sklearn' in sys.modules, 'scipy' in sys.modules)"
    root = Path(controls.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("digits", [None, 0])
def test_shuffled_membership_against_a_loop(digits: int | None) -> None:
    """The same draws, one at a time, and the AUC of every one by pairs."""
    rng = np.random.default_rng(0)
    member = rng.permutation(30) < 12
    scores = rng.normal(size=30) + 0.4 * member
    scores = scores if digits is None else scores.round(digits)
    source, place, aucs = np.random.default_rng(3), np.arange(30), []
    for _ in range(200):
        dealt = np.zeros(30, dtype=bool)
        dealt[source.permuted(place[None], axis=1)[0, :12]] = True
        aucs.append(_auc(scores, dealt))
    true, found = _auc(scores, member), shuffled(scores, member, 200, seed=3)
    assert found.auc == pytest.approx(true, abs=1e-12)
    assert found.mean == pytest.approx(np.mean(aucs), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(aucs, [0.025, 0.975])), abs=1e-12)
    assert found.p_value == (1 + sum(a >= true - 1e-9 for a in aucs)) / 201
    assert found.draws == 200


def test_shuffling_does_not_hang_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, member = np.random.default_rng(1).normal(size=40), np.arange(40) % 3 == 0
    whole = shuffled(scores, member)
    monkeypatch.setattr(controls, "_DRAWN", 7 * 40)
    assert shuffled(scores, member) == whole
    assert shuffled(scores, member, seed=1) != whole


def test_the_p_value_of_a_shuffle_is_fair_and_finds() -> None:
    rng = np.random.default_rng(2)
    fair = np.array([shuffled(rng.normal(size=60), np.arange(60) < 30, 99, seed).p_value for seed in range(400)])
    assert 0.02 < (fair <= 0.05).mean() < 0.09
    assert abs(fair.mean() - 0.5) < 0.06
    found = shuffled(np.arange(60.0), np.arange(60) >= 30)
    assert (found.auc, found.p_value) == (1.0, 1 / 1001)
    assert found.low < 0.4 < found.mean < 0.6 < found.high
    assert shuffled(np.zeros(60), np.arange(60) < 9) == controls.Shuffled(0.5, 0.5, 0.5, 0.5, 1.0, 1000)


def test_shuffles_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match="draws: must be at least 1, not 0"):
        shuffled(np.arange(4.0), np.arange(4) < 2, 0)
    with pytest.raises(ValueError, match="at least 1 of each class"):
        shuffled(np.arange(4.0), np.arange(4) < 9)


SOUNDS = ("duration", "level", "peak", "crossed", "centroid", "width", "rolloff")


def _heard(samples: Floats, rate: int) -> tuple[dict[str, float], Floats]:
    looks = sound_looks(samples, rate)
    assert looks.shape == (7 + controls.BANDS,)
    assert looks.dtype == np.float64
    assert np.isfinite(looks).all()
    return dict(zip(SOUNDS, looks.tolist(), strict=False)), looks[7:]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("hertz", [300.0, 1234.5, 3000.0])
def test_a_tone_is_heard_where_it_is(hertz: float, rate: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(2 * rate) / rate + 0.3)
    found, bands = _heard(tone, rate)
    step = rate / 1024  # Hz between two lines of the spectrum
    assert found["duration"] == 2.0
    assert found["level"] == pytest.approx(10 * np.log10(0.125), abs=0.01)
    assert found["peak"] == np.abs(tone).max()
    assert found["crossed"] == pytest.approx(2 * hertz, abs=1)
    assert abs(found["centroid"] - hertz) < step
    assert abs(found["rolloff"] - hertz) <= 1.5 * step
    assert found["width"] < 2 * step
    edges = 700 * (np.exp(np.log1p(rate / 1400) * np.arange(17) / 16) - 1)
    loudest = int(bands.argmax())
    assert edges[loudest] - step <= hertz <= edges[loudest + 1] + step


def test_two_tones_and_their_level() -> None:
    time = np.arange(16000) / 16000
    both = np.sin(2 * np.pi * 1000 * time) + np.sin(2 * np.pi * 5000 * time)
    found, bands = _heard(both, 16000)
    assert found["centroid"] == pytest.approx(3000, abs=16)
    assert found["width"] == pytest.approx(2000, abs=16)
    assert found["rolloff"] == pytest.approx(5000, abs=25)
    louder, lifted = _heard(10 * both, 16000)
    assert louder["level"] - found["level"] == pytest.approx(20)
    np.testing.assert_allclose(lifted - bands, 2, atol=1e-6)
    assert [louder[name] for name in SOUNDS[3:]] == pytest.approx([found[name] for name in SOUNDS[3:]])


def test_silence_and_short_clips_have_numbers() -> None:
    found, _ = _heard(np.zeros(100), 8000)
    assert found == {"duration": 0.0125, "level": -200.0} | dict.fromkeys(SOUNDS[2:], 0.0)
    _heard(np.ones(1, dtype=np.float32), 8000)


def test_sounds_serve_the_blind_baseline() -> None:
    rng, member = np.random.default_rng(0), np.arange(60) % 2 == 0
    clips = [rng.normal(size=3000 + 40 * rng.integers(10)) * (1.5 if m else 1) for m in member]
    looks = np.array([sound_looks(clip, 8000) for clip in clips])
    assert _auc(blind_looks(looks, [clip.tobytes() for clip in clips], member), member) > 0.9
    even = np.array([sound_looks(clip / clip.std(), 8000) for clip in clips])
    assert _auc(blind_looks(even, [clip.tobytes() for clip in clips], member), member) < 0.75


@pytest.mark.parametrize(
    "samples", [np.zeros((2, 100)), np.zeros(0), np.zeros(9, dtype=np.int16), np.array([0.0, np.nan])], ids=repr
)
def test_sounds_that_cannot_be_heard_are_refused(samples: Floats) -> None:
    with pytest.raises(ValueError, match=r"samples, rate: must be the finite floats \(n,\) of one channel.*Average"):
        sound_looks(samples, 8000)
