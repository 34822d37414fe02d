"""What an audit found, and the JSON that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.audits.exposure import Flips, exposures
from hf_mia.audits.games import Trained
from hf_mia.audits.plan import Experiment
from hf_mia.controls.blind import shuffled
from hf_mia.core import Evidence
from hf_mia.data import Portrait
from hf_mia.reports.estimates import Estimate
from hf_mia.reports.privacy import Epsilon, bounds
from hf_mia.reports.report import Report

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_mia.controls.overlap import Overlap
    from hf_mia.controls.twins import Twins

LEVEL = 0.05  # of the test against shuffled membership
EXPOSED = 10  # units that a report names
LIMITS = (
    "Membership inference is evidence, not proof: a score says how much more likely membership is, for this model, "
    "these units and this attack.",
    "A weak result bounds the attacks tried here, not all attacks.",
    "Thresholds were chosen on shadows; intervals cover the sampling of units, not the retraining of the target.",
)
PROVENANCE = {
    "random_split": "Members were drawn at random, so they differ from non-members in nothing but membership.",
    "coin": "Each unit was a member by a fair coin of its own, so members differ from non-members in nothing else.",
    "canary": "Members are inserted records, which may be easier or harder to find than natural ones.",
    "post_hoc": "Members and non-members were collected apart: a difference between them can look like a leak.",
    "unknown": "How members came to be members is unknown: a difference between the sides can look like a leak.",
}
SPREAD = ("accuracy", "precision", "recall", "auc")

Reports = Mapping[str, Report]  # by the attack's name


@dataclass(frozen=True, eq=False)
class Scene:
    """The same attacks on variants of the setting: controls, background knowledge, epochs; and each one's utility."""

    reports: Mapping[str, Reports]
    utility: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Played:
    """What an audit found: a report an attack, the reports of each sweep's table and each scene, the blind control.

    `trials` are further reports of the attacks whose classifier was fitted again from other seeds, the first included;
    `flips` tell how decisions hang on the shadows at hand; `twins` how many members have a near-equal non-member;
    `overlap` how much text both sides share, and `dates` how far the date alone tells them apart, None where unknown;
    `own` are the models that it was found with.
    """

    target: str
    reports: Reports
    evidence: Mapping[str, tuple[Evidence, list[Evidence]]] = field(repr=False)
    sweeps: Mapping[str, Mapping[str, list[Report]]]
    scenes: Mapping[str, Scene]
    trials: Mapping[str, Sequence[Report]]
    flips: Mapping[str, Flips | None]  # of attacks that compare models
    control: Report
    twins: Twins | None
    overlap: Overlap | None
    dates: Report | None
    portrait: Portrait
    facts: Mapping[str, object]
    own: Trained = field(repr=False)

    @property
    def headline(self) -> Report:
        """The first attack named in the config: chosen before anything was measured."""
        return next(iter(self.reports.values()))

    @property
    def blind(self) -> list[Report]:
        """What never asks the model, and what an attack must beat: the blind control and, where known, the dates."""
        return [self.control, *([] if self.dates is None else [self.dates])]

    def above_control(self, report: Report) -> Estimate:
        """By how much an attack's AUC is above the blind control's, on the same units."""
        return report.auc_above(self.control)

    def verdict(self, report: Report) -> str:
        """`leak` where an attack passes every one of the `checks`, else `inconclusive`."""
        return verdict(report, self.control, self.dates)

    def exposures(self, name: str) -> pa.Table:
        """One row a unit, the most exposed by an attack first (`hf_mia.audits.exposure.exposures`)."""
        return exposures(self.reports[name], self.evidence[name][0].group, self.flips.get(name))


def checks(report: Report, control: Report, dates: Report | None = None) -> dict[str, bool]:
    """What an attack must beat, by its interval or at 5 %: chance, the blind control, dates, shuffled membership."""
    controls = {"the blind control": control} | ({} if dates is None else {"the dates": dates})
    above = {f"beats {name}": report.auc_above(one).low for name, one in controls.items()}
    return {
        "beats chance": report.auc.low is not None and report.auc.low > 0.5,
        **{name: low is not None and low > 0 for name, low in above.items()},
        "beats shuffled membership": shuffled(report.scores, report.member).p_value <= LEVEL,
    }


