"""A whole audit of images: controls, background knowledge, early stopping, trials and sweeps over one shared target."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModel
from worlds import contents

from hf_mia.attacks.downstream import Downstream
from hf_mia.attacks.groups import PerGroup
from hf_mia.attacks.relative import Relative
from hf_mia.audits.dry import describe
from hf_mia.audits.experiment import experiment
from hf_mia.audits.folder import file_name, write_folder
from hf_mia.audits.played import Played, spread
from hf_mia.audits.run import play, reseeded, variants_of
from hf_mia.audits.setting import Setting, jobs, setting
from hf_mia.audits.table import print_played
from hf_mia.config import override
from hf_mia.core import Floats, Game, Pool, audit
from hf_mia.models.vision import encoder
from hf_mia.papers import PAPERS
from hf_mia.probes.views import ViewFeatures
from hf_mia.recipes.contrastive import MoCo, SimCLR
from hf_mia.reports.estimates import Estimate
from hf_mia.reports.report import Report
from hf_mia.runner import Runner
from hf_mia.shadows import Job
from hf_mia.signals.encoder import ConcatenatedFeatures

N = 32
AXES = ("distribution", "architecture", "algorithm")
TINY = {"name": "moco", "width": 4, "size": 8, "epochs": 6, "batch": 16, "queue": 16, "splits": 2}
CONFIG: dict[str, object] = {
    "data": {"kind": "images", "labels": [4, 5, 6, 7, 8, 9]},
    "split": {"members": N},
    "target": {**TINY, "checkpoints": [3, 6]},
    "attacks": [{"name": "encodermi-v", "classifier": {"epochs": 3}}, "encodermi-t", "encoder-similarity"],
    "sweeps": {
        "n": {"attacks": ["encodermi-t"], "changes": {"signal": {"probe": {"n": 20}}}, "field": "signal.first"}
        | {"values": [2, 5, 20]},
        "similarity": {"attacks": ["encodermi-t"], "field": "signal.similarity", "values": ["cosine", "euclidean"]},
    },
    "grid": {
        "distribution": {"labels": [0, 1, 2, 3]},
        "architecture": {"architecture": "vgg11"},
        "algorithm": {"name": "simclr", "width": 4, "size": 8, "epochs": 6, "batch": 16, "splits": 2},
    },
    "trials": 3,
}


@dataclass(frozen=True)
class Run:
    """A played audit, its cache, and the folder that was written."""

    prepared: Setting
    played: Played
    cache: Path
    out: Path

    @property
    def jobs(self) -> dict[str, Job]:
        return {job.name: job for job in jobs(self.prepared)}

    def folder(self, name: str) -> Path:
        return self.jobs[name].folder(self.cache)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    prepared = setting(experiment(CONFIG))
    played = play(prepared, folder / "cache")
    write_folder(folder / "out", prepared.experiment, played)
    return Run(prepared, played, folder / "cache", folder / "out")


def test_every_setting_is_named_by_what_the_attacker_knows(run: Run) -> None:
    found = variants_of(run.prepared)
    assert len(found) == 8
    assert next(iter(found)) == ", ".join(AXES)
    assert list(found)[-1] == "nothing"
    for name, variant in found.items():
        knows = set(name.split(", ")) - {"nothing"}
        target, shadow = jobs(variant)
        assert target.folder(run.cache) == run.folder("target")
        assert set(target.records["label"]) <= {4, 5, 6, 7, 8, 9}
        assert set(shadow.records["label"]) <= ({4, 5, 6, 7, 8, 9} if "distribution" in knows else {0, 1, 2, 3})
        assert shadow.recipe.architecture == ("resnet18" if "architecture" in knows else "vgg11")
        assert isinstance(shadow.recipe, MoCo if "algorithm" in knows else SimCLR)
        assert len(shadow.records) == N
    assert list(found) == list(run.played.scenes["background knowledge"].reports)


def test_eight_settings_share_one_target(run: Run) -> None:
    told = [json.loads(path.read_text()) for path in run.cache.glob("models/*/training.json")]
    assert Counter(one["name"] for one in told) == {"target": 1, "shadow 1": 8, "untrained": 1, "swapped": 1}
    assert len(list(run.cache.glob("models/*"))) == len(told)


def test_the_setting_that_knows_all_is_the_audit_itself(run: Run) -> None:
    settings = run.played.scenes["background knowledge"].reports
    for name, report in run.played.reports.items():
        np.testing.assert_array_equal(settings[", ".join(AXES)][name].scores, report.scores)
        same = [(row[name].scores == report.scores).all() for row in settings.values()]
        assert sum(same) == (
            1 if name.startswith("encodermi-v") else 8
        )  # a score that takes no shadow knows no setting


def test_the_untrained_control_was_never_trained(run: Run) -> None:
    job, weights = run.jobs["untrained"], load_file(run.folder("untrained") / "model.safetensors")
    torch.manual_seed(job.seed)
    fresh = job.recipe.module().state_dict()
    assert weights.keys() == fresh.keys()
    assert all(torch.equal(weights[key], value) for key, value in fresh.items())
    steps = {int(value) for key, value in weights.items() if key.endswith("num_batches_tracked")}
    trained = load_file(run.folder("target") / "model.safetensors")
    assert steps == {0}
    assert {int(v) for key, v in trained.items() if key.endswith("num_batches_tracked")} == {6 * N // 16}


def test_the_swapped_control_was_trained_on_exactly_the_non_members(run: Run) -> None:
    pool, member = run.prepared.candidates(), run.played.headline.member
    sides = [{image for image, m in zip(contents(pool.records), member, strict=True) if m == side} for side in (1, 0)]
    for name, side in zip(("target", "swapped"), sides, strict=True):
        assert set(contents(run.jobs[name].records)) == side
        assert len(run.jobs[name].records) == len(side) == N
    assert run.jobs["swapped"].recipe == run.jobs["target"].recipe


@pytest.mark.parametrize("name", ["untrained", "swapped"])
def test_a_control_is_asked_about_the_targets_game_by_the_same_attack(run: Run, name: str) -> None:
    found = run.played.scenes["controls"].reports[name]["encodermi-t"]
    pool, member = run.prepared.candidates(), run.played.headline.member.astype(np.float64)
    model = encoder(run.folder(name))
    again = audit(PAPERS["encodermi-t"], Game(model, pool, member), [], Runner(run.cache))
    np.testing.assert_array_equal(found.scores, again.scores)
    np.testing.assert_array_equal(found.member, member == 1)
    assert found.threshold == run.played.reports["encodermi-t"].threshold  # of the same shadow
    assert (found.scores != run.played.reports["encodermi-t"].scores).any()


@pytest.mark.parametrize("epoch", [3, 6])
def test_early_stopping_is_an_audit_of_the_checkpoints(run: Run, epoch: int) -> None:
    found = run.played.scenes["early stopping"].reports[str(epoch)]
    target, shadow = (encoder(run.folder(name) / f"epoch-{epoch:04d}") for name in ("target", "shadow 1"))
    inside = run.prepared.inside()
    known = {run.prepared.corpus.names[i] for i in run.prepared.split.shadows[0]}
    candidates, attackers = run.prepared.candidates(), run.prepared.shadow_pool()
    games = [
        Game(model, pool, np.array([float(name in names) for name in pool.names]), known=who)
        for model, pool, names, who in ((target, candidates, inside, False), (shadow, attackers, known, True))
    ]
    for name, attack in run.prepared.experiment.attacks.items():
        again = audit(attack, games[0], games[1:], Runner(run.cache))
        np.testing.assert_array_equal(found[name].scores, again.scores)
        assert found[name].threshold == again.threshold
        assert (found[name].scores == run.played.reports[name].scores).all() == (epoch == 6)  # the last is the end


@pytest.mark.parametrize("epoch", [3, 6])
def test_the_probe_beside_it_is_a_vote_of_20_neighbours(run: Run, epoch: int) -> None:
    """By hand: Pillow, the normalisation, the backbone, and a loop over the images outside of the game."""
    rest = run.prepared.rest()
    assert not {*rest.names} & {*run.prepared.candidates().names, *run.prepared.shadow_pool().names}
    features, labels = by_hand(run.folder("target") / f"epoch-{epoch:04d}", rest), np.array(rest.records["label"])
    order = np.random.default_rng(0).permutation(len(labels))[:3000]
    fitted, tested = np.split(order, [len(order) * 2 // 3])
    right = sum(vote(features[fitted] @ features[i], labels[fitted]) == labels[i] for i in tested)
    found = run.played.scenes["early stopping"].utility[str(epoch)]
    assert found == pytest.approx(right / len(tested), abs=1.5 / len(tested))  # float32 may turn one tie
    assert found > 0.5  # of six digits


def by_hand(folder: Path, pool: Pool) -> Floats:
    """The features of images, at length 1."""
    model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(i["bytes"])).convert("RGB")) for i in pool.records["image"]])
    mean, deviation = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    rows = torch.from_numpy((pixels / 255 - mean) / deviation).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        features = model(rows).pooler_output.flatten(1).double().numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def vote(alike: Floats, labels: np.ndarray) -> int:
    return int(np.bincount(labels[np.argsort(-alike)[:20]]).argmax())


def test_trials_differ_in_their_seed_and_are_summed_up_as_numpy_does(run: Run) -> None:
    (name,) = run.played.trials  # a threshold draws nothing
    assert name == "encodermi-v (classifier.epochs=3)"
    trials = run.played.trials[name]
    assert [(trial.scores == trials[0].scores).all() for trial in trials] == [True, False, False]
    np.testing.assert_array_equal(trials[0].scores, run.played.reports[name].scores)
    target, shadows = run.played.evidence[name]
    for seed, trial in enumerate(trials):
        attack = replace(
            PAPERS["encodermi-v"], classifier=replace(PAPERS["encodermi-v"].classifier, epochs=3, seed=seed)
        )
        np.testing.assert_array_equal(trial.scores, attack.fit(shadows).score(target))
    told = json.loads((run.out / "report.json").read_text())["trials"][name]
    for number in ("accuracy", "recall", "auc"):
        values = [getattr(trial, number).value for trial in trials]
        assert told[number] == pytest.approx([np.mean(values), np.std(values, ddof=1)], abs=1e-12)


def test_a_mean_over_what_is_unknown_is_unknown(run: Run) -> None:
    """Where a trial calls nobody a member, its precision is n/a, and so is the trials'."""
    base = next(iter(run.played.trials.values()))[0]
    silent = replace(base, threshold=float(base.scores.max()) + 1)
    loud = replace(base, threshold=float(np.median(base.scores)))
    assert spread([loud, silent])["precision"] is None
    assert spread([loud, loud])["precision"] == (loud.precision.value, 0.0)
    assert spread([loud, silent])["recall"] == pytest.approx((loud.recall.value / 2, loud.recall.value / 2**0.5))


