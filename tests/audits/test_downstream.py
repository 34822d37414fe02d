"""Classifiers built on encoders, and attacks on their confidence, against scikit-learn's pipeline and plain loops."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from worlds import ragged

from hf_mia.attacks.downstream import Downstream
from hf_mia.attacks.relative import Relative
from hf_mia.attacks.shadow import LogisticRegression as Logistic
from hf_mia.attacks.shadow import ShadowClassifier
from hf_mia.audits.downstream import classifier, classifying, head
from hf_mia.audits.experiment import experiment
from hf_mia.audits.run import Stage, reseeded
from hf_mia.config import change, changes_of
from hf_mia.core import Attack, Floats, Game, Model, Pool, audit, gather
from hf_mia.data.knn import knn_accuracy, labelled
from hf_mia.models.vision import ImageCollate
from hf_mia.papers import PAPERS
from hf_mia.probes.views import Plain
from hf_mia.runner import Runner
from hf_mia.signals.encoder import Confidence, Feature, table

ATTACK = Downstream(ShadowClassifier(Confidence(), Logistic()))


def png(level: int, seed: int) -> dict[str, object]:
    """An image of 6 x 6 whose colours lie around a level."""
    file, noise = io.BytesIO(), np.random.default_rng(seed).integers(-60, 61, (6, 6, 3))
    Image.fromarray((np.clip(level + noise, 0, 255)).astype(np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def images(count: int, seed: int, classes: int = 3) -> Pool:
    """Images of some classes, which differ in their level; every tenth has no label."""
    label = np.random.default_rng(seed).integers(classes, size=count)
    encoded = [png(60 + 60 * int(level), 1000 * seed + i) for i, level in enumerate(label)]
    columns = {"image": encoded, "label": np.where(np.arange(count) % 10 == 9, -1, label)}
    return Pool(Dataset.from_dict(columns), np.arange(count), tuple(f"{seed}-{i:04d}" for i in range(count)))


def module(seed: int) -> nn.Module:
    """An encoder of 5 numbers, of which one is always 0."""
    torch.manual_seed(seed)
    layer = nn.Linear(3 * 6 * 6, 5)
    with torch.no_grad():
        layer.weight[2], layer.bias[2] = 0, 0
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU()).eval()


def game(seed: int, pool: Pool, known: bool) -> Game:
    member = (np.random.default_rng(seed).permutation(len(pool.names)) % 2).astype(np.float64)
    return Game(Model(f"encoder {seed}", f"key {seed}", ImageCollate(6), partial(module, seed)), pool, member, known)


POOL, CANDIDATES, ATTACKERS = images(160, 1), images(30, 2), images(40, 3)
TARGET, SHADOWS = game(1, CANDIDATES, False), [game(2, ATTACKERS, True), game(3, ATTACKERS, True)]


@pytest.fixture
def ask(tmp_path: Path) -> Runner:
    return Runner(tmp_path, chunk=50)


def features(seed: int, records: Dataset) -> Floats:
    """What an encoder says of each image alone."""
    found, encoder = [], module(seed)
    for one in records["image"]:
        pixels = np.asarray(Image.open(io.BytesIO(one["bytes"]))).transpose(2, 0, 1)
        with torch.no_grad():
            found.append(encoder(torch.from_numpy(pixels.copy())[None].float() / 255)[0].double().numpy())
    return np.array(found)


def logits(seed: int, pool: Pool) -> Floats:
    """A downstream classifier's logits of a pool, by scikit-learn's own pipeline."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(np.array(POOL.records["label"]) >= 0))
    known = POOL.records.select(rows)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    pipeline.fit(features(seed, known), np.array(known["label"]))
    return np.asarray(pipeline.decision_function(features(seed, pool.records)))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_head_is_scikit_learns_pipeline_as_one_layer(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(classes, size=300) * 2  # a class may be missing in between
    rows = rng.normal(size=(300, 6)) * [1, 100, 1e-3, 1, 1, 1] + [0, 50, 0, 7, 0, 1]
    rows[:, 3] += labels
    rows[:, 4] = 3.0  # never varies
    made, others = head(rows, labels), rng.normal(size=(50, 6)) * 3 + 1
    others[:, 4] = 3.0
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(rows, labels)
    found = others @ made.weight.T + made.bias
    assert found.shape == (50, classes)
    expected = pipeline.decision_function(others)
    expected = np.stack([np.zeros(50), expected], axis=1) if classes == 2 else expected
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(softmax(found, axis=1), pipeline.predict_proba(others), rtol=0, atol=1e-9)
    again = head(rows, labels)
    assert again.key == made.key
    assert head(rows, labels[::-1]).key != made.key


def test_games_are_about_classifiers_then(ask: Runner) -> None:
    made = classifying([TARGET, *SHADOWS], POOL, ask)
    assert len({game.model.key for game in made} | {"key 1", "key 2", "key 3"}) == 6
    for seed, (before, after) in enumerate(zip([TARGET, *SHADOWS], made, strict=True), 1):
        assert after.pool is before.pool
        assert after.member is before.member
        assert after.known is before.known
        assert after.model.name == f"encoder {seed} with a classifier"
        answers = np.concatenate([table(chunk["feature"]) for chunk in ask(after.model, Plain(), after.pool.records)])
        np.testing.assert_allclose(answers, logits(seed, after.pool), rtol=0, atol=1e-4)


def test_a_game_gets_the_same_classifier_whoever_is_beside_it(ask: Runner, tmp_path: Path) -> None:
    alone = [classifying([one], POOL, Runner(tmp_path / "b", ask.chunk))[0] for one in (TARGET, *SHADOWS)]
    turned = classifying([*SHADOWS[::-1], TARGET], POOL, ask)[::-1]
    assert [one.model.key for one in turned] == [one.model.key for one in alone]
    assert classifying([TARGET], few(130), ask)[0].model.key != alone[0].model.key


def test_the_key_holds_the_encoder_and_the_head() -> None:
    rng = np.random.default_rng(0)
    one, other = (head(rng.normal(size=(50, 5)), rng.integers(2, size=50)) for _ in range(2))
    model = TARGET.model
    made = [classifier(model, one), classifier(model, other), classifier(replace(model, key="another"), one)]
    assert len({made.key for made in made}) == 3
    assert classifier(model, one).key == made[0].key


def test_confidence_is_the_sorted_softmax() -> None:
    rng = np.random.default_rng(0)
    scales = [[1], [1], [1], [30], [3e4], [1e14], [0]]
    rows = [{"feature": row.astype(np.float32)} for row in rng.normal(size=(7, 4)) * scales]
    found = Confidence().measure(ragged(rows))
    assert found.dtype == np.float64
    for row, chances in zip(rows, found, strict=True):
        expected = sorted(softmax(row["feature"].astype(np.float64)), reverse=True)
        np.testing.assert_allclose(chances, expected, rtol=1e-12, atol=1e-300)


def test_a_stage_puts_classifiers_in_place_for_this_attack_alone(ask: Runner) -> None:
    told: list[str] = []
    stage = Stage(experiment({"data": {"kind": "images"}}), ask, told.append, POOL)
    target, shadows = stage.evidence(ATTACK, TARGET, SHADOWS, "one")
    for seed, evidence, game in zip((1, 2, 3), (target, *shadows), (TARGET, *SHADOWS), strict=True):
        expected = -np.sort(-softmax(logits(seed, game.pool), axis=1), axis=1)
        np.testing.assert_allclose(evidence.features, expected, rtol=0, atol=1e-5)
        assert evidence.features.shape[1] == 3
    assert np.isnan(target.member).all()
    plain, _ = stage.evidence(ShadowClassifier(Feature(), Logistic()), TARGET, SHADOWS, "other")
    np.testing.assert_allclose(plain.features, features(1, CANDIDATES.records), rtol=0, atol=1e-5)
    assert told == ["one", "other"]
    report = stage.report(ATTACK, (target, shadows), TARGET, "one")
    made = classifying([TARGET, *SHADOWS], POOL, ask)
    np.testing.assert_array_equal(report.scores, audit(ATTACK, made[0], made[1:], ask).scores)


@pytest.mark.parametrize("inner", [ATTACK.attack, Relative(ATTACK.attack)], ids=["shadow", "relative"])
def test_everything_else_is_the_inner_attacks(ask: Runner, inner: Attack) -> None:
    outer = Downstream(inner)
    assert (outer.least, outer.compares, outer.signal) == (inner.least, inner.compares, inner.signal)
    found, expected = (audit(attack, TARGET, SHADOWS, ask, "one") for attack in (outer, inner))
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.threshold == expected.threshold
    evidence, _ = gather(outer, TARGET, SHADOWS, ask)
    np.testing.assert_allclose(
        evidence.features, -np.sort(-softmax(features(1, CANDIDATES.records), axis=1), axis=1), rtol=0, atol=1e-6
    )


def test_another_trial_reseeds_the_inner_classifier() -> None:
    again = reseeded(PAPERS["downstream-confidence"], 2)
    assert again == change(PAPERS["downstream-confidence"], {"attack": {"classifier": {"seed": 2}}}, "attack")


def test_a_configuration_changes_the_inner_attack() -> None:
    named = PAPERS["downstream-confidence"]
    changed = change(named, {"attack": {"classifier": {"epochs": 3, "activation": "relu"}}}, "attack")
    assert changed != named
    assert change(named, changes_of(changed, named), "attack") == changed
    made = experiment({"data": {"kind": "images"}, "attacks": ["downstream-confidence", "partcrop", "lpla"]})
    assert made.attacks["downstream-confidence"] == named


def few(count: int) -> Pool:
    labels = np.array(POOL.records["label"])
    rows = np.sort(np.concatenate([np.flatnonzero(labels >= 0)[:count], np.flatnonzero(labels < 0)]))
    return Pool(POOL.records.select(rows), np.arange(len(rows)), tuple(POOL.names[i] for i in rows))


def test_labels_must_be_there(ask: Runner) -> None:
    bare = replace(POOL, records=POOL.records.remove_columns("label"))
    for pool in (bare, few(119), few(0)):
        with pytest.raises(ValueError, match=r"120 labelled images.*there are fewer.*data\.label.*leave this attack"):
            classifying([TARGET], pool, ask)
    alike = POOL.records.remove_columns("label").add_column("label", np.ones(160, dtype=np.int64))
    with pytest.raises(ValueError, match=r"two classes or more.*are images of one class only.*leave this attack out"):
        classifying([TARGET], replace(POOL, records=alike), ask)
    assert len(classifying([TARGET], few(120), ask)) == 1


def test_a_neighbours_accuracy_is_that_of_a_loop(ask: Runner) -> None:
    """Of the same images, two thirds of them known, by the cosine."""
    found = labelled(POOL)
    assert found is not None
    records, labels = found
    assert len(records) == 144
    assert labels.tolist() == records["label"]
    rows = features(1, records)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    right = []
    for row, label in zip(rows[96:], labels[96:], strict=True):
        nearest = labels[:96][np.argsort(1 - rows[:96] @ row, kind="stable")[:20]]
        right.append(np.bincount(nearest, minlength=3).argmax() == label)
    assert knn_accuracy(TARGET.model, POOL, ask) == pytest.approx(np.mean(right), abs=0.03)  # but for ties
    assert knn_accuracy(TARGET.model, few(119), ask) is None