def verdict(report: Report, control: Report, dates: Report | None = None) -> str:
    """`leak` where an attack passes every one of the `checks`, else `inconclusive`."""
    return "leak" if all(checks(report, control, dates).values()) else "inconclusive"


def spread(trials: Sequence[Report]) -> dict[str, tuple[float, float] | None]:
    """Mean and sample deviation over trials of accuracy, precision, recall and AUC; None where one is n/a."""
    found: dict[str, tuple[float, float] | None] = {}
    for name in SPREAD:
        values = [trial.summary()[name].value for trial in trials]
        numbers = np.array([value for value in values if value is not None])
        found[name] = (float(numbers.mean()), float(numbers.std(ddof=1))) if len(numbers) == len(values) else None
    return found


def report_json(experiment: Experiment, played: Played) -> dict[str, object]:
    """Everything that was found, as JSON holds it: no NaN, numbers to the last bit."""

    def one(report: Report) -> dict[str, object]:
        own = {"verdict": played.verdict(report), "auc_above_control": _plain(played.above_control(report))}
        return {**bare(report), **own}

    def main(name: str, report: Report) -> dict[str, object]:
        attack = experiment.attacks[name]
        controls = {
            "checks": checks(report, played.control, played.dates),
            "shuffled": asdict(shuffled(report.scores, report.member)),
        }
        found = [asdict(bound) for bound in epsilons(experiment, report)]
        exposed = played.exposures(name).slice(0, EXPOSED).to_pylist()
        return {"attack": repr(attack), "access": attack.signal.probe.shows, **one(report), **controls} | {
            "epsilon": found,
            "most_exposed": exposed,
        }

    attacks = {name: main(name, report) for name, report in played.reports.items()}
    tables = {
        title: {
            "field": experiment.sweeps[title].field,
            "values": list(experiment.sweeps[title].values),
            "rows": {name: [one(report) for report in row] for name, row in rows.items()},
        }
        for title, rows in played.sweeps.items()
    }
    return {
        "verdict": played.verdict(played.headline),
        "headline": played.headline.name,
        "access": experiment.attacks[played.headline.name].signal.probe.shows,
        **played.facts,
        **played.portrait.facts,
        "attacks": attacks,
        "trials": {name: spread(trials) for name, trials in played.trials.items()},
        "sweeps": tables,
        "scenes": {title: _scene(scene) for title, scene in played.scenes.items()},
        "control": bare(played.control),
        "near_duplicates": None if played.twins is None else asdict(played.twins),
        "ngram_overlap": None if played.overlap is None else asdict(played.overlap),
        "date_shift": None if played.dates is None else bare(played.dates),
        "limits": [*LIMITS, PROVENANCE[experiment.provenance]],
    }


def epsilons(experiment: Experiment, report: Report) -> list[Epsilon]:
    """Lower bounds on epsilon, where the experiment names a delta: by the shadows' threshold, else by the best of some;
    and, where every unit's membership was a coin's, by one run."""
    if experiment.delta is None:
        return []
    given = report.scores, report.member, experiment.delta, experiment.confidence
    return bounds(*given, experiment.provenance, report.threshold)


def _scene(scene: Scene) -> dict[str, object]:
    reports = {variant: {name: bare(one) for name, one in row.items()} for variant, row in scene.reports.items()}
    return {"reports": reports, "utility": dict(scene.utility)}


def bare(report: Report) -> dict[str, object]:
    """A report and its estimates as JSON holds them."""
    estimates = {name: _plain(estimate) for name, estimate in report.summary().items()}
    return {"report": report.to_dict(), "estimates": estimates}


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def write_json(content: object, path: Path) -> None:
    """Strict JSON, put in place whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(path)
