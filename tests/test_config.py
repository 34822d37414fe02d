"""Strict YAML: what does not fit is an error that names the place, the rule and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hf_mia.config import override, read_yaml
from hf_mia.experiment import experiment, label
from hf_mia.papers import PAPERS
from hf_mia.plan import Checkpoint, Experiment, Sweep
from hf_mia.recipes.language import CausalLM, Recurrent


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"splits": {}}, r"'splits' is no field of the config: did you mean 'split'\?.*'attacks'"),
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


def test_labels_say_what_was_changed_and_nothing_else() -> None:
    assert label("auditmi", PAPERS["auditmi"]) == "auditmi"
    assert label("auditmi", Sweep().attack("auditmi", 10)) == "auditmi (signal.top=10)"
    specs = [{"name": "auditmi", "signal": {"bins": 100}}, {"name": "auditmi", "signal": {"top": 3, "bins": 9}}]
    assert list(experiment({"attacks": specs}).attacks) == ["auditmi", "auditmi (signal.bins=9, signal.top=3)"]
