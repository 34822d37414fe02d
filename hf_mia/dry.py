"""What an audit would do and how long it would take, without doing it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import yaml

from hf_mia.core import Attack, Model
from hf_mia.experiment import mapping
from hf_mia.papers import PAPERS
from hf_mia.plan import Checkpoint, Experiment
from hf_mia.run import variants_of
from hf_mia.setting import Setting, jobs, setting
from hf_mia.shadows import Job

SAMPLE = 64  # records that are asked about to see how long it takes


def describe(experiment: Experiment, cache: Path) -> str:
    """The resolved config, the splits' sizes, the number of queries, and the time by a few timed steps."""
    prepared = setting(experiment)
    every = [prepared, *variants_of(prepared).values()]
    made = {job.folder(cache): job for one in every for job in jobs(one)}
    split, data = prepared.split, experiment.data
    missing = [job for folder, job in made.items() if not folder.exists()]
    queries = _queries(prepared) + sum(len(one.split.shadows) * len(one.shadow_pool().records) for one in every[1:])
    training, asking = _training_seconds(missing), queries * _seconds_a_query(prepared, jobs(prepared))
    lines = [
        yaml.safe_dump(mapping(experiment), sort_keys=False),
        f"{data.unit}s: {len(split.members)} members, {len(split.nonmembers)} non-members, {len(split.attackers)} "
        f"attacker's, {len(split.rest)} not in the game",
        f"models: {len(made)} to have, {len(missing)} to train",
        f"queries: {queries:,} {data.columns[0]}s, less those whose answers are in the cache",
        f"estimated time: {_spoken(training)} of training and at most {_spoken(asking)} of queries, on one process",
    ]
    return "\n".join(lines)


def _named(experiment: Experiment) -> list[Attack]:
    return [*experiment.attacks.values(), *(PAPERS[name] for s in experiment.sweeps.values() for name in s.attacks)]


def _queries(prepared: Setting) -> int:
    """Records that are asked about, over all models of the setting and the epochs that they are kept at."""
    experiment, candidates, shadows = prepared.experiment, len(prepared.candidates().records), prepared.split.shadows
    compared = candidates if any(attack.compares for attack in _named(experiment)) else 0
    once = candidates + (len(shadows) * (len(prepared.shadow_pool().records) + compared) if shadows else 0)
    kept = () if isinstance(experiment.target, Checkpoint) else experiment.target.kept()
    return once * (1 + len(kept)) + candidates * len(experiment.controls)


def _seconds_a_query(prepared: Setting, made: Sequence[Job]) -> float:
    """Time to ask about one record by every probe, from the first few: of a blank model, or the checkpoint."""
    target = prepared.experiment.target
    probes = {repr(attack.signal.probe): attack.signal.probe for attack in _named(prepared.experiment)}
    records = prepared.candidates().records[:SAMPLE]
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(target, Checkpoint):
            model = prepared.experiment.data.model(target.model, target.revision)
        else:
            model = _untrained(made[0], Path(folder))
        module = model.load()
    total = 0.0
    for probe in probes.values():
        for _ in range(2):  # the first round warms up
            begin = perf_counter()
            probe.observe(module, model.collate.pad(model.collate.encode(records)))
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
