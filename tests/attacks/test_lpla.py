"""The norm of a feature vector against a loop, and two normal distributions against SciPy's densities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.base import clone
from worlds import ragged

from hf_mia.attacks.gaussians import Gaussians
from hf_mia.attacks.shadow import ShadowClassifier
from hf_mia.config import change, changes_of
from hf_mia.core import Evidence
from hf_mia.estimators.gaussians import GaussianRatio
from hf_mia.papers import PAPERS
from hf_mia.signals.encoder import FeatureNorm

ATTACK = ShadowClassifier(FeatureNorm(), Gaussians())


def evidence(seed: int, members: int = 30, others: int = 50, width: int = 1) -> Evidence:
    rng = np.random.default_rng(seed)
    member = np.repeat([1.0, 0.0], [members, others])
    spread = np.where(member == 1, 0.5, 2.0)[:, None]
    features = 7 + member[:, None] + spread * rng.normal(size=(len(member), width))
    return Evidence(features, member, tuple(f"{i:03d}" for i in range(len(member))))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 30.0, float("inf")])
def test_a_norm_is_the_root_of_a_sum_of_powers(p: float) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"feature": row.astype(np.float32)} for row in rng.normal(size=(9, 12)) * 10.0 ** rng.integers(-3, 4, (9, 1))
    ]
    found = FeatureNorm(p).measure(ragged(rows))
    assert found.shape == (9, 1)
    assert found.dtype == np.float64
    for row, value in zip(rows, found[:, 0], strict=True):
        sizes = [abs(float(number)) for number in row["feature"]]
        expected = max(sizes) if p == float("inf") else sum(size**p for size in sizes) ** (1 / p)
        assert value == pytest.approx(expected, rel=1e-12)


def test_no_norm_overflows() -> None:
    rows = [{"feature": np.full(4, level, dtype=np.float32)} for level in (1e15, 0.0, 1e-38)]
    found = FeatureNorm(50.0).measure(ragged(rows))[:, 0]
    np.testing.assert_allclose(found, [1e15 * 4**0.02, 0, 1e-38 * 4**0.02], rtol=1e-6)


@pytest.mark.parametrize("p", [0.5, 0.0, -1.0, float("nan")])
def test_a_norm_needs_a_p_of_1(p: float) -> None:
    with pytest.raises(ValueError, match="p must be at least 1, such as 2"):
        FeatureNorm(p)


@pytest.mark.parametrize("width", [1, 3])
def test_scores_are_the_log_of_a_ratio_of_densities(width: int) -> None:
    """Whatever the share of members, for the priors are equal; and with members of unknown status left out."""
    shadows, target = [evidence(seed, width=width) for seed in range(2)], evidence(9, width=width)
    hidden = replace(shadows[1], member=np.where(np.arange(80) % 5 == 0, np.nan, shadows[1].member))
    scorer = ATTACK.fit([shadows[0], hidden])
    member = np.concatenate([shadows[0].member, hidden.member])
    features = np.vstack([shadow.features for shadow in shadows])
    expected = []
    for row in target.features:
        score = 0.0
        for column, value in enumerate(row):
            for side, sign in ((1, 1), (0, -1)):
                known = features[member == side, column]
                score += sign * norm.logpdf(value, known.mean(), known.std())
        expected.append(score)
    np.testing.assert_allclose(scorer.score(target), expected, rtol=0, atol=1e-9)
    assert scorer.threshold == 0


def test_the_order_of_units_and_the_scale_of_features_do_not_matter() -> None:
    shadow, target = evidence(0), evidence(9)
    scores = ATTACK.fit([shadow]).score(target)
    larger = [replace(one, features=one.features * 1e6 - 5) for one in (shadow, target)]
    np.testing.assert_allclose(ATTACK.fit(larger[:1]).score(larger[1]), scores, rtol=0, atol=1e-7)
    order = np.random.default_rng(0).permutation(80)
    turned = Evidence(shadow.features[order], shadow.member[order], tuple(shadow.names[i] for i in order))
    np.testing.assert_array_equal(ATTACK.fit([turned]).score(target), scores)


def test_members_of_one_norm_do_not_divide_by_0() -> None:
    shadow = evidence(0)
    same = replace(shadow, features=np.where(shadow.member[:, None] == 1, 7.0, shadow.features))
    scores = ATTACK.fit([same]).score(replace(shadow, features=np.linspace(6, 8, 80)[:, None]))
    assert np.isfinite(scores).all()
    expected = norm.logpdf(7.5, 7, np.sqrt(1e-6 * same.features.var()))
    others = same.features[same.member == 0]
    exact = ATTACK.fit([same]).score(Evidence(np.array([[7.5]]), np.array([np.nan]), ("one",)))
    np.testing.assert_allclose(exact, expected - norm.logpdf(7.5, others.mean(), others.std()), rtol=1e-9)


def test_norms_that_never_vary_tell_nothing() -> None:
    shadow = replace(evidence(0), features=np.full((80, 1), 3.0))
    np.testing.assert_array_equal(ATTACK.fit([shadow]).score(shadow), 0)
    one = replace(shadow, member=np.append(1.0, np.zeros(79)))
    np.testing.assert_array_equal(ATTACK.fit([one]).score(shadow), 0)


@pytest.mark.parametrize("floor", [0.0, -1e-6, 1.5, float("nan")])
def test_the_floor_has_bounds(floor: float) -> None:
    with pytest.raises(ValueError, match="floor must be above 0 and at most 1"):
        Gaussians(floor)


def test_a_fit_needs_both_sides() -> None:
    with pytest.raises(ValueError, match=r"two classes, but has \[1\.0\].*both members and non-members"):
        ATTACK.fit([replace(evidence(0), member=np.ones(80))])


def test_an_estimator_is_scikit_learns() -> None:
    shadow, estimator = evidence(0), Gaussians(1e-3).build()
    assert isinstance(estimator, GaussianRatio)
    fitted = clone(estimator).fit(shadow.features, np.where(shadow.member == 1, "in", "out"))
    assert fitted.classes_.tolist() == ["in", "out"]
    assert {*fitted.predict(shadow.features)} == {"in", "out"}
    assert estimator.get_params() == {"floor": 1e-3}
    with pytest.raises(ValueError, match="not fitted"):
        estimator.decision_function(shadow.features)


def test_a_configuration_changes_the_attack() -> None:
    changed = change(PAPERS["lpla"], {"signal": {"p": 1.0}, "classifier": {"floor": 1e-3}}, "lpla")
    assert changed == ShadowClassifier(FeatureNorm(1.0), Gaussians(1e-3))
    assert change(PAPERS["lpla"], changes_of(changed, PAPERS["lpla"]), "lpla") == changed
