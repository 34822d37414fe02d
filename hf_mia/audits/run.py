"""Playing an experiment: every attack on one setting, then on its variants, the controls beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path

import numpy as np

from hf_mia.attacks.downstream import Downstream
from hf_mia.audits.downstream import classifying, taught
from hf_mia.audits.exposure import flips
from hf_mia.audits.facts import facts
from hf_mia.audits.games import Trained, opponents, trained
from hf_mia.audits.plan import Experiment
from hf_mia.audits.played import Played, Reports, Scene
from hf_mia.audits.setting import Setting, setting
from hf_mia.controls.dates import date_scores
from hf_mia.core import Ask, Attack, Evidence, Floats, Game, Pool, Scorer, gather
from hf_mia.progress import bar
from hf_mia.reports.inference import infer
from hf_mia.reports.report import Report
from hf_mia.runner import Runner
from hf_mia.services.spoken import as_asked
from hf_mia.storage.keys import content_key

SPLITS = 100  # of the non-members, in the control of dataset inference
Found = tuple[Evidence, list[Evidence]]


@dataclass(frozen=True, eq=False)
class Stage:
    """Where attacks are played: what is asked, how reports are made, who hears of the progress, and the `rest`, units
    of the target's data that are not in the game, and the `base` that the target was tuned from, if it is asked."""

    experiment: Experiment
    ask: Ask
    told: Callable[[str], None]
    rest: Pool
    base: Game | None = None
    fits: dict[str, Scorer] = field(default_factory=dict, repr=False)

    def evidence(self, attack: Attack, target: Game, shadows: Sequence[Game], name: str) -> Found:
        self.told(name)
        shadows = opponents(attack, shadows, self.base)
        if isinstance(attack, Downstream):
            target, *shadows = classifying([target, *shadows], self.rest, self.ask)
        probe = attack.signal.probe
        target, *shadows = (replace(game, model=as_asked(game.model, probe)) for game in (target, *shadows))
        return gather(attack, target, shadows, self.ask)

    def report(self, attack: Attack, found: Found, target: Game, name: str) -> Report:
        evidence, shadows = found
        scorer = self._fitted(attack, shadows)
        report = Report(name, scorer.score(evidence), target.member == 1, evidence.names, scorer.threshold)
        return replace(report, fprs=self.experiment.fprs, confidence=self.experiment.confidence)

    def _fitted(self, attack: Attack, shadows: Sequence[Evidence]) -> Scorer:
        """The attack fitted on the shadows, once: controls differ in the target only."""
        key = content_key([repr(attack), *(part for shadow in shadows for part in _content(shadow))])
        if key not in self.fits:
            self.fits[key] = attack.fit(shadows)
        return self.fits[key]

    def every(self, attacks: Mapping[str, Attack], target: Game, shadows: Sequence[Game]) -> dict[str, Report]:
        """One report an attack."""
        return {
            name: self.report(attack, self.evidence(attack, target, shadows, name), target, name)
            for name, attack in attacks.items()
        }


def _content(evidence: Evidence) -> Iterator[str | bytes]:
    yield from (evidence.features.tobytes(), evidence.member.tobytes(), repr(evidence.names))
    for reference in evidence.references:
        yield from _content(reference)


def play(prepared: Setting, cache: Path) -> Played:
    """Train and ask what the cache lacks, then run every attack; every number comes from cached answers."""
    experiment = prepared.experiment
    variants = variants_of(prepared)
    swept = [sweep.attack(name, sweep.values[0]) for sweep in experiment.sweeps.values() for name in sweep.attacks]
    if any(isinstance(attack, Downstream) for attack in (*experiment.attacks.values(), *swept)):
        taught(prepared.rest())  # what it lacks is said before hours of training
    own, *others = trained([prepared, *variants.values()], cache)
    with bar("attacking") as progress:
        count = 0

        def told(name: str) -> None:
            nonlocal count
            count += 1
            progress(count, max(count, steps(experiment, own)), name)

        stage = Stage(experiment, Runner(cache), told, own.setting.rest(), own.base)
        target, shadows = own.games()
        evidence = {name: stage.evidence(a, target, shadows, name) for name, a in experiment.attacks.items()}
        reports = {name: stage.report(a, evidence[name], target, name) for name, a in experiment.attacks.items()}
        sweeps = _sweeps(stage, target, shadows)
        trials = _trials(stage, evidence, reports, target)
        scenes = _scenes(stage, own, dict(zip(variants, others, strict=True)), target, shadows)
        flipped = {name: flips(a, *evidence[name]) for name, a in experiment.attacks.items() if a.compares}
    member, data = target.member == 1, experiment.data
    blind = data.blind(target.pool, member)
    control = replace(next(iter(reports.values())), name="blind (no model)", scores=blind, threshold=0.0)
    probe = next(iter(experiment.attacks.values())).signal.probe
    portrait = data.portrait(target, stage.ask, probe)
    useful = data.utility(target.model, stage.rest, stage.ask)
    told_facts = {**facts(prepared, target, own.base), **({} if useful is None else {data.useful: useful})}
    if data.columns == ("text",):
        told_facts["dataset_inference"] = of_a_set(next(iter(reports.values())))
    twins, overlap = data.twins(target.pool, member), data.overlap(target.pool, member)
    shown = control, twins, overlap, _dated(data.dates(target.pool), control), portrait, told_facts
    return Played(target.model.name, reports, evidence, sweeps, scenes, trials, flipped, *shown, own)


