"""Audits of images that are refused before any training, and audits of encoders that were trained elsewhere."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from worlds import contents, image_config, noise, write_images

from hf_mia.audits.dry import describe
from hf_mia.audits.experiment import experiment
from hf_mia.audits.games import games, trained
from hf_mia.audits.plan import Experiment
from hf_mia.audits.run import play
from hf_mia.audits.setting import Setting, setting
from hf_mia.audits.table import print_played
from hf_mia.config import override
from hf_mia.core import audit
from hf_mia.papers import PAPERS
from hf_mia.runner import Runner

IMAGES = noise(60, seed=5)


def config(folder: Path, encoded: list[bytes] = IMAGES, images: int = 40, **more: object) -> dict[str, object]:
    path = write_images(folder / "images.parquet", encoded, label=[i % 3 for i in range(len(encoded))])
    return {**image_config(path, images, epochs=1), "attacks": ["encodermi-t"], **more}


def refused(given: Mapping[str, object], cache: Path, message: str) -> None:
    """By `play` or before it, with nothing trained or asked."""
    with pytest.raises(ValueError, match=message):
        play(setting(experiment(given)), cache)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["split.members=16"], r"split\.members = 16 takes 64 images .*but the data has 60: set split\.members to 15"),
        (["split.members=31", "shadows.count=0"], r"takes 62 images .*set split\.members to 30"),
        (["split.members=1"], r"at least 2 images a side"),
        (["data.image=picture"], r"data\.image = 'picture' is no column.*\['image', 'label'\]\. Set data\.image=image"),
        (["data.image=label"], r"data\.image = 'label' is no image column.*Set data\.image=image"),
        (["data.labels=[7]"], r"no image of data\.labels = \[7\]"),
        (["shadows.data.path=HERE"], r"\d+ images of the target's .* are among the attacker's.*shadows\.data"),
        (["grid.distribution.labels=[0, 1]"], r"\d+ images of the target's .* are among the attacker's"),
        (
            ["shadows.data={path: HERE, labels: [0]}", "data.labels=[1, 2]", "split.members=11"],
            r"shadows\.data has 20 images, and 11",
        ),
        (["attacks=[mean-loss]"], r"'mean-loss' asks by .*not for data\.kind = images.*encodermi-v"),
        (["attacks=[encodermi-t, auditmi]"], r"'auditmi' asks by .*not for data\.kind = images"),
        (["sweeps.top.values=[1, 2]"], r"'auditmi' of sweeps\.top asks by .*not for data\.kind = images: name others"),
        (["data.kind=texts", "data.path=docstrings"], r"target trains on images, but data\.kind is texts"),
        (["target=lstm"], r"target trains on texts, but data\.kind is images: set data\.kind, or name another recipe"),
        (["shadows.recipe=gru"], r"shadows\.recipe trains on texts, but data\.kind is images"),
        (["grid.algorithm=gru"], r"grid\.algorithm trains on texts, but data\.kind is images"),
        (["shadows.data.kind=texts"], r"shadows\.data are texts, but data\.kind is images"),
        (["grid.distribution.kind=texts"], r"'kind' is no field of grid\.distribution"),
        (["attacks=[{name: encodermi-t, signal: {probe: {n: 1}}}]"], r"n must be 2 to 50 views.*two views, but is 1"),
        (["sweeps.n.attacks=[encodermi-t]", "sweeps.n.field=signal.first", "sweeps.n.values=[1]"], r"first must be 2"),
        (["sweeps.n.attacks=[encodermi-t]"], r"sweeps\.n takes .*values.*has \['encodermi-t'\] and \[\]"),
        (["sweeps.n.attacks=[]", "sweeps.n.values=[2]"], r"sweeps\.n takes attacks.*has \[\] and \[2\]"),
        (["target.batch=11"], r"batch = 11 is more than the 10 images to train on: lower it, or add images"),
        (["grid.algorithm={name: moco, batch: 11, size: 8}"], r"batch = 11 is more than the 10 images to train on"),
        (["attacks=[downstream-confidence]"], r"takes 120 labelled images.*outside of the game, and there are fewer"),
        (["sweeps.n={attacks: [downstream-confidence], field: attack.classifier.seed, values: [1]}"], r"120 labelled"),
        (["target.checkpoints=[2]"], r"checkpoints must be epochs from 1 to 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused_before_any_training(tmp_path: Path, changes: list[str], message: str) -> None:
    here = [change.replace("HERE", str(tmp_path / "images.parquet")) for change in changes]
    given = override(config(tmp_path), ["target.batch=10", *here])
    refused(given, tmp_path / "cache", message)


@pytest.mark.parametrize("through", ["shadows.data", "grid.distribution"])
def test_shared_images_are_counted(tmp_path: Path, through: str) -> None:
    """However they are stored: seven of the target's twenty stand in the other file too, as other bytes."""
    shared = [again(content, "BMP") for content in IMAGES[3:10]]
    other = write_images(tmp_path / "other.parquet", [*shared, *noise(13, seed=6)])
    given = override(config(tmp_path, IMAGES[:20]), ["target.batch=10", "split.members=10", "shadows.count=1"])
    elsewhere = {"kind": "images", "path": str(write_images(tmp_path / "fresh.parquet", noise(20, seed=7)))}
    if through == "grid.distribution":
        given |= {"shadows": {"data": elsewhere}, "grid": {"distribution": {"path": str(other), "label": None}}}
    else:
        given |= {"shadows": {"data": {**elsewhere, "path": str(other)}}}
    refused(given, tmp_path / "cache", r"^7 images of the target's members and non-members are among the attacker's")


