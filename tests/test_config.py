"""Strict YAML: what does not fit is an error that names the place, the rule and the nearest name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hf_mia.audits.experiment import experiment, label
from hf_mia.audits.plan import Experiment, Grid, Shadows, Sweep
from hf_mia.audits.targets import Checkpoint
from hf_mia.config import _tuples, override, read_yaml
from hf_mia.data.images import Images
from hf_mia.papers import PAPERS
from hf_mia.probes.augmentation import Augmentation
from hf_mia.recipes.contrastive import MoCo, SimCLR
from hf_mia.recipes.language import CausalLM, Recurrent


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"splits": {}}, r"'splits' is no field of the config: did you mean 'split'\?.*'attacks'"),
        ({"dta": "images", "target": "moco"}, r"'dta' is no field of the config: did you mean 'data'\?"),
        ({"split": {"member": 3}}, r"'member' is no field of the config\.split: did you mean 'members'\?"),
        ({"target": "lsmt"}, r"'lsmt' is no target: did you mean 'lstm'\?.*'checkpoint'"),
        ({"target": {"name": "lstm", "epoch": 3}}, r"'epoch' is no field of target: did you mean 'epochs'\?"),
        ({"attacks": ["audit-mi"]}, r"'audit-mi' is no attacks?: did you mean 'auditmi'\?.*'mean-loss'"),
        ({"attacks": [{"name": "auditmi", "signal": {"tops": 3}}]}, r"'tops' is no field of attacks?\.signal.*'top'"),
        ({"shadows": {"counts": 1}}, r"'counts' is no field of shadows: did you mean 'count'\?"),
        ({"shadows": {"recipe": "lsmt"}}, r"'lsmt' is no shadows\.recipe: did you mean 'lstm'"),
        ({"shadows": {"data": {"pth": "x"}}}, r"'pth' is no field of shadows\.data: did you mean 'path'"),
        ({"sweeps": {"w": {"attacks": ["auditmy"], "values": [1]}}}, r"'auditmy'.*'auditmi'"),
        ({"sweeps": {"w": {"field": "signal.topp", "values": [1]}}}, r"'topp'.*'top'"),
        ({"zzz": 1}, r"'zzz' is no field of the config\? Known"),
        (
            {"data": "image"},
            r"'image' is no data: did you mean 'images'\? Known: "
            r"\['classified-images', 'classified-sounds', 'classified-texts', 'images', 'pairs', 'texts'\]",
        ),
        ({"data": {"kind": "picture"}}, r"'picture' is no data"),
        ({"data": {"kind": "images", "labell": 3}}, r"'labell' is no field of data: did you mean 'label'"),
        ({"data": {"labels": [1]}}, r"'labels' is no field of data.*'texts_per_user'"),
        ({"data": "images", "shadows": {"data": {"user": None}}}, r"'user' is no field of shadows\.data"),
        ({"data": "images", "target": "mocco"}, r"'mocco' is no target: did you mean 'moco'"),
        ({"data": "images", "grid": {"distributions": {}}}, r"no field of grid: did you mean 'distribution'\?"),
        ({"data": "images", "grid": {"distribution": {"pth": "x"}}}, r"'pth' is no field of grid\.distribution"),
        ({"data": "images", "grid": {"algorithm": "simclear"}}, r"no grid\.algorithm: did you mean 'simclr'"),
        ({"data": "images", "grid": {"architecture": {"widt": 1}}}, r"'widt' is no field of grid\.architecture"),
        (
            {"data": "images", "grid": {"architecture": {"queue": 1}, "algorithm": "simclr"}},
            r"'queue' is no field of gr",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"split": {"members": "ten"}}, r"the config\.split\.members = 'ten' has the wrong type.*integer"),
        ({"split": {"members": 10.5}}, r"split\.members = 10\.5 has the wrong type"),
        ({"split": {"members": True}}, r"split\.members = True has the wrong type"),
        ({"split": 3}, r"split = 3"),
        ({"target": {"name": "lstm", "cell": "rnn"}}, r"target\.cell = 'rnn'.*'lstm' or 'gru'"),
        ({"target": {"name": "lstm", "clip": "no"}}, r"target\.clip = 'no' has the wrong type"),
        ({"target": {"epochs": 3}}, r"target takes a name"),
        ({"target": {"name": "checkpoint", "provenance": "random"}}, r"target\.provenance = 'random'"),
        ({"target": {"name": "checkpoint", "members": "ann"}}, r"target\.members = 'ann' has the wrong type"),
        ({"attacks": "auditmi"}, r"attacks takes a list.*'auditmi'"),
        ({"attacks": []}, r"attacks takes a list"),
        ({"attacks": [{"name": "auditmi", "signal": {"top": 0}}]}, r"attacks?\.signal: top must be at least 1"),
        pytest.param({"attacks": [{"name": "auditmi", "signal": 3}]}, r"signal = 3"),
        ({"shadows": [1]}, r"shadows takes fields"),
        ({"sweeps": [1]}, r"sweeps takes"),
        ({"sweeps": {"w": {"values": ["a"]}}}, r"signal\.top = .a. has the wrong type"),
        ({"split": {"trained": 0.0}}, r"the config\.split: trained must be in \(0, 1\]"),
        ({"split": {"held_out": 0.5}}, r"lower trained"),
        ({"fprs": 0.1}, r"fprs = 0\.1 has the wrong type"),
        (
            {"data": 3},
            r"data takes a kind, or fields with a `kind`, but is 3: "
            r"kinds are \['classified-images', 'classified-sounds', 'classified-texts', 'images', 'pairs', 'texts'\]",
        ),
        ({"data": {"kind": "images", "labels": 3}}, r"data\.labels = 3 has the wrong type"),
        ({"data": {"kind": "images", "labels": [[1]]}}, r"data\.labels = \(\(1,\),\) has the wrong type"),
        ({"data": "images", "grid": 3}, r"grid takes fields and values, but is 3: fields are \['algorithm', 'arch"),
        ({"data": "images", "grid": {}}, r"grid takes at least one of distribution, architecture and algorithm"),
        ({"data": "images", "grid": {"algorithm": None}}, r"grid takes at least one of"),
        ({"data": "images", "grid": {"distribution": 3}}, r"grid\.distribution takes fields and values, but is 3"),
        ({"data": "images", "grid": {"architecture": "vgg11"}}, r"grid\.architecture = 'vgg11' has the wrong type"),
        ({"data": "images", "grid": {"architecture": {"architecture": "vgg"}}}, r"grid\.architecture\.arch.*'vgg'"),
        ({"data": "images", "controls": ["blank"]}, r"controls = \('blank',\).*'untrained' or 'swapped'"),
        ({"data": "images", "trials": 0}, r"the config: trials must be at least 1, but is 0"),
        ({"sweeps": {"w": {}}}, r"sweeps\.w takes attacks and values.*has \['auditmi'\] and \[\]"),
        (
            {"data": "images", "target": {"name": "moco", "augmentation": {"scale": [0.5]}}},
            r"scale = \(0\.5,\) has the",
        ),
        ({"data": "images", "target": {"name": "moco", "augmentation": {"scale": [1, 0.5]}}}, r"ascending range"),
    ],
)
def test_a_wrong_type_or_value_is_refused_with_its_place(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(config)


def made(*overrides: str, config: dict[str, object] | None = None) -> Experiment:
    return experiment(override(config or {}, overrides))


def test_overrides_reach_every_depth() -> None:
    found = made(
        "target.learning_rate=1e-3", "target.clip=null", "split.members=7", "data.path=some/file.csv",
        "shadows.count=2", "shadows.data.path=other", "shadows.data.user=null", "attacks=[mean-rank]", "fprs=[0.1]",
        config={"target": "gru", "split": {"members": 3, "seed": 5}},
    )  # fmt: skip
    assert isinstance(found.target, Recurrent)
    assert (found.target.cell, found.target.learning_rate, found.target.clip) == ("gru", 0.001, None)
    assert (found.split.members, found.split.seed) == (7, 5)
    assert found.data.path == "some/file.csv"
    assert found.shadows.data is not None
    assert (found.shadows.count, found.shadows.data.path, found.shadows.data.user) == (2, "other", None)
    assert list(found.attacks) == ["mean-rank"]
    assert found.fprs == (0.1,)


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "0.001", "1.0e-3", "+1e-3"])
def test_every_way_to_write_a_number_is_one(number: str, tmp_path: Path) -> None:
    found = made(f"target.learning_rate={number}", config={"target": "lstm"}).target
    assert isinstance(found, Recurrent)
    assert found.learning_rate == 0.001
    (tmp_path / "c.yaml").write_text(f"target: {{name: lstm, learning_rate: {number}}}")
    assert experiment(read_yaml(tmp_path / "c.yaml")).target == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target", "must be FIELD=VALUE"),
        ("split.members.more=1", "which has no fields"),
        ("spilt.members=1", "'split'"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(text, config={"split": {"members": 3}})


def test_an_override_leaves_the_given_config_alone() -> None:
    config: dict[str, object] = {"split": {"members": 3}}
    override(config, ["split.members=4"])
    assert config == {"split": {"members": 3}}


def test_a_checkpoint_and_a_fine_tune_are_targets() -> None:
    checkpoint = made(config={"target": {"name": "checkpoint", "model": "a/b", "members": ["x"]}}).target
    assert checkpoint == Checkpoint(model="a/b", members=("x",))
    tuned = made(config={"target": {"name": "fine-tune", "model": "a/b", "epochs": 1}}).target
    assert tuned == CausalLM(model="a/b", epochs=1)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system", "!mine 3"])
def test_yaml_runs_nothing(tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"data: {tag}\n")
    with pytest.raises(ValueError, match=r"c\.yaml could not be read"):
        read_yaml(tmp_path / "c.yaml")
    with pytest.raises((ValueError, yaml.YAMLError)):
        override({}, [f"data={tag}"])
    assert not (tmp_path / "ran").exists()


def test_an_override_of_broken_yaml_is_bad_input() -> None:
    with pytest.raises(ValueError, match="attacks"):
        override({}, ["attacks=[unclosed"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"- a\n- b\n", "holds list"), (b"", "holds NoneType"), (b"a: [", "could not be read"), (b"a: \xfc", "not UTF-8")],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_yaml(tmp_path / "c.yaml")


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml"):
        read_yaml(tmp_path / "none.yaml")


def test_lists_are_tuples_at_every_depth() -> None:
    changes = {"augmentation": {"scale": [0.5, 1.0], "jitter": [0, 0.25, 0, 0]}, "checkpoints": [1, 2]}
    moco = experiment({"data": "images", "target": {"name": "moco", **changes}}).target
    assert isinstance(moco, MoCo)
    assert moco.checkpoints == (1, 2)
    assert moco.augmentation == Augmentation(scale=(0.5, 1.0), jitter=(0, 0.25, 0, 0))
    hash(moco)  # a list would not
    spec = {
        "name": "encodermi-v",
        "signal": {"probe": {"augmentation": {"ratio": [1, 2]}}},
        "classifier": {"hidden": [3]},
    }
    (attack,) = experiment({"data": "images", "attacks": [spec]}).attacks.values()
    assert (attack.signal.probe.augmentation.ratio, attack.classifier.hidden) == ((1, 2), (3,))
    assert _tuples([1, [2, [3, []]], (4, [5])]) == (1, (2, (3, ())), (4, (5,)))
    assert _tuples({"a": [1]}) == {"a": [1]}


def test_an_images_audit_takes_what_its_data_says() -> None:
    """The recipe, the attacks, one shadow and both controls; without shadows the attacks that take none."""
    found = experiment({"data": "images"})
    assert (found.target, found.shadows.count, found.controls) == (MoCo(), 1, ("untrained", "swapped"))
    assert list(found.attacks) == list(Images.beside)
    lonely = experiment({"data": "images", "shadows": {"count": 0}})
    assert list(lonely.attacks) == ["encodermi-t", "encoder-similarity"]
    assert experiment({"data": {"kind": "images"}, "controls": []}).controls == ()
    assert experiment({}).controls == ()


def test_a_grids_distribution_is_the_targets_data_with_changes() -> None:
    data = {"kind": "images", "path": "x", "image": "img", "labels": [1, 2]}
    found = experiment({"data": data, "grid": {"distribution": {"labels": [3]}}}).grid
    assert found == Grid(distribution=Images(path="x", image="img", labels=(3,)))


KNOWN = Shadows(count=2, changes=({"width": 3}, {"width": 5}))
OTHER, SIMCLR, VGG = Images(path="other"), SimCLR(), {"architecture": "vgg11"}


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (Grid(distribution=OTHER), {"distribution": KNOWN, "nothing": replace(KNOWN, data=OTHER)}),
        (
            Grid(architecture=VGG, algorithm=SIMCLR),
            {
                "architecture, algorithm": KNOWN,
                "architecture": replace(KNOWN, recipe=SIMCLR),
                "algorithm": replace(KNOWN, changes=(VGG,)),
                "nothing": replace(KNOWN, recipe=SIMCLR, changes=(VGG,)),
            },
        ),
    ],
)
def test_a_setting_replaces_what_is_not_known_and_nothing_else(grid: Grid, expected: dict[str, Shadows]) -> None:
    found = grid.settings(KNOWN)
    assert found == expected
    assert list(found) == list(expected)


def test_three_axes_are_eight_settings() -> None:
    found = Grid(distribution=OTHER, architecture=VGG, algorithm=SIMCLR).settings(KNOWN)
    axes = {"distribution": ("data", OTHER), "architecture": ("changes", (VGG,)), "algorithm": ("recipe", SIMCLR)}
    assert len(found) == len({tuple(map(repr, (s.data, s.changes, s.recipe))) for s in found.values()}) == 8
    for name, shadows in found.items():
        for axis, (field, unknown) in axes.items():
            knows = axis in name.split(", ")
            assert getattr(shadows, field) == (getattr(KNOWN, field) if knows else unknown)
        assert shadows.count == 2


def test_labels_say_what_was_changed_and_nothing_else() -> None:
    assert label("auditmi", PAPERS["auditmi"]) == "auditmi"
    assert label("auditmi", Sweep().attack("auditmi", 10)) == "auditmi (signal.top=10)"
    specs = [{"name": "auditmi", "signal": {"bins": 100}}, {"name": "auditmi", "signal": {"top": 3, "bins": 9}}]
    assert list(experiment({"attacks": specs}).attacks) == ["auditmi", "auditmi (signal.bins=9, signal.top=3)"]