def _dated(days: Floats | None, control: Report) -> Report | None:
    """What the dates alone tell of the control's units."""
    if days is None:
        return None
    return replace(control, name="dates (no model)", scores=date_scores(days, control.member), threshold=None)


def of_a_set(report: Report) -> dict[str, object] | None:
    """Whether the members as a whole score above the non-members, with the control beside (`hf_mia.reports.inference`).

    None where the scores are not finite, or too few non-members to split.
    """
    inside, outside = report.scores[report.member], report.scores[~report.member]
    if not np.isfinite(report.scores).all() or len(outside) < 4:
        return None
    return {"attack": report.name, **asdict(infer(inside, outside, repeats=SPLITS))}


def steps(experiment: Experiment, own: Trained) -> int:
    """How many times evidence is gathered."""
    swept = sum(len(sweep.attacks) * len(sweep.values) for sweep in experiment.sweeps.values())
    grid = len(experiment.grid.settings(experiment.shadows)) if experiment.grid else 0
    kept = len(own.jobs[0].recipe.kept()) if own.jobs else 0
    return swept + len(experiment.attacks) * (1 + len(experiment.controls) + grid + kept)


def variants_of(prepared: Setting) -> dict[str, Setting]:
    """The settings of the grid of background knowledge, by what is known in each, over the same target."""
    experiment = prepared.experiment
    if experiment.grid is None:
        return {}
    found = {}
    for name, shadows in experiment.grid.settings(experiment.shadows).items():
        described = replace(experiment, shadows=shadows, grid=None, controls=())
        found[name] = setting(described, prepared.corpus)
    return found


def _sweeps(stage: Stage, target: Game, shadows: Sequence[Game]) -> dict[str, dict[str, list[Report]]]:
    """Each sweep's table: one row an attack, one report a value."""
    found: dict[str, dict[str, list[Report]]] = {}
    for title, sweep in stage.experiment.sweeps.items():
        for name in sweep.attacks:
            row = [{f"{name} ({sweep.field}={value})": sweep.attack(name, value)} for value in sweep.values]
            each = [stage.every(one, target, shadows) for one in row]  # a value that stands twice is played twice
            found.setdefault(title, {})[name] = [report for reports in each for report in reports.values()]
    return found


def _trials(stage: Stage, evidence: Mapping[str, Found], reports: Reports, target: Game) -> dict[str, list[Report]]:
    """The attacks that draw random numbers, fitted again from the seeds that follow."""
    found: dict[str, list[Report]] = {}
    for name, attack in stage.experiment.attacks.items():
        others = [reseeded(attack, trial) for trial in range(1, stage.experiment.trials)]
        if others and others[0] != attack:
            again = [stage.report(other, evidence[name], target, name) for other in others]
            found[name] = [reports[name], *again]
    return found


def reseeded(attack: Attack, trial: int) -> Attack:
    """The attack with `trial` added to the seed of its classifier; the same attack where nothing is drawn."""
    changed: dict[str, object] = {}
    own: tuple[Field[object], ...] = fields(attack) if is_dataclass(attack) else ()
    for item in own:
        value = getattr(attack, item.name)
        if isinstance(value, Attack):
            changed[item.name] = reseeded(value, trial)
        elif item.name == "classifier" and isinstance(seed := getattr(value, "seed", None), int):
            changed[item.name] = replace(value, seed=seed + trial)
    return replace(attack, **changed) if changed else attack  # type: ignore[type-var]


def _scenes(
    stage: Stage, own: Trained, variants: Mapping[str, Trained], target: Game, shadows: Sequence[Game]
) -> dict[str, Scene]:
    """Controls, background knowledge and early stopping, those of them that the experiment has."""
    attacks, data = stage.experiment.attacks, stage.experiment.data
    found = {}
    if controls := own.controls(target):
        found["controls"] = Scene({name: stage.every(attacks, game, shadows) for name, game in controls.items()})
    if variants:
        found["background knowledge"] = Scene(
            {name: stage.every(attacks, *variant.games()) for name, variant in variants.items()}
        )
    kept = own.jobs[0].recipe.kept() if own.jobs and own.jobs[0].name == "target" else ()
    if kept:
        after = {str(epoch): own.games(epoch) for epoch in kept}
        useful = {name: data.utility(game.model, stage.rest, stage.ask) for name, (game, _) in after.items()}
        found["early stopping"] = Scene(
            {name: stage.every(attacks, *games) for name, games in after.items()},
            {name: value for name, value in useful.items() if value is not None},
        )
    return found
