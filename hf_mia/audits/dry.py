"""What an audit would do and how long it would take, without doing it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import yaml

from hf_mia.attacks.downstream import Downstream
from hf_mia.attacks.relative import Against
from hf_mia.audits.experiment import mapping
from hf_mia.audits.plan import Experiment
from hf_mia.audits.run import variants_of
from hf_mia.audits.setting import Setting, jobs, setting
from hf_mia.audits.targets import Elsewhere, Hosted
from hf_mia.core import Model
from hf_mia.recipes import Recipe
from hf_mia.services.spoken import as_asked
from hf_mia.shadows import Job

SAMPLE = 64  # records that are asked about to see how long it takes


def describe(experiment: Experiment, cache: Path) -> str:
    """The resolved config, the splits' sizes, the number of queries, and the time by a few timed steps."""
    prepared = setting(experiment)
    variants = [one for one in variants_of(prepared).values() if one.experiment.shadows != experiment.shadows]
    made = {job.folder(cache): job for one in (prepared, *variants) for job in jobs(one)}
    split, data = prepared.split, experiment.data
    missing = [job for folder, job in made.items() if not folder.exists()]
    queries = _queries(prepared, variants)
    training, asking = _training_seconds(missing), queries * _seconds_a_query(prepared, jobs(prepared), cache)
    lines = [
        yaml.safe_dump(mapping(experiment), sort_keys=False),
        f"{data.unit}s: {len(split.members)} members, {len(split.nonmembers)} non-members, {len(split.attackers)} "
        f"attacker's, {len(split.rest)} not in the game",
        f"models: {len(made)} to have, {len(missing)} to train",
        f"queries: {queries:,} {data.record}s, less those whose answers are in the cache",
        f"estimated time: {_spoken(training)} of training and at most {_spoken(asking)} of queries, on one process",
    ]
    return "\n".join(lines + _paid(prepared))


def _paid(prepared: Setting) -> list[str]:
    """What is sent to a service, which is not asked here, and whether the budget is enough for it."""
    target = prepared.experiment.target
    if not isinstance(target, Hosted):
        return []
    service, texts = target.service(), prepared.candidates().records["text"]
    probes = {repr(attack.signal.probe): attack.signal.probe for attack in prepared.experiment.every().values()}
    sent = sum(service.queries(probe, texts) for probe in probes.values())
    most, rate = target.budget.queries, target.manners.rate
    enough = "" if most is None or sent <= most else f", more than budget.queries = {most}, so in several runs"
    slow = "" if rate is None else f", at manners.rate = {rate:g} in {_spoken(sent / rate)} or more"
    return [f"of these to the service: {sent:,}, less those that it has answered{slow}{enough}; its time is not known"]


def _queries(prepared: Setting, variants: Sequence[Setting]) -> int:
    """Records that are asked about, over all models of the settings and the epochs that they are kept at."""
    experiment, candidates = prepared.experiment, len(prepared.candidates().records)
    based = experiment.based
    comparing = [a for a in experiment.every().values() if a.compares and not (based and isinstance(a, Against))]
    compared = candidates if comparing else 0
    kept = len(experiment.target.kept()) if isinstance(experiment.target, Recipe) else 0
    targets, shadows = 1 + kept + len(experiment.controls), [prepared] * (1 + kept) + [*variants]
    counts = [len(one.split.shadows) for one in shadows]
    own = [
        len(one.shadow_pool().records) + compared if count else 0 for one, count in zip(shadows, counts, strict=True)
    ]
    queries = (targets + based) * candidates + sum(count * records for count, records in zip(counts, own, strict=True))
    classified = any(isinstance(attack, Downstream) for attack in experiment.every().values())
    probed = targets + sum(counts) if classified else 1 + kept  # a classifier each, or the target's utility alone
    return queries + probed * len(experiment.data.judged(prepared.rest()))


def _seconds_a_query(prepared: Setting, made: Sequence[Job], cache: Path) -> float:
    """Time to ask about one record by every probe, from the first few: of a blank model, or the checkpoint.

    A service is not asked: where there are no shadows beside it, the time is 0.
    """
    target = prepared.experiment.target
    if isinstance(target, Hosted) and not made:
        return 0.0
    probes = {repr(attack.signal.probe): attack.signal.probe for attack in prepared.experiment.every().values()}
    records = prepared.candidates().records[:SAMPLE]
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(target, Elsewhere) and not isinstance(target, Hosted):
            model = target.load(prepared.experiment.data, prepared.corpus.records, cache)
        else:
            model = _untrained(made[0], Path(folder))
        models = {name: as_asked(model, probe) for name, probe in probes.items()}
        modules = {one.key: one.load() for one in {one.key: one for one in models.values()}.values()}
    total = 0.0
    for name, probe in probes.items():
        for _ in range(2):  # the first round warms up
            begin = perf_counter()
            collate = probe.through(models[name].collate)
            probe.observe(modules[models[name].key], collate.pad(collate.encode(records)))
            took = perf_counter() - begin
        total += took
    return total / len(next(iter(records.values())))


def _untrained(job: Job, folder: Path) -> Model:
    from accelerate import Accelerator

    blank = job.recipe.blank()
    blank.train(job.records, job.processor, job.seed, folder, Accelerator(), lambda done, total, note: None)
    return blank.load(folder)


def _spoken(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def _training_seconds(missing: Sequence[Job]) -> float:
    """Training time of all jobs on this machine, each recipe timed over a few steps of its own."""
    from accelerate import Accelerator

    accelerator, speed, total = Accelerator(), {}, 0.0
    for job in missing:
        steps = job.recipe.steps(job.records, job.processor)
        if steps and repr(job.recipe) not in speed:
            with tempfile.TemporaryDirectory() as folder:
                took = job.recipe.time(job.records, job.processor, Path(folder), accelerator)
            speed[repr(job.recipe)] = took
        total += steps * speed.get(repr(job.recipe), 0.0)
    return total
