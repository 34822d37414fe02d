"""A run folder, opened as if it came from a stranger: nothing is read from outside of it, too large, or unchecked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, cast

from hf_mia.audits.experiment import experiment as parsed
from hf_mia.audits.folder import file_name, read_evidence
from hf_mia.audits.plan import Experiment
from hf_mia.config import read_yaml
from hf_mia.core import Evidence
from hf_mia.queries.calibration import FOLDER, LEARNT, Calibration
from hf_mia.queries.keeping import MANIFEST, MODELS, shadow_name
from hf_mia.queries.learnt import Array
from hf_mia.reports.report import Report
from hf_mia.storage.foreign import TABLE, check_columns, inside

TEXT = 1 << 20  # bytes of config.yaml and query.json
REPORT = 1 << 28
WEIGHTS = 1 << 37  # bytes of a model's file
KEY = re.compile(r"[0-9a-f]{32}")
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, MemoryError)
AGAIN = "Run the same `hf-mia audit` again: it trains nothing that the cache has, and writes the folder anew."


@dataclass(frozen=True)
class Place:
    """Where a model can be: its content's key, and its key in the cache of whoever trained it, if it was trained."""

    key: str
    cached: str | None


@dataclass(frozen=True)
class Base:
    """The model that a target was tuned from: the folder or Hub id that the audit loaded, and its content's key."""

    source: str
    key: str


@dataclass(frozen=True, eq=False)
class Run:
    """A finished audit: what was asked, what its attacks found, and which models it was about.

    `reports` by the attack's name. `shadows`, `target` and, if asked, `base` say where models are; `evidence` and
    `calibration` are read when they are asked for. All raise ValueError for what is missing, damaged, too large, or
    leads out of the folder.
    """

    folder: Path
    experiment: Experiment
    name: str
    reports: Mapping[str, Report] = field(repr=False)
    target: Place
    shadows: tuple[Place, ...]
    base: Base | None = None

    def evidence(self, attack: str) -> list[Evidence]:
        """What an attack was fitted on: the shadows' evidence, with their references where it compares."""
        return shadow_evidence(self.folder, attack, len(self.shadows))

    def calibration(self, attack: str) -> Calibration | None:
        """What an attack read off known non-members, and what its signal learnt; None where nothing was kept."""
        place = self.folder / FOLDER / file_name(attack)
        paths = sorted(path for path in place.glob("records-*.parquet") if "reference" not in path.name)
        if not paths:
            return None
        report, found = self.reports[attack], {}
        outside = {name for name, member in zip(report.units, report.member, strict=True) if not member}
        for path in paths:
            evidence = _table(self.folder, FOLDER, file_name(attack), path.name)
            if not path.stem.removeprefix("records-").isdecimal() or not set(evidence.names) <= outside:
                _damaged(path, "it holds others than the report's non-members")
            found[int(path.stem.removeprefix("records-"))] = evidence
        if 1 not in found:
            _damaged(place, "records-000001.parquet is missing")
        _same(list(found.values()), attack)
        return Calibration(found, learnt_arrays(self.folder, attack))

    def model(self, name: str) -> Path | None:
        """The folder of a model that was kept, `target`, `reference` or a `shadow-001`; None where it was not."""
        place = self.folder / MODELS / name
        if not (place / "config.json").exists():
            return None
        for path in sorted(place.iterdir()):
            inside(self.folder, path, WEIGHTS)
            if path.name == "adapter_config.json":
                _damaged(path, "an adapter names another model; a kept model is whole")
            if path.name.endswith(".index.json"):
                with _reading(path):
                    shards = set(json.loads(path.read_text("utf-8"))["weight_map"].values())
                    if not all((place / shard).parent == place and ".." not in shard for shard in shards):
                        _damaged(path, "it names weights outside of the folder")
        return place