def again(content: bytes, kind: str) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).save(file, kind)
    return file.getvalue()


def test_a_truncated_image_in_the_game_is_named(tmp_path: Path) -> None:
    broken = [content[:-30] if i == 13 else content for i, content in enumerate(IMAGES[:40])]
    refused(config(tmp_path, broken), tmp_path / "cache", r"1 of \d+ images cannot be opened, such as 000013 \(")
    lonely = override(config(tmp_path, broken), ["shadows.count=0", "split.members=20", "controls=[]"])
    refused(lonely, tmp_path / "cache", r"1 of 40 images cannot be opened, such as 000013 \(")


def test_so_is_one_by_which_the_encoder_will_be_judged(tmp_path: Path) -> None:
    """Not in the game, but among the labelled images that the target's features are tried on in the end."""
    every = noise(170, seed=5)
    broken = [content[:-30] for content in every]
    given = config(tmp_path, every)
    game = setting(experiment(given))
    outside = {int(name) for name in game.rest().names}
    assert len(outside) == 130
    half = [broken[i] if i in outside else content for i, content in enumerate(every)]
    refused(config(tmp_path, half), tmp_path / "cache", r"130 of 130 images cannot be opened, such as \d{6} \(")
    setting(experiment(override(config(tmp_path, half), ["data.label=null"])))  # without labels no one looks at them


def test_a_set_without_images_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["words"] * 40}), tmp_path / "texts.parquet")
    given = image_config(tmp_path / "texts.parquet", 40, 1)
    refused(given, tmp_path / "cache", r"data\.image = 'image' is no column of the data: it has \['text'\]")


def test_images_are_no_texts(tmp_path: Path) -> None:
    given = {"data": {"path": "docstrings"}, "attacks": ["mean-loss", "encodermi-t"]}
    with pytest.raises(ValueError, match=r"'encodermi-t' asks by Views.*not for data\.kind = texts.*'auditmi'"):
        experiment(given)
    with pytest.raises(ValueError, match=r"target trains on images, but data\.kind is texts"):
        experiment({"target": "moco"})
    with pytest.raises(ValueError, match=r"grid\.algorithm trains on images, but data\.kind is texts"):
        experiment({"grid": {"algorithm": "simclr"}})