def test_a_sweep_over_n_is_of_the_first_views_of_one_probe(run: Run) -> None:
    sweep, pool = run.prepared.experiment.sweeps["n"], run.prepared.candidates()
    assert len({sweep.attack("encodermi-t", value).signal.probe for value in sweep.values}) == 1
    ask, model = Runner(run.cache), encoder(run.folder("target"))
    for n, report in zip((2, 5, 20), run.played.sweeps["n"]["encodermi-t"], strict=True):
        drawn = ConcatenatedFeatures(ViewFeatures(n=n))
        views = drawn.read(ask(model, drawn.probe, pool.records), pool).reshape(len(pool.names), n, -1)
        views /= np.linalg.norm(views, axis=2, keepdims=True)
        expected = [np.mean([one[i] @ one[j] for i in range(n) for j in range(i)]) for one in views]
        np.testing.assert_allclose(report.scores, expected, rtol=0, atol=1e-5)


def test_a_sweep_over_names_has_a_row_each(run: Run) -> None:
    cosine, euclidean = run.played.sweeps["similarity"]["encodermi-t"]
    assert [cosine.name, euclidean.name] == [f"encodermi-t (signal.similarity={n})" for n in ("cosine", "euclidean")]
    np.testing.assert_array_equal(cosine.scores, run.played.reports["encodermi-t"].scores)
    assert (euclidean.scores < 0).all()  # distances, negated