def opened(folder: Path) -> Run:
    """Open and check a run folder. ValueError, which names the file and the way out, for any that is not one."""
    experiment = described(folder)
    if not (folder / "report.json").exists():
        raise ValueError(f"run {str(folder)!r} has no report.json: name a folder that `hf-mia audit` wrote.")
    if not (folder / MANIFEST).exists():
        raise ValueError(f"run {str(folder)!r} has no {MANIFEST}: it was written before runs could be asked. {AGAIN}")
    folder = folder.resolve()
    told = _json(inside(folder, folder / "report.json", REPORT))
    places = _json(inside(folder, folder / MANIFEST, TEXT))
    with _reading(folder / "report.json"):
        found = cast("Mapping[str, Mapping[str, object]]", told["attacks"])
        reports = {name: Report.from_dict(found[name]["report"]) for name in experiment.attacks}  # type: ignore[arg-type]
        target = cast("Mapping[str, str]", told["target"])
        name, key = str(target["name"]), target["key"]
        tuned = cast("Mapping[str, str] | None", told.get("reference"))
        base = None if tuned is None else Base(str(tuned["name"]), _place({"key": tuned["key"], "cached": None}).key)
    with _reading(folder / MANIFEST):
        own, shadows = _place(places["target"]), tuple(map(_place, cast("list[object]", places["shadows"])))
        if own.key != key or len(shadows) > experiment.shadows.count:
            _damaged(folder / MANIFEST, "it is about other models than report.json")
    return Run(folder, experiment, name, reports, own, shadows, base)


def described(folder: Path) -> Experiment:
    """What a run was, by its resolved config, of a folder that need hold no more. ValueError as `opened`."""
    if not folder.is_dir():
        raise ValueError(f"run {str(folder)!r} is no folder: name one that `hf-mia audit` wrote, such as runs/NAME.")
    if not (folder / "config.yaml").exists():
        raise ValueError(f"run {str(folder)!r} has no config.yaml: name a folder that `hf-mia audit` wrote.")
    return _experiment(inside(folder, folder / "config.yaml", TEXT))


def shadow_evidence(folder: Path, attack: str, count: int) -> list[Evidence]:
    """What an attack of a run was fitted on: the evidence of so many shadows, with references where it compares."""
    names = [shadow_name(number) for number in range(1, count + 1)]
    return _same([_table(folder, "evidence", file_name(attack), f"{name}.parquet") for name in names], attack)


def learnt_arrays(folder: Path, attack: str) -> dict[str, Array]:
    """What an attack's signal learnt from the attacker's pools, as far as the run folder keeps it."""
    from safetensors.numpy import load_file

    path = folder / FOLDER / file_name(attack) / LEARNT
    if not path.exists():
        return {}
    inside(folder, path, TABLE)
    with _reading(path):
        return dict(load_file(path))


def _table(folder: Path, *parts: str) -> Evidence:
    path = folder.joinpath(*parts)
    beside = sorted(path.parent.glob(f"{path.stem}.reference-*.parquet"))
    for one in (path, *beside):
        inside(folder, one, TABLE)
        with _reading(one):
            check_columns(one)
    with _reading(path):
        evidence = read_evidence(path)
        if len(set(evidence.names)) != len(evidence.names) or evidence.features.ndim != 2:
            _damaged(path, "a unit stands in it twice")
        if any(other.names != evidence.names for other in evidence.references):
            _damaged(path, "its references are about other units")
        return evidence


def _experiment(path: Path) -> Experiment:
    with _reading(path):
        return parsed(read_yaml(path))


def _json(path: Path) -> Mapping[str, object]:
    with _reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            _damaged(path, "it must hold fields and values")
        return cast("dict[str, object]", content)


def _place(told: object) -> Place:
    found = cast("Mapping[str, str | None]", told)
    key, cached = found["key"], found["cached"]
    if not (isinstance(key, str) and KEY.fullmatch(key) and (cached is None or KEY.fullmatch(cached))):
        raise ValueError(f"a key must be 32 hexadecimal digits, not {key!r} or {cached!r}")
    return Place(key, cached)


def _same(found: list[Evidence], attack: str) -> list[Evidence]:
    widths = {one.features.shape[1] for evidence in found for one in (evidence, *evidence.references)}
    if len(widths) > 1:
        raise ValueError(f"the evidence of {attack!r} has features of different sizes, {sorted(widths)}. {AGAIN}")
    return found


def _damaged(path: Path, why: str) -> NoReturn:
    raise ValueError(f"{path} is damaged: {why}. {AGAIN}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a broken file raises becomes one ValueError that names the file."""
    import pyarrow as pa
    from safetensors import SafetensorError

    try:
        yield
    except (*BROKEN, pa.ArrowException, SafetensorError) as error:
        if isinstance(error, ValueError) and AGAIN in str(error):
            raise
        told = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged: {told.rstrip('.')}. {AGAIN}") from error
