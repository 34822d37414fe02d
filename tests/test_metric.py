"""The metrics as `evaluate.load` gives them: from the Spaces' folders, with evaluate's own ways to add and to save."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import evaluate
import numpy as np
import pytest
import worlds
from PIL import Image

from hf_mia.audits.folder import write_folder
from hf_mia.audits.played import Played
from hf_mia.audits.run import play
from hf_mia.audits.setting import jobs
from hf_mia.data.texts import Texts
from hf_mia.queries.inquiry import encoded
from hf_mia.queries.refit import refitted
from hf_mia.reports.membership import flat, membership_inference

SCORES, MEMBER = [0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1], [1, 1, 1, 0, 0, 0, 0]
SPACES = Path(__file__).parents[1] / "spaces"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test has a cache of its own: evaluate keeps what was added in files."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


def load(name: str) -> evaluate.Metric:
    return evaluate.load(str(SPACES / name))


# From scores


def test_all_ways_to_add_give_what_the_function_gives() -> None:
    settings = {"fpr": [0.25], "confidence": 0.9, "threshold": 0.4}
    expected = membership_inference(SCORES, MEMBER, **settings)
    metric = load("membership_inference")
    assert metric.compute(predictions=SCORES, references=MEMBER, **settings) == expected
    assert metric.compute(predictions=np.array(SCORES), references=np.array(MEMBER) == 1, **settings) == expected
    for score, member in zip(SCORES, MEMBER, strict=True):
        metric.add(prediction=score, reference=member)
    assert metric.compute(**settings) == expected
    metric.add_batch(predictions=SCORES[:3], references=MEMBER[:3])
    metric.add_batch(predictions=SCORES[3:], references=MEMBER[3:])
    assert metric.compute(**settings) == expected
    memory = evaluate.load(str(SPACES / "membership_inference"), keep_in_memory=True)
    assert memory.compute(predictions=SCORES, references=MEMBER, **settings) == expected


def test_scores_are_not_rounded_on_their_way() -> None:
    """Members are ahead by less than float32 can tell."""
    scores = [1 - 1e-12, 1 - 2e-12, 1 - 3e-12, 1 - 4e-12]
    assert load("membership_inference").compute(predictions=scores, references=[1, 1, 0, 0])["auc"] == 1.0


def test_it_combines_and_saves(tmp_path: Path) -> None:
    one = load("membership_inference")
    both = evaluate.combine({"first": one, "second": load("membership_inference")})
    found = both.compute(predictions=SCORES, references=MEMBER)
    assert found["first_auc"] == found["second_auc"] == pytest.approx(11 / 12)
    for score, member in zip(SCORES, MEMBER, strict=True):
        both.add(prediction=score, reference=member)
    assert both.compute() == found
    path = evaluate.save(tmp_path / "result.json", **membership_inference(SCORES, MEMBER))
    assert json.loads(path.read_text())["auc"] == pytest.approx(11 / 12)


BAD = {
    "one class": ([0.1, 0.2, 0.3], [1, 1, 1], "at least 2 of each class are needed"),
    "NaN scores": ([0.1, float("nan"), 0.3, 0.4], [1, 1, 0, 0], "predictions are the scores.* must be finite; got nan"),
    "infinite scores": ([0.1, float("inf"), 0.3, 0.4], [1, 1, 0, 0], "must be finite; got inf"),
    "None as a score": ([0.1, None, 0.3, 0.4], [1, 1, 0, 0], "predictions: must be numbers, but position 1 holds None"),
    "lengths that differ": ([0.1, 0.2, 0.3], [1, 0], "Mismatch in the number of predictions .3. and references .2."),
    "strings as scores": (["0.1", "0.2"], [1, 0], "predictions: must be numbers, but position 0 holds '0.1'"),
    "strings as labels": ([0.1, 0.2], ["1", "0"], "references: must be numbers, but position 0 holds '1'"),
    "labels -1/+1": ([0.1, 0.2, 0.3, 0.4], [1, -1, 1, -1], "but position 1 holds -1.0. Write 1 for a member"),
    "labels in between": ([0.1, 0.2, 0.3], [1, 0.5, 0], "but position 1 holds 0.5"),
    "None as a label": ([0.1, 0.2], [1, None], "references: must be numbers, but position 1 holds None"),
    "empty": ([], [], "scores: there are none"),
    "no references": ([0.1, 0.2], None, "references: must be a list"),
    "no predictions": (None, [1, 0], "predictions: must be a list"),
    "nothing at all": (None, None, "call `add` or `add_batch`"),
}


@pytest.mark.parametrize(("scores", "member", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_and_the_next_call_is_clean(scores: object, member: object, message: str) -> None:
    metric = load("membership_inference")
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=scores, references=member)
    assert metric.compute(predictions=SCORES, references=MEMBER) == membership_inference(SCORES, MEMBER)


def test_one_at_a_time_is_checked_too() -> None:
    metric = load("membership_inference")
    with pytest.raises(ValueError, match=r"predictions: must be numbers, but position 0 holds '0\.5'"):
        metric.add(prediction="0.5", reference=1)
    with pytest.raises(ValueError, match="references: must be numbers, but position 0 holds None"):
        metric.add(prediction=0.5)


def test_constant_scores_tell_nothing() -> None:
    assert load("membership_inference").compute(predictions=[1, 1, 1, 1], references=[1, 1, 0, 0])["auc"] == 0.5


def test_the_package_does_not_load_evaluate() -> None:
    code = (
        "import sys, hf_mia; hf_mia.membership_inference([1, 2, 3, 4], [0, 0, 1, 1]); print('evaluate' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_without_evaluate_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['evaluate'] = None; import hf_mia.metric"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "pip install 'hf_mia[evaluate]'" in done.stderr


# From a model


@dataclass(frozen=True)
class Audited:
    """A run folder, what was played, the target's folder, and what it is asked about."""

    run: Path
    played: Played
    model: str
    world: worlds.World
    cache: Path

    @property
    def texts(self) -> dict[str, list[object]]:
        pool = self.world.target.pool
        texts, units = pool.records["text"][:], pool.unit.tolist()
        return {
            "predictions": texts,
            "users": [pool.names[i] for i in units],
            "references": [int(self.world.target.member[i]) for i in units],
        }