def strict(path: Path) -> dict[str, object]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


def reports(told: object) -> list[Mapping[str, object]]:
    """Every report in a JSON, at whatever depth."""
    if isinstance(told, dict):
        return [told] if "report" in told else [found for inner in told.values() for found in reports(inner)]
    return [found for inner in told for found in reports(inner)] if isinstance(told, list) else []


def test_report_json_holds_all(run: Run) -> None:
    told = strict(run.out / "report.json")
    attacks, variants = 3, 2 + 8 + 2
    found = reports(told)
    assert len(found) == attacks * (1 + variants) + 3 + 2 + 1  # on the target and its variants, two sweeps, blind
    for one in found:
        report = Report.from_dict(one["report"])
        assert {"value": report.auc.value, "low": report.auc.low, "high": report.auc.high} == one["estimates"]["auc"]
    assert {title: list(scene["reports"]) for title, scene in told["scenes"].items()} == {
        "controls": ["untrained", "swapped"],
        "background knowledge": list(run.played.scenes["background knowledge"].reports),
        "early stopping": ["3", "6"],
    }
    assert list(told["scenes"]["early stopping"]["utility"]) == ["3", "6"]
    assert told["sweeps"]["similarity"]["values"] == ["cosine", "euclidean"]
    assert told["images"] == {"members": N, "non_members": N, "attacker": 2 * N, "shadows": 1}
    assert told["data"]["images_asked"] == 2 * N
    assert told["control"]["report"]["name"] == "blind (no model)"
    assert told["knn_accuracy"] == told["scenes"]["early stopping"]["utility"]["6"]
    assert told["headline"] == "encodermi-v (classifier.epochs=3)"
    assert set(told["mean_view_similarity"]) == {"members", "non-members"}
    cosines = run.played.reports["encodermi-t"]
    for side, means in (("members", cosines.member), ("non-members", ~cosines.member)):
        assert told["mean_view_similarity"][side] == pytest.approx(cosines.scores[means].mean(), abs=1e-6)
    again = experiment(yaml.safe_load((run.out / "config.yaml").read_text()))
    assert again == run.prepared.experiment


