"""A run folder read back: what report.json says, checked against its own scores, and the config that made it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from hf_mia.audits.played import PROVENANCE, verdict
from hf_mia.audits.remarks import Json, mapping, read_remarks
from hf_mia.config import LONGEST, check_name, read_yaml
from hf_mia.reports.estimates import Estimate
from hf_mia.reports.report import Report, ReportDict
from hf_mia.storage.foreign import inside

LARGEST = 256 * 2**20  # bytes of a report.json: some million units


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an audit found, read back: a report an attack, the blind control's, and those of the controls' models.

    `dates` is what the dates alone tell, None where they are unknown; `remarks` are sentences on near-duplicates,
    shared words and the members as one set; `unit` is what a unit is called; `config` holds the resolved config's
    fields, `folder` the files.
    """

    folder: Path
    target: str
    verdict: str
    headline: Report
    reports: Mapping[str, Report]
    attacks: Mapping[str, str]
    above: Mapping[str, Estimate]
    control: Report
    dates: Report | None
    remarks: tuple[str, ...]
    controls: Mapping[str, Mapping[str, Report]]
    unit: str
    provenance: str
    access: str
    data: str
    limits: tuple[str, ...]
    versions: Mapping[str, str]
    config: Json = field(repr=False)


def read_outcome(folder: Path) -> Outcome:
    """A run folder's report.json and config.yaml; ValueError says where they are not what an audit writes.

    The figures are computed anew from the scores: a report.json whose estimates are not those of its scores is refused.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no report.json: give a folder that `hf-mia audit` wrote.")
    inside(folder, path, LARGEST)
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        return _outcome(folder, mapping(found, "it"), _config(folder))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not what `hf-mia audit` writes: {error}") from error


def _outcome(folder: Path, found: Json, config: Json) -> Outcome:
    attacks = {name: mapping(one, f"attacks.{name}") for name, one in _part(found, "attacks").items()}
    reports = {name: _report(one, f"attacks.{name}") for name, one in attacks.items()}
    control, headline = _report(_part(found, "control"), "control"), _text(found, "headline")
    shift = found.get("date_shift")
    dates = None if shift is None else _report(mapping(shift, "date_shift"), "date_shift")
    scenes = mapping(found.get("scenes", {}), "scenes")
    played = mapping(mapping(scenes.get("controls", {}), "scenes.controls").get("reports", {}), "scenes.controls")
    if headline not in reports or _text(found, "verdict") != verdict(reports[headline], control, dates):
        raise ValueError(f"its verdict {found['verdict']!r} by {headline!r} is not that of its scores.")
    return Outcome(
        folder=folder,
        target=_text(_part(found, "target"), "name"),
        verdict=_text(found, "verdict"),
        headline=reports[headline],
        reports=reports,
        attacks={name: _text(one, "attack") for name, one in attacks.items()},
        above={name: report.auc_above(control) for name, report in reports.items()},
        control=control,
        dates=dates,
        remarks=read_remarks(found),
        controls={name: _row(mapping(row, name), f"scenes.controls.{name}") for name, row in played.items()},
        unit=_unit(found),
        provenance=_provenance(found),
        access=_text(found, "access"),
        data=_text(_part(found, "data"), "path"),
        limits=tuple(str(one) for one in cast("list[object]", found.get("limits", []))),
        versions={name: str(one) for name, one in _part(found, "versions").items()},
        config=config,
    )


def _unit(found: Json) -> str:
    """What a unit is called: the counts of both sides stand under its plural."""
    plurals = [name for name, value in found.items() if isinstance(value, Mapping) and "non_members" in value]
    return plurals[0].removesuffix("s") if plurals else "unit"


def _provenance(found: Json) -> str:
    name = _text(found, "membership_provenance")
    check_name(name, PROVENANCE, "membership_provenance")
    return name


def _row(row: Json, where: str) -> dict[str, Report]:
    return {name: _report(mapping(one, where), f"{where}.{name}") for name, one in row.items()}


def _report(entry: Json, where: str) -> Report:
    """The report of an entry, whose estimates must be those of its scores, but for the last bits."""
    try:
        report = Report.from_dict(cast("ReportDict", mapping(entry.get("report"), where)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    said = mapping(entry.get("estimates"), f"{where}.estimates")
    for name, estimate in report.summary().items():
        written = mapping(said.get(name), f"{where}.estimates.{name}")
        for end in ("value", "low", "high"):
            if not _close(written.get(end), getattr(estimate, end)):
                raise ValueError(
                    f"{where} says {name} = {written.get(end)} ({end}), but its scores give {getattr(estimate, end)}."
                )
    return report


def _close(said: object, computed: float | None) -> bool:
    if said is None or computed is None:
        return said is None and computed is None
    return isinstance(said, (int, float)) and math.isclose(said, computed, rel_tol=1e-9, abs_tol=1e-9)


def _config(folder: Path) -> Json:
    return read_yaml(inside(folder, folder / "config.yaml", LONGEST))


def _part(found: Json, name: str) -> Json:
    return mapping(found.get(name), name)


def _text(found: Json, name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {value!r}.")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}, which JSON has no word for.")
