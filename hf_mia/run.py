"""Playing an experiment: every attack on one setting, the control beside it, and the folder that holds it all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hf_mia.controls import blind_scores
from hf_mia.core import Attack, Evidence, Floats, Game, decide, gather
from hf_mia.estimates import Estimate
from hf_mia.experiment import Experiment, swept
from hf_mia.facts import facts
from hf_mia.progress import bar
from hf_mia.report import Report
from hf_mia.runner import Runner
from hf_mia.setting import Setting, games
from hf_mia.signals.language import LogRankHistogram, vocabulary

LIMITS = (
    "Membership inference is evidence, not proof: a score says how much more likely membership is, for this model, "
    "these units and this attack.",
    "A weak result bounds the attacks tried here, not all attacks.",
    "Thresholds were chosen on shadows; intervals cover the sampling of units, not the retraining of the target.",
)
PROVENANCE = {
    "random_split": "Members were drawn at random, so they differ from non-members in nothing but membership.",
    "canary": "Members are inserted records, which may be easier or harder to find than natural ones.",
    "post_hoc": "Members and non-members were collected apart: a difference between them can look like a leak.",
    "unknown": "How members came to be members is unknown: a difference between the sides can look like a leak.",
}


@dataclass(frozen=True, eq=False)
class Played:
    """What an audit found: a report an attack, the reports of each sweep's table, and the blind control.

    `ranks` are the target's shares of words (units, bins) by the rank of the true word, and the edges of 1 + rank.
    """

    reports: Mapping[str, Report]
    evidence: Mapping[str, tuple[Evidence, list[Evidence]]] = field(repr=False)
    sweeps: Mapping[str, Mapping[str, list[Report]]]
    control: Report
    target: Game
    ranks: tuple[Floats, Floats]
    facts: Mapping[str, object]

    @property
    def headline(self) -> Report:
        """The first attack named in the config: chosen before anything was measured."""
        return next(iter(self.reports.values()))

    def above_control(self, report: Report) -> Estimate:
        """By how much an attack's AUC is above the blind control's, on the same units."""
        return report.auc_above(self.control)

    def verdict(self, report: Report) -> str:
        """`leak` where an attack beats both chance and the blind control by their intervals, else `inconclusive`."""
        above = self.above_control(report)
        beats = above.low is not None and above.low > 0 and report.auc.low is not None and report.auc.low > 0.5
        return "leak" if beats else "inconclusive"


def play(setting: Setting, cache: Path) -> Played:
    """Train and ask what the cache lacks, then run every attack; every number comes from cached answers."""
    experiment, ask = setting.experiment, Runner(cache)
    target, shadows = games(setting, cache)
    attacks = {**experiment.attacks, **{name: attack for row in _swept(experiment) for name, attack in row.items()}}
    evidence: dict[str, tuple[Evidence, list[Evidence]]] = {}
    reports: dict[str, Report] = {}
    with bar("attacking") as progress:
        for number, (name, attack) in enumerate(attacks.items()):
            progress(number, len(attacks), name)
            found = gather(attack, target, shadows, ask)
            report = decide(attack, *found, target.member, name)
            reports[name] = replace(report, fprs=experiment.fprs, confidence=experiment.confidence)
            if name in experiment.attacks:
                evidence[name] = found
    rows = iter(_swept(experiment))
    sweeps = {title: {name: [reports[label] for label in next(rows)] for name in sweep.attacks}
              for title, sweep in experiment.sweeps.items()}  # fmt: skip
    first = {name: reports[name] for name in experiment.attacks}
    blind = blind_scores(_texts(target), target.member == 1)
    control = replace(next(iter(first.values())), name="blind (no model)", scores=blind, threshold=0.0)
    return Played(first, evidence, sweeps, control, target, _ranks(target, ask), facts(setting, target, ask))


def _swept(experiment: Experiment) -> list[dict[str, Attack]]:
    """One row for each attack of each sweep: what its reports are called, and the attack with the field changed."""
    return [
        {f"{name} ({sweep.field}={value})": swept(name, sweep.field, value) for value in sweep.values}
        for sweep in experiment.sweeps.values()
        for name in sweep.attacks
    ]


def _texts(game: Game) -> Iterator[Iterable[str]]:
    """Each unit's texts, in the pool's order of units."""
    order = np.argsort(game.pool.unit, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(game.pool.unit))[:-1]):
        yield game.pool.records.select(rows)["text"]


def _ranks(target: Game, ask: Runner) -> tuple[Floats, Floats]:
    signal = LogRankHistogram()
    answers = ask(target.model, signal.probe, target.pool.records)
    counts = signal.read(answers, target.pool)
    edges = np.exp(np.linspace(0, np.log1p(vocabulary(next(iter(answers)))), signal.bins + 1))
    return counts / counts.sum(axis=1, keepdims=True), edges


def report_json(experiment: Experiment, played: Played) -> dict[str, object]:
    """Everything that was found, as JSON holds it: no NaN, numbers to the last bit."""

    def one(report: Report) -> dict[str, object]:
        estimates = {name: _plain(estimate) for name, estimate in report.summary().items()}
        return {
            "report": report.to_dict(),
            "estimates": estimates,
            "verdict": played.verdict(report),
            "auc_above_control": _plain(played.above_control(report)),
        }

    attacks = {
        name: {"attack": repr(experiment.attacks[name]), **one(report)} for name, report in played.reports.items()
    }
    tables = {
        title: {
            "field": experiment.sweeps[title].field,
            "values": list(experiment.sweeps[title].values),
            "rows": {name: [one(report) for report in row] for name, row in rows.items()},
        }
        for title, rows in played.sweeps.items()
    }
    control = {
        "report": played.control.to_dict(),
        "estimates": {k: _plain(v) for k, v in played.control.summary().items()},
    }
    return {
        "verdict": played.verdict(played.headline),
        "headline": played.headline.name,
        **played.facts,
        "attacks": attacks,
        "sweeps": tables,
        "control": control,
        "limits": [*LIMITS, PROVENANCE[experiment.provenance]],
    }


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def write_json(content: object, path: Path) -> None:
    """Strict JSON, put in place whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(path)