def test_the_figures_are_there(run: Run) -> None:
    found = {path.stem for path in run.out.glob("figures/*.png")}
    assert found == {"similarities", "views", "early-stopping", "roc", "scores", "sweep-n"}  # no curve over names
    for path in run.out.glob("figures/*.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5  # not an empty canvas


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("blind", ["as it is", "knows all", "errs always"])
def test_the_printed_tables_cut_no_number(run: Run, width: int, blind: str) -> None:
    """The widest numbers are those of an attack that the blind control beats: both ends below 0."""
    control, member = run.played.control, run.played.control.member.astype(np.float64)
    scores = {"as it is": control.scores, "knows all": member, "errs always": -member}[blind]
    played = replace(run.played, control=replace(control, scores=scores))
    file = io.StringIO()
    print_played(run.prepared.experiment, played, Console(file=file, width=width, highlight=False))
    text = file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    words = Counter(text.split())
    above = [played.above_control(report) for report in played.reports.values()]
    tables = [*played.reports.values(), played.control]
    tables += [report for rows in played.sweeps.values() for row in rows.values() for report in row]
    expected = Counter(word for report in tables for e in report.summary().values() for word in shown(e))
    expected += Counter(word for estimate in above for word in shown(estimate))
    for scene in played.scenes.values():
        for rows in scene.reports.values():
            for report in rows.values():
                expected += Counter([*shown(report.auc), shown(report.accuracy)[0]])
        expected += Counter(f"{value:.3f}" for value in scene.utility.values())
    assert expected - words == Counter()
    for name in ("encodermi-t", "blind (no", "untrained", "swapped", "nothing", "kNN probe", "Verdict by"):
        assert name in text


def shown(estimate: Estimate) -> list[str]:
    """The words of a cell: the value, and its interval without leading zeros."""
    if estimate.value is None:
        return ["n/a"]
    ends = [f"{end:.2f}".replace("1.00", "1") for end in (estimate.low, estimate.high) if end is not None]
    interval = "–".join(re.sub(r"^(-?)0\.", r"\1.", end) for end in ends)
    return [f"{estimate.value:.3f}", *([interval] if interval else [])]


def test_the_same_run_again_trains_and_asks_nothing(run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.cache.rglob("*") if path.is_file()}
    again = play(setting(experiment(CONFIG)), run.cache)
    assert {path: path.stat().st_mtime_ns for path in run.cache.rglob("*") if path.is_file()} == before
    for name, report in run.played.reports.items():
        np.testing.assert_array_equal(again.reports[name].scores, report.scores)


def test_a_dry_run_counts_and_trains_nothing(run: Run, tmp_path: Path) -> None:
    text = describe(run.prepared.experiment, tmp_path / "cache")
    images = len(run.prepared.corpus.names)
    assert f"images: {N} members, {N} non-members, {2 * N} attacker's, {images - 4 * N} not in the game" in text
    assert "models: 11 to have, 11 to train" in text
    targets, shadows, epochs = (
        1 + 2 + 2,
        1 + 2 + 7,
        2,
    )  # the end and two epochs of each, two controls, the grid's others
    queries = (targets + shadows) * 2 * N + (1 + epochs) * (images - 4 * N)  # the target is probed on the rest
    assert f"queries: {queries:,} images" in text
    assert not (tmp_path / "cache").exists()
    config, _ = text.split("\nimages: ")
    assert experiment(yaml.safe_load(config)) == run.prepared.experiment
    assert "models: 11 to have, 0 to train" in describe(run.prepared.experiment, run.cache)


def test_a_dry_run_counts_the_images_of_downstream_classifiers(tmp_path: Path) -> None:
    made = experiment({"data": {"kind": "images"}, "split": {"members": 16}, "target": {**TINY, "checkpoints": []},
                       "attacks": ["downstream-confidence"], "controls": []})  # fmt: skip
    rest = 1797 - 4 * 16
    assert f"queries: {2 * 32 + 2 * rest:,} images" in describe(made, tmp_path / "cache")


def test_a_seed_is_moved_wherever_a_classifier_stands() -> None:
    for name, attack in PAPERS.items():
        moved, inner, own = reseeded(attack, 3), reseeded(attack, 3), attack
        while isinstance(own, (Relative, Downstream, PerGroup)):
            assert type(inner) is type(own)
            inner, own = inner.attack, own.attack
        seed = getattr(getattr(own, "classifier", None), "seed", None)
        assert (moved != attack) == (seed is not None), name
        if seed is not None:
            assert replace(inner, classifier=replace(inner.classifier, seed=seed)) == own  # and nothing else is
            assert inner.classifier.seed == seed + 3
            assert reseeded(reseeded(attack, 1), 2) == moved


def test_tables_and_attacks_have_any_name_and_values_may_stand_twice(run: Run) -> None:
    views = {"scale": [0.25, 1.0], "ratio": [0.75, 1.25], "flip": 0.25, "jitter": [0.375, 0.375, 0.375, 0.125]}
    long = {"name": "encodermi-t", "signal": {"probe": {"augmentation": {**views, "gray": 0.125}}}}
    sweep = {"attacks": ["encodermi-t"], "field": "signal.first", "values": [2, 2]}
    given = {**CONFIG, "target": TINY, "attacks": [long], "sweeps": {"a/b": sweep}, "controls": [], "trials": 1}
    made = experiment(override(given, ["grid=null"]))
    played = play(setting(made), run.cache)
    one, again = played.sweeps["a/b"]["encodermi-t"]
    np.testing.assert_array_equal(one.scores, again.scores)
    out = run.out.parent / "long"
    write_folder(out, made, played)
    assert (out / "figures" / "sweep-a-b.png").exists()
    (name,) = played.reports
    assert len(name) > 200
    (folder,) = (out / "evidence").iterdir()
    assert folder.name == file_name(name)
    assert {path.name for path in folder.iterdir()} == {"target.parquet", "shadow-001.parquet"}
    assert file_name("auditmi (signal.top=5)") == "auditmi (signal.top=5)"
    assert file_name(name + "x") != file_name(name)
