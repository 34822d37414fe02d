"""Anything may be given as a config: an experiment, or one clear refusal; never a crash, a long wait, or a deed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_config_properties import misspelt, places

import hf_mia
from hf_mia import config as module
from hf_mia.audits.experiment import experiment
from hf_mia.audits.plan import Experiment
from hf_mia.config import override, read_yaml

CONFIGS = sorted((Path(hf_mia.__file__).parent.parent / "evaluation_configs").glob("*.yaml"))
BILLION = "data: &a [x, x]\n" + "\n".join(f"{chr(i + 1)}: &{chr(i + 1)} [*{chr(i)}, *{chr(i)}]" for i in range(97, 121))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.dates())
NAMES = ["data", "target", "attacks", "shadows", "split", "grid", "sweeps", "name", "kind", "path", "signal", "values"]
KEYS = st.sampled_from(NAMES) | SCALARS
TREES = st.recursive(
    SCALARS | st.sampled_from(["lstm", "images", "auditmi", "checkpoint"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


def outcome(text: str | bytes, folder: Path) -> Experiment | str:
    """What comes of a config: an experiment, or a message that stays short enough to read."""
    path = folder / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    try:
        made = experiment(read_yaml(path))
    except ValueError as error:
        return str(error)
    assert isinstance(made, Experiment)
    return made


@given(content=st.binary(max_size=200))
def test_any_bytes(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome(content, tmp_path_factory.getbasetemp())


SIGNS = ["{", "}", "[", "]", ": ", "- ", "? ", "&a ", "*a", "!!bool ", "!!timestamp ", "!!python/name:os.system", "\n"]
SIGNS += [
    "  ",
    ",",
    "'",
    '"',
    "|",
    ">",
    "<<: ",
    "data",
    "split",
    "members",
    "3",
    "~",
    "#",
    "%YAML 1.1",
    "---",
    "\ufeff",
]


@given(parts=st.lists(st.sampled_from(SIGNS), max_size=30))
def test_any_pieces_of_yaml(parts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome("".join(parts), tmp_path_factory.getbasetemp())
    outcome("data: " + "".join(parts), tmp_path_factory.getbasetemp())
    with suppress(ValueError):
        override({}, ["data=" + "".join(parts)])


@given(tree=TREES, at=st.sampled_from(["", "data", "target", "shadows", "attacks", "sweeps", "grid", "split", "fprs"]))
def test_any_tree(tree: object, at: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome(yaml.safe_dump({at: tree} if at else tree), tmp_path_factory.getbasetemp())


@given(data=st.data())
def test_a_config_with_one_thing_changed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A field of one of our own configs is dropped, renamed, or given another value."""
    config = yaml.safe_load(data.draw(st.sampled_from(CONFIGS)).read_text())
    way = data.draw(st.sampled_from(places(config)))
    holder = config
    for step in way[:-1]:
        holder = holder[step]
    match data.draw(st.sampled_from(["drop", "rename", "change"])):
        case "drop":
            del holder[way[-1]]
        case "rename":
            config = misspelt(config, way, data.draw(st.text(min_size=1, max_size=5)))
        case "change":
            holder[way[-1]] = data.draw(TREES)
    outcome(yaml.safe_dump(config), tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_our_own_configs_are_read(path: Path) -> None:
    assert isinstance(experiment(read_yaml(path)), Experiment)


REFUSED = {
    "a billion laughs": (BILLION, r"any\.yaml could not be read: it holds an alias"),
    "itself": ("data: &a {path: *a}", "it holds an alias"),
    "deep lists": ("data: " + "[" * 100_000, "it is nested deeper than 64 levels"),
    "deep fields": ("data: " + "{a: " * 20_000, "it is nested deeper than 64 levels"),
    "deep items": ("- " * 20_000, "it is nested deeper than 64 levels"),
    "a field twice": ("split:\n  members: 3\n  members: 4", r"'members' stands in it twice: leave one out.*line 3"),
    "a part twice": ("split: {}\n'split': {members: 3}", "'split' stands in it twice"),
    "no truth": ("data: !!bool abc", r"'abc' is no bool.*line 1"),
    "no time": ("data: !!timestamp abc", "'abc' is no timestamp"),
    "no day": ("data: 2020-99-99", "'2020-99-99' is no timestamp"),
    "no number": ("split: {members: !!int abc}", "'abc' is no int"),
    "a number of many digits": ("split: {members: " + "9" * 5000 + "}", "'9{80}' is no int"),
    "code": ("data: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
    "an object": ("data: !!python/object:pathlib.Path {}", "could not determine a constructor"),
    "a module": ("data: !!python/module:antigravity", "could not determine a constructor"),
    "a merge": ("data: {<<: 3}", "expected a mapping or list of mappings"),
    "a key that is a list": ("{[a]: 3}", "unhashable key"),
    "a zero byte": ("data: \0", "special characters are not allowed"),
    "a set": ("data: !!set {a, b}", "data takes a kind"),
    "a megabyte": ("#" * (module.LONGEST + 1), "has 1,048,577 bytes, and at most 1,048,576 are read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_is_sly_or_broken_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "any.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        experiment(read_yaml(tmp_path / "any.yaml"))
    assert len(str(caught.value)) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["any.yaml"]
