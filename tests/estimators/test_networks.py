"""The networks' gradients, steps and scores against autograd and torch, and what each classifier can and cannot see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from torch import nn

from hf_mia.attacks.networks import MLP, DeepSets
from hf_mia.attacks.shadow import Classifier, LinearSVC, LogisticRegression, ShadowClassifier
from hf_mia.config import change
from hf_mia.core import Evidence
from hf_mia.estimators.networks import CommonScaler, Network, NetworkClassifier, Parameters, Perceptron, SetNetwork
from hf_mia.signals.language import MeanRank

SMALL_MLP = MLP(hidden=(32, 32), learning_rate=3e-3, epochs=60)
SMALL_SETS = DeepSets(phi=(32, 32), rho=(32,), epochs=40)
SMALL_MAX = replace(SMALL_SETS, pool="max")
PERCEPTRONS = [Perceptron((16, 8)), Perceptron((16, 8), "relu")]
NETWORKS = [*PERCEPTRONS, SetNetwork((16, 16, 8), (8,), "mean"), SetNetwork((16, 8), (8, 4), "max")]


def levels(seed: int, units: int = 400, width: int = 12) -> Evidence:
    """Sets whose level lies higher for members, and whose inner spread tells nothing."""
    rng = np.random.default_rng(seed)
    member = (np.arange(units) % 2).astype(np.float64)
    spread = rng.uniform(0.02, 0.06, (units, 1))
    features = 0.8 + 0.05 * member[:, None] + spread * rng.normal(size=(units, width))
    return Evidence(features, member, tuple(f"{i:04d}" for i in range(units)))


def spreads(seed: int, units: int = 400, width: int = 12) -> Evidence:
    """Sets whose inner spread is larger for members, and whose level tells nothing: no column by itself does."""
    rng = np.random.default_rng(seed)
    member = (np.arange(units) % 2).astype(np.float64)
    features = 0.8 + (0.03 + 0.07 * member[:, None]) * rng.normal(size=(units, width))
    return Evidence(features, member, tuple(f"{i:04d}" for i in range(units)))


def parameters(network: Network, features: int, seed: int = 0) -> Parameters:
    return Parameters(network.sizes(features), torch.Generator().manual_seed(seed), "cpu")


def batch(rows: int, features: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(2, (rows,), generator=generator)
    return torch.randn(rows, features, generator=generator), nn.functional.one_hot(label, 2).float()


def in_torch(network: Perceptron, made: Parameters) -> nn.Sequential:
    """The same perceptron as torch's own modules."""
    layers: list[nn.Module] = []
    for weight, bias in made.layers:
        layer = nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(weight.t())
            layer.bias.copy_(bias)
        layers += [layer, nn.ReLU() if network.activation == "relu" else nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("kind", PERCEPTRONS, ids=["tanh", "relu"])
@pytest.mark.parametrize(("rows", "hidden", "features"), [(100, (256, 256), 45), (7, (5,), 3), (1, (8, 16, 4), 1)])
def test_the_written_out_gradient_is_autograds(
    kind: Perceptron, rows: int, hidden: tuple[int, ...], features: int
) -> None:
    network = replace(kind, hidden=hidden)
    made = parameters(network, features)
    x, truth = batch(rows, features)
    theirs = in_torch(network, made)
    torch.testing.assert_close(network.logits(made.layers, x), theirs(x).detach(), rtol=1e-4, atol=1e-5)
    nn.functional.cross_entropy(theirs(x), truth.argmax(1)).backward()
    expected = [part.grad for part in theirs.parameters()]
    with torch.no_grad():
        network.gradient(made, x, truth)
    found = [part.t() for layer in made.gradients for part in layer]
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)
    Network.gradient(network, again := parameters(network, features), x, truth)
    torch.testing.assert_close(made.flat.grad, again.flat.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_deep_sets_are_a_naive_loop(pool: str) -> None:
    """phi of each number, pooled, then rho: written with numpy, number by number."""
    network = SetNetwork((6, 5, 4), (3,), "mean" if pool == "mean" else "max")
    made = parameters(network, 9)
    x = batch(5, 9)[0]
    layers = [(weight.numpy(), bias.numpy()) for weight, bias in made.layers]
    expected = []
    for row in x.numpy():
        inner = []
        for number in row:
            y = np.array([number])
            for i, (weight, bias) in enumerate(layers[:3]):
                y = y @ weight + bias if i == 2 else np.maximum(y @ weight + bias, 0)
            inner.append(y)
        y = np.mean(inner, axis=0) if pool == "mean" else np.max(inner, axis=0)
        y = np.maximum(y @ layers[3][0] + layers[3][1], 0)
        expected.append(y @ layers[4][0] + layers[4][1])
    np.testing.assert_allclose(network.logits(made.layers, x).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_one_step_is_torchs_adam() -> None:
    """One batch, one epoch, decay and all, against torch.optim.Adam on torch's own modules."""
    network, (x, truth) = Perceptron((16, 8)), batch(20, 5)
    start = torch.Generator().manual_seed(3)
    theirs = in_torch(network, Parameters(network.sizes(5), start, "cpu"))
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2, weight_decay=0.1)
    nn.functional.cross_entropy(theirs(x), truth.argmax(1)).backward()
    optimizer.step()
    ours = NetworkClassifier(network, 1e-2, 0.1, 20, 1, 3).fit(x.numpy(), truth[:, 1].numpy())
    expected = theirs.double()(x.double()).detach()
    np.testing.assert_allclose(ours.decision_function(x.numpy()), expected[:, 1] - expected[:, 0], rtol=0, atol=1e-5)


def test_an_epoch_takes_every_row_once_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []

    def note(self: Perceptron, made: Parameters, x: torch.Tensor, truth: torch.Tensor) -> None:
        assert torch.get_num_threads() == 1
        seen.append(x[:, 0].tolist())
        assert truth[:, 1].tolist() == [number % 2 for number in seen[-1]]

    monkeypatch.setattr(Perceptron, "gradient", note)
    numbers = np.arange(25.0)
    NetworkClassifier(Perceptron((2,)), 1e-3, 0.0, 10, 2, 0).fit(numbers[:, None], numbers % 2)
    assert [len(rows) for rows in seen] == [10, 10, 5] * 2
    first, second = ([number for rows in half for number in rows] for half in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == numbers.tolist()
    assert first != second


@pytest.mark.parametrize("classifier", [SMALL_MLP, SMALL_SETS, SMALL_MAX], ids=["mlp", "mean", "max"])
@pytest.mark.parametrize("problem", [levels, spreads])
def test_levels_and_spreads_are_learnt(classifier: Classifier, problem: type) -> None:
    scorer, target = ShadowClassifier(MeanRank(), classifier).fit([problem(0), problem(1)]), problem(9)
    scores = scorer.score(target)
    assert roc_auc_score(target.member, scores) > 0.95
    assert ((scores > 0) == (target.member == 1)).mean() > 0.85
    assert scorer.threshold == 0


def test_no_linear_classifier_sees_a_spread() -> None:
    target = spreads(9)
    scorer = ShadowClassifier(MeanRank()).fit([spreads(0), spreads(1)])
    assert abs(roc_auc_score(target.member, scorer.score(target)) - 0.5) < 0.15


@pytest.mark.parametrize("classifier", [SMALL_SETS, SMALL_MAX], ids=["mean", "max"])
def test_a_set_has_no_order_but_a_level(classifier: DeepSets) -> None:
    scorer = ShadowClassifier(MeanRank(), classifier).fit([levels(0)])
    target, rng = levels(9), np.random.default_rng(0)
    scores = scorer.score(target)
    mixed = rng.permuted(target.features, axis=1)
    np.testing.assert_allclose(scorer.score(replace(target, features=mixed)), scores, rtol=0, atol=1e-6)
    assert (scorer.score(replace(target, features=target.features + 0.05)) > scores).all()


def test_only_sets_are_scaled_as_one() -> None:
    features = np.random.default_rng(0).normal(3, [1, 5, 9], (50, 3))
    assert all(kind.scaler().fit(features).mean_.shape == (3,) for kind in (MLP(), LinearSVC(), LogisticRegression()))
    found = DeepSets().scaler().fit_transform(features)
    np.testing.assert_allclose(found, (features - features.mean()) / features.std(), rtol=1e-12)
    np.testing.assert_array_equal(CommonScaler().fit_transform(np.full((4, 3), 0.1)).round(9), 0)


@pytest.mark.parametrize("classifier", [SMALL_MLP, SMALL_SETS, SMALL_MAX], ids=["mlp", "mean", "max"])
def test_a_fit_hangs_on_its_data_and_seed_alone(classifier: MLP | DeepSets) -> None:
    quick = replace(classifier, epochs=3)
    shadow, target = levels(0, units=130), levels(9)
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = ShadowClassifier(MeanRank(), quick).fit([shadow]).score(target)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(2)
    try:
        torch.set_num_threads(other_threads := 3 - min(threads, 2))
        again = ShadowClassifier(MeanRank(), quick).fit([shadow]).score(target)
        assert torch.get_num_threads() == other_threads
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(first, again)
    other = ShadowClassifier(MeanRank(), replace(quick, seed=5)).fit([shadow]).score(target)
    assert (first != other).any()
    assert first.dtype == np.float64


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_a_row_is_scored_by_itself(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow, target = levels(0, units=50), levels(9, units=90)
    fitted = NetworkClassifier(network, 1e-3, 0.0, 20, 2, 0).fit(shadow.features, shadow.member)
    scores = fitted.decision_function(target.features)
    alone = np.concatenate([fitted.decision_function(row[None]) for row in target.features])
    np.testing.assert_allclose(alone, scores, rtol=0, atol=1e-12)
    monkeypatch.setattr("hf_mia.estimators.networks.NUMBERS", 85)  # seven sets at a time
    rows: list[int] = []
    logits = type(network).logits

    def count(self: Network, layers: list[tuple[torch.Tensor, torch.Tensor]], x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return logits(self, layers, x)

    monkeypatch.setattr(type(network), "logits", count)
    np.testing.assert_allclose(fitted.decision_function(target.features), scores, rtol=0, atol=1e-12)
    assert rows == [7] * 12 + [6]


def test_an_estimator_is_scikit_learns() -> None:
    shadow = levels(0, units=60)
    estimator = SMALL_MLP.build()
    fitted = clone(estimator).fit(shadow.features, np.where(shadow.member == 1, "in", "out"))
    assert fitted.classes_.tolist() == ["in", "out"]
    assert set(fitted.predict(shadow.features)) <= {"in", "out"}
    assert not hasattr(estimator, "parameters_")
    assert estimator.get_params()["learning_rate"] == SMALL_MLP.learning_rate
    with pytest.raises(ValueError, match="not fitted"):
        estimator.decision_function(shadow.features)


def bad(value: float) -> npt.NDArray[np.float64]:
    features = levels(0, units=8).features.copy()
    features[3, 2] = value
    return features


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    member = np.arange(8) % 2
    with pytest.raises(ValueError, match=r"X must be finite.*1 rows.*\[3\].*leave"):
        SMALL_MLP.build().fit(bad(value), member)
    with pytest.raises(ValueError, match="X must be finite"):
        CommonScaler().fit(bad(value))
    with pytest.raises(ValueError, match="X must be finite"):
        SMALL_SETS.build().fit(bad(0), member).decision_function(bad(value))


def test_a_fit_needs_both_classes_and_scores_need_its_features() -> None:
    features, member = bad(0), np.arange(8) % 2
    with pytest.raises(ValueError, match=r"two classes.*\[1\.0\].*both members and non-members"):
        SMALL_MLP.build().fit(features, np.ones(8))
    with pytest.raises(ValueError, match=r"label 8 rows.*7 labels"):
        SMALL_MLP.build().fit(features, member[:7])
    with pytest.raises(ValueError, match=r"shape \(0, 12\)"):
        SMALL_MLP.build().fit(features[:0], member[:0])
    with pytest.raises(ValueError, match="12 features of the fit, but has 11"):
        SMALL_MLP.build().fit(features, member).decision_function(features[:, :11])
    with pytest.raises(ValueError, match=r"diverged with learning_rate = 1e\+30: lower it"):
        MLP(hidden=(4,), learning_rate=1e30).build().fit(features, member)


@pytest.mark.parametrize("value", [MLP(), DeepSets()], ids=["mlp", "sets"])
@pytest.mark.parametrize(
    ("field", "wrong"),
    [("learning_rate", 0.0), ("learning_rate", np.nan), ("decay", -1.0), ("batch", 0), ("epochs", 0), ("seed", -1)],
)
def test_settings_are_positive(value: MLP | DeepSets, field: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must be"):
        replace(value, **{field: wrong})


@pytest.mark.parametrize("wrong", [(), (0,), (256, -1)])
def test_widths_are_positive(wrong: tuple[int, ...]) -> None:
    for value, field in ((MLP(), "hidden"), (DeepSets(), "phi"), (DeepSets(), "rho")):
        with pytest.raises(ValueError, match=f"{field} must be one or more widths"):
            replace(value, **{field: wrong})


def test_settings_come_from_a_config() -> None:
    attack = ShadowClassifier(MeanRank(), DeepSets())
    changed = change(attack, {"classifier": {"pool": "max", "phi": [64, 64], "epochs": 5}}, "attack")
    assert changed.classifier == DeepSets(pool="max", phi=(64, 64), epochs=5)
    with pytest.raises(ValueError, match="pool"):
        change(attack, {"classifier": {"pool": "sum"}}, "attack")
    with pytest.raises(ValueError, match="pool must be 'mean' or 'max'"):
        replace(DeepSets(), pool="sum")  # type: ignore[arg-type]
    assert change(MLP(), {"activation": "relu"}, "classifier").build().network == Perceptron((256, 256), "relu")
    with pytest.raises(ValueError, match="activation must be 'tanh' or 'relu', but is 'gelu'"):
        replace(MLP(), activation="gelu")  # type: ignore[arg-type]