@pytest.mark.parametrize("part", [{"controls": ["untrained"]}, {"grid": {"architecture": {"width": 2}}}])
def test_a_checkpoint_has_neither_controls_nor_a_grid(part: dict[str, object]) -> None:
    given = {"data": {"kind": "images"}, "target": {"name": "checkpoint", "model": "a/b", "members": ["000000"]}}
    assert experiment(given).controls == ()
    with pytest.raises(
        ValueError, match="a checkpoint or a service was trained elsewhere: controls and grid need a target"
    ):
        experiment({**given, **part})


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Path]:
    """An encoder that was trained on ten of sixty images, and its folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    given = override(config(folder), ["target.batch=10", "shadows.count=0", "controls=[]"])
    (made,) = trained([setting(experiment(given))], folder / "cache")
    return made.setting, made.folders[0]


def checkpoint(elsewhere: tuple[Setting, Path], folder: Path, by: str, *changes: str) -> Experiment:
    """An audit of that encoder, its members given by name, in a file or by a column."""
    made, model = elsewhere
    inside = sorted(made.inside())
    marks = [int(f"{i:06d}" in inside) for i in range(len(IMAGES))]
    path = write_images(folder / "images.parquet", IMAGES, **{"in": marks})
    (folder / "members.txt").write_text("\n".join(inside))
    given = {"members": inside, "members_file": str(folder / "members.txt"), "members_column": "in"}
    target = {"name": "checkpoint", "model": str(model), by: given[by], "provenance": "random_split"}
    base = {"data": {"kind": "images", "path": str(path)}, "target": target, "attacks": ["encodermi-t"]}
    return experiment(override(base, changes))


@pytest.mark.parametrize("by", ["members", "members_file", "members_column"])
def test_an_encoder_from_elsewhere_is_audited_without_shadows(
    elsewhere: tuple[Setting, Path], tmp_path: Path, by: str
) -> None:
    described = checkpoint(elsewhere, tmp_path, by, "shadows.count=0")
    played = play(setting(described), tmp_path / "cache")
    report = played.reports["encodermi-t"]
    assert {unit for unit, m in zip(report.units, report.member, strict=True) if m} == elsewhere[0].inside()
    assert len(report.units) == 60  # all others are non-members
    assert report.threshold is None
    assert not (tmp_path / "cache" / "models").exists()
    game, _ = games(elsewhere[0], elsewhere[1].parents[1])
    own = audit(PAPERS["encodermi-t"], game, [], Runner(tmp_path / "own"))
    scores = dict(zip(report.units, report.scores, strict=True))
    np.testing.assert_allclose([scores[unit] for unit in own.units], own.scores, rtol=0, atol=1e-6)
    assert played.scenes == {}
    file = io.StringIO()
    print_played(described, played, Console(file=file, width=80))
    assert "n/a" in file.getvalue()  # there is no threshold, so there is no accuracy


def test_an_encoder_from_elsewhere_beside_shadows_of_a_recipe(elsewhere: tuple[Setting, Path], tmp_path: Path) -> None:
    recipe = "{name: moco, architecture: vgg11, width: 2, size: 8, epochs: 2, batch: 10, splits: 2, queue: 10}"
    described = checkpoint(
        elsewhere, tmp_path, "members", f"shadows.recipe={recipe}", "shadows.recipe.checkpoints=[1]",
        "attacks=[encodermi-t, {name: encodermi-v, classifier: {epochs: 3}}]",
    )  # fmt: skip
    prepared = setting(described)
    played = play(prepared, tmp_path / "cache")
    assert {path.parent.name for path in (tmp_path / "cache").glob("models/*/training.json")} == {
        path.name for path in (tmp_path / "cache").glob("models/*")
    }
    assert len(list((tmp_path / "cache").glob("models/*"))) == 1
    assert prepared.split.rest.size == 60 - 4 * 10
    for report in played.reports.values():
        assert {unit for unit, m in zip(report.units, report.member, strict=True) if m} == elsewhere[0].inside()
        assert len(report.units) == 20
        assert report.accuracy.value is not None
    assert "early stopping" not in played.scenes  # of the shadow there is a checkpoint, of the target there is none
    assert not set(contents(prepared.candidates().records)) & set(contents(prepared.shadow_pool().records))


def test_shadows_of_an_encoder_from_elsewhere_need_a_recipe(elsewhere: tuple[Setting, Path], tmp_path: Path) -> None:
    described = checkpoint(elsewhere, tmp_path, "members")
    with pytest.raises(
        ValueError, match=r"shadows\.recipe must name .*\['moco', 'simclr'\]; or set shadows\.count to 0"
    ):
        play(setting(described), tmp_path / "cache")
    for members in ([], ["000000"]):
        with pytest.raises(ValueError, match=r"(none is set|1 members in the data and 59 other images)"):
            setting(experiment({
                "data": {"kind": "images", "path": str(tmp_path / "images.parquet")}, "attacks": ["encodermi-t"],
                "target": {"name": "checkpoint", "model": str(elsewhere[1]), "members": members},
            }))  # fmt: skip


@pytest.mark.parametrize("shadows", ["shadows.count=0", "shadows.recipe={name: simclr, width: 2, size: 8, batch: 5}"])
def test_a_dry_run_of_an_encoder_from_elsewhere_trains_nothing(
    elsewhere: tuple[Setting, Path], tmp_path: Path, shadows: str
) -> None:
    text = describe(checkpoint(elsewhere, tmp_path, "members_column", shadows), tmp_path / "cache")
    count = int("recipe" in shadows)
    assert f"models: {count} to have, {count} to train" in text
    assert f"queries: {(20 + 20) if count else 60} images" in text
    assert not (tmp_path / "cache").exists()
