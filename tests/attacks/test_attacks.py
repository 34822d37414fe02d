"""Every attack against a naive loop or scikit-learn used directly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn import svm
from sklearn.linear_model import LogisticRegression as SklearnLogistic

from hf_mia.attacks.relative import Relative
from hf_mia.attacks.shadow import LinearSVC, LogisticRegression, ShadowClassifier
from hf_mia.attacks.threshold import Threshold
from hf_mia.core import Evidence
from hf_mia.signals.language import MeanRank

SIGNAL = MeanRank()


def evidence(seed: int, units: int = 30, width: int = 1, shift: float = 1.0, unknown: int = 0) -> Evidence:
    rng = np.random.default_rng(seed)
    member = rng.permutation(units) < units // 2
    features = rng.normal(size=(units, width)).round(1) * 3 + 7 + shift * member[:, None]
    known = np.where(np.arange(units) < unknown, np.nan, member)
    return Evidence(features, known, tuple(f"{i:03d}" for i in range(units)))


def test_the_threshold_is_the_shadows_best() -> None:
    shadows = [evidence(seed, unknown=seed % 3) for seed in range(3)]
    scorer = Threshold(SIGNAL).fit(shadows)
    known = [~np.isnan(shadow.member) for shadow in shadows]
    scores = np.concatenate([shadow.features[k, 0] for shadow, k in zip(shadows, known, strict=True)])
    member = np.concatenate([shadow.member[k] == 1 for shadow, k in zip(shadows, known, strict=True)])
    values = np.unique(scores)
    tries = [values[0] - 1, *(values[:-1] + values[1:]) / 2, values[-1] + 1]
    best = max(((scores >= t) == member).mean() for t in tries)
    assert scorer.threshold is not None
    assert ((scores >= scorer.threshold) == member).mean() == best
    target = evidence(9)
    np.testing.assert_array_equal(scorer.score(target), target.features[:, 0])


def test_without_shadows_there_are_scores_and_no_threshold() -> None:
    scorer = Threshold(SIGNAL).fit([])
    assert scorer.threshold is None
    assert scorer.score(evidence(1)).shape == (30,)


def test_a_threshold_takes_one_number() -> None:
    with pytest.raises(ValueError, match=r"one number.*gives 2.*ShadowClassifier"):
        Threshold(SIGNAL).fit([]).score(evidence(1, width=2))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LinearSVC(), svm.LinearSVC(random_state=0)),
        (LinearSVC(C=0.1, seed=4), svm.LinearSVC(C=0.1, random_state=4)),
        (LogisticRegression(C=2.0), SklearnLogistic(C=2.0, class_weight="balanced", max_iter=1000)),
    ],
    ids=repr,
)
def test_a_shadow_classifier_is_scikit_learns(
    ours: LinearSVC | LogisticRegression, theirs: svm.LinearSVC | SklearnLogistic
) -> None:
    """Standardised by hand with the shadows' mean and deviation, members of unknown status left out."""
    shadows, target = [evidence(seed, width=4, unknown=2 * seed) for seed in range(3)], evidence(9, width=4)
    features = np.vstack([shadow.features[2 * seed :] for seed, shadow in enumerate(shadows)])
    member = np.concatenate([shadow.member[2 * seed :] for seed, shadow in enumerate(shadows)])
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    theirs.fit((features - mean) / deviation, member)
    scorer = ShadowClassifier(SIGNAL, ours).fit(shadows)
    expected = theirs.decision_function((target.features - mean) / deviation)
    np.testing.assert_allclose(scorer.score(target), expected, rtol=0, atol=1e-9)
    assert scorer.threshold == 0


def test_a_fit_leaves_nothing_behind() -> None:
    attack, target = ShadowClassifier(SIGNAL), evidence(9, width=3)
    first = attack.fit([evidence(1, width=3)])
    before = first.score(target)
    attack.fit([evidence(2, width=3)])
    np.testing.assert_array_equal(first.score(target), before)
    np.testing.assert_array_equal(attack.fit([evidence(1, width=3)]).score(target), before)


def test_a_shadow_classifier_needs_shadows() -> None:
    with pytest.raises(ValueError, match=r"shadows\.count"):
        ShadowClassifier(SIGNAL).fit([])


def compared(shadows: int = 3, units: int = 12) -> tuple[Evidence, list[Evidence]]:
    """A target whose units no shadow saw, and shadows that share one pool."""
    plain = [evidence(seed, units) for seed in range(shadows)]
    others = [[other for other in plain if other is not shadow] for shadow in plain]
    target = evidence(50, units)
    unseen = [replace(evidence(60 + i, units), member=np.zeros(units)) for i in range(shadows)]
    return (
        replace(target, references=tuple(unseen)),
        [replace(shadow, references=tuple(other)) for shadow, other in zip(plain, others, strict=True)],
    )


def naive(one: Evidence) -> dict[str, float]:
    """A unit's feature less the mean over the references that never saw it; units all of them saw are left out."""
    found = {}
    for u, name in enumerate(one.names):
        level = [float(other.features[u, 0]) for other in one.references if other.member[u] == 0]
        if level:
            found[name] = float(one.features[u, 0]) - sum(level) / len(level)
    return found


def test_relative_is_the_inner_attack_on_differences() -> None:
    target, shadows = compared()
    differences = [naive(shadow) for shadow in shadows]
    assert any(len(found) < 12 for found in differences)  # some unit was seen by both other shadows
    scores = np.concatenate([list(found.values()) for found in differences])
    member = np.concatenate([
        [s.member[s.names.index(name)] == 1 for name in f] for s, f in zip(shadows, differences, strict=True)
    ])  # fmt: skip
    scorer = Relative(Threshold(SIGNAL)).fit(shadows)
    np.testing.assert_allclose(scorer.score(target), list(naive(target).values()), rtol=1e-12)
    values = np.unique(scores)
    tries = [values[0] - 1, *(values[:-1] + values[1:]) / 2, values[-1] + 1]
    best = max(((scores >= t) == member).mean() for t in tries)
    assert ((scores >= scorer.threshold) == member).mean() == best


def test_relative_refuses_a_unit_that_every_shadow_saw() -> None:
    target, shadows = compared()
    seen = np.zeros(12)
    seen[4] = 1
    known = replace(target, references=tuple(replace(other, member=seen) for other in target.references))
    with pytest.raises(ValueError, match=r"1 of 12 units.*'004'.*shadows\.count"):
        Relative(Threshold(SIGNAL)).fit(shadows).score(known)


@pytest.mark.parametrize("count", [0, 1])
def test_relative_needs_two_shadows(count: int) -> None:
    _, shadows = compared()
    with pytest.raises(ValueError, match=rf"2 or more, not {count}.*shadows\.count"):
        Relative(Threshold(SIGNAL)).fit(shadows[:count])