def audited(world: worlds.World, folder: Path) -> Audited:
    played = play(world.setting, world.cache)
    write_folder(folder / "run", world.experiment, played)
    model = jobs(world.setting)[0].folder(world.cache)
    return Audited(folder / "run", played, str(model), world, folder / "cache")


@pytest.fixture(scope="module")
def text_run(overfitted: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return audited(overfitted, tmp_path_factory.mktemp("run"))


def test_auditmi_scores_as_the_run_itself_did(text_run: Audited) -> None:
    metric, report = load("auditmi"), text_run.played.reports["auditmi"]
    settings = {"model_id": text_run.model, "run": str(text_run.run), "cache": text_run.cache, "fpr": [0.1]}
    found = metric.compute(**text_run.texts, **settings)
    assert (found["attack"], found["names"], found["threshold"]) == ("auditmi", list(report.units), 0.0)
    np.testing.assert_allclose(found["scores"], report.scores, rtol=1e-9)
    assert found["auc"] == report.auc.value > 0.8
    assert found["accuracy"] == report.accuracy.value
    assert found["tpr@0.1"] == report.tpr_at(0.1).value
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    order = np.random.default_rng(0).permutation(len(text_run.texts["users"]))
    for i in order:
        metric.add(**{name[:-1]: column[i] for name, column in text_run.texts.items() if name != "users"},
                   users=text_run.texts["users"][i])  # fmt: skip
    again = metric.compute(**settings)
    assert again["names"] == found["names"]
    np.testing.assert_allclose(again["scores"], found["scores"], rtol=1e-5)


def test_auditmi_needs_no_membership_and_cannot_see_it(text_run: Audited) -> None:
    settings = {"model_id": text_run.model, "run": text_run.run, "cache": text_run.cache}
    given = text_run.texts
    known = load("auditmi").compute(**given, **settings)
    flipped = load("auditmi").compute(**{**given, "references": [1 - m for m in given["references"]]}, **settings)
    unknown = load("auditmi").compute(predictions=given["predictions"], users=given["users"], **settings)
    assert known["scores"] == flipped["scores"] == unknown["scores"]
    assert set(unknown) == {"attack", "names", "scores", "threshold"}
    assert flipped["auc"] == pytest.approx(1 - known["auc"])


def test_without_a_run_it_is_the_mean_rank(text_run: Audited) -> None:
    found = load("auditmi").compute(**text_run.texts, model_id=text_run.model, cache=text_run.cache)
    report = text_run.played.reports["mean-rank"]
    np.testing.assert_allclose(found["scores"], report.scores, rtol=1e-9)
    assert (found["attack"], found["auc"]) == ("mean-rank", report.auc.value)
    assert "accuracy" not in found  # no shadow chose a threshold
    other = load("auditmi").compute(**text_run.texts, model_id=text_run.model, cache=text_run.cache, attack="mean-loss")
    np.testing.assert_allclose(other["scores"], text_run.played.reports["mean-loss"].scores, rtol=1e-9)


def test_without_users_each_text_is_a_unit(text_run: Audited) -> None:
    texts = text_run.texts["predictions"][:5]
    found = load("auditmi").compute(predictions=texts, model_id=text_run.model, cache=text_run.cache)
    assert found["names"] == [f"text {i:06d}" for i in range(5)]
    assert len(set(found["scores"])) > 1


def test_what_auditmi_cannot_do_is_said(text_run: Audited, gpt2_folder: Path, tmp_path: Path) -> None:
    own = {"model_id": text_run.model, "cache": text_run.cache}
    run = {**own, "run": text_run.run}
    two = {"predictions": ["w001 w002", "w003 w004"]}
    image_run = tmp_path / "images"
    image_run.mkdir()
    (image_run / "config.yaml").write_text("data: {kind: images}\n")
    for given, message in (
        ({**two}, "model_id: there is none"),
        ({**two, **own, "model_id": "no/such"}, "model 'no/such'"),
        ({**two, **own, "run": tmp_path}, "has no config.yaml: name a folder that `hf-mia audit` wrote"),
        ({**two, **own, "run": image_run}, "is about images, and these are texts"),
        ({**two, **run, "attack": "auditme"}, "'auditme' is no attack of the run: did you mean 'auditmi'"),
        ({**two, **run, "attack": "reference"}, r"asks the run's other models .* one of \['auditmi', 'mean-rank'"),
        ({**two, **own, "attack": "auditmi"}, "'auditmi' is no attack that needs no run"),
        ({**two, **own, "users": ["a"]}, "users: must be one a text, but there are 1 for 2"),
        ({**two, **own, "users": ["a", ""]}, "users: position 1 has none, and others have"),
        ({**two, **own, "users": ["a", "a"], "references": [1, 0]}, r"some texts of \['a'\] are members and others"),
        ({**two, **own, "references": [1, None]}, "references: position 1 is unknown, and others are known"),
        ({**two, **own, "references": [1, -1]}, "position 1 holds -1.0. Write 1"),
        ({**two, **own, "references": [1]}, r"references: must be one a prediction, but are of shape \(1,\) for 2"),
        ({**two, **own, "references": [1, 0]}, "at least 2 of each class"),
        ({**own, "predictions": [1, 2]}, "predictions: must be strings, but position 0 holds 1"),
        ({**own, "predictions": ["a", None]}, "predictions: must be strings, but position 1 holds None"),
        ({**own, "predictions": "a text"}, "predictions: must be a list, but is str"),
        ({**own, "predictions": []}, "predictions: there are no texts"),
    ):
        with pytest.raises(ValueError, match=message):
            load("auditmi").compute(**given)


def test_an_attack_that_counted_words_says_that_a_run_does_not_hold_them(tmp_path: Path) -> None:
    for name in ("auditmi-frequency", "auditmi-rarest-texts"):
        described = f"attacks: [{name}, auditmi]\nshadows: {{count: 2}}\n"
        (tmp_path / "config.yaml").write_text(described)
        with pytest.raises(ValueError, match=rf"'{name}' counts words .* one of \['auditmi'\]"):
            refitted(tmp_path, Texts(), name)


def test_a_run_whose_evidence_is_incomplete_is_refused(text_run: Audited) -> None:
    path = text_run.run / "evidence" / "auditmi" / "shadow-002.parquet"
    kept = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(ValueError, match=r"shadow-002\.parquet is no file of the run folder: name a folder"):
            load("auditmi").compute(**text_run.texts, model_id=text_run.model, run=text_run.run)
    finally:
        path.write_bytes(kept)


# From an encoder


@pytest.fixture(scope="module")
def image_run(untrained_images: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return audited(untrained_images, tmp_path_factory.mktemp("image-run"))


def test_encodermi_scores_as_the_run_itself_did(image_run: Audited, tmp_path: Path) -> None:
    pool, report = image_run.world.target.pool, image_run.played.reports["encodermi-v"]
    records = pool.records["image"][:]
    paths = []
    for i, image in enumerate(records):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(image["bytes"])
    member = image_run.world.target.member.astype(int).tolist()
    settings = {"model_id": image_run.model, "run": image_run.run, "cache": image_run.cache}
    for images in (
        [Image.open(io.BytesIO(image["bytes"])) for image in records],
        [image["bytes"] for image in records],
        paths,
        [str(path) for path in paths],
        records,
    ):
        found = load("encodermi").compute(predictions=images, references=member, **settings)
        np.testing.assert_allclose(found["scores"], report.scores, rtol=1e-6)
        assert (found["attack"], found["auc"]) == ("encodermi-v", report.auc.value)
        assert found["accuracy"] == report.accuracy.value
    assert found["names"][:2] == ["image 000000", "image 000001"]
    free = load("encodermi").compute(predictions=paths, model_id=image_run.model, cache=image_run.cache)
    np.testing.assert_allclose(free["scores"], image_run.played.reports["encodermi-t"].scores, rtol=1e-6)
    assert free["attack"] == "encodermi-t"
    assert "auc" not in free


def test_what_encodermi_cannot_do_is_said(image_run: Audited, text_run: Audited, tmp_path: Path) -> None:
    own, image = {"model_id": image_run.model, "cache": image_run.cache}, worlds.noise(1, 0)[0]
    for given, message in (
        ({**own, "predictions": [image, 3]}, "predictions: must be Pillow images, .* but position 1 holds int"),
        ({**own, "predictions": [tmp_path / "no.png"]}, "position 0 names .*no.png', and there is no such file"),
        ({**own, "predictions": [b"GIF87 no image"]}, "cannot be opened"),
        ({**own, "predictions": []}, "predictions: there are no images"),
        ({**own, "predictions": image}, "predictions: must be a list, but is bytes"),
        ({**own, "predictions": [image, image], "references": ["1", "0"]}, "references: must be numbers"),
        ({**own, "predictions": [image], "users": ["a"]}, "users: each image is a unit of its own"),
        ({**own, "predictions": [image], "run": text_run.run}, "is about texts, and these are images"),
        ({**own, "predictions": [image], "model_id": text_run.model}, "model .* images"),
    ):
        with pytest.raises(ValueError, match=message):
            load("encodermi").compute(**given)


def test_a_pillow_image_loses_no_pixel() -> None:
    """evaluate would encode one that came from a JPEG as a JPEG again."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    image = Image.open(io.BytesIO(file.getvalue()))
    again = Image.open(io.BytesIO(encoded(image, 0)["bytes"]))
    assert np.array_equal(np.asarray(again), np.asarray(image))


def test_the_runs_answer_is_the_flat_report(text_run: Audited) -> None:
    report = text_run.played.reports["auditmi"]
    found = load("auditmi").compute(**text_run.texts, model_id=text_run.model, run=text_run.run, cache=text_run.cache)
    assert {name: found[name] for name in flat(report)} == pytest.approx(flat(report))
