"""What an audit would do and how long it would take, without doing it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from hf_mia.experiment import Experiment, mapping
from hf_mia.setting import jobs, setting
from hf_mia.shadows import Job


def describe(experiment: Experiment, cache: Path) -> str:
    """The resolved config, the splits' sizes, the number of queries, and the time by a few timed steps."""
    prepared = setting(experiment)
    split, made = prepared.split, jobs(prepared)
    missing = [job for job in made if not job.folder(cache).exists()]
    candidates = prepared.candidates()
    queries = len(candidates.records)
    if split.shadows:
        per_shadow = len(prepared.shadow_pool().records)
        compared = len(candidates.records) if any(attack.compares for attack in experiment.attacks.values()) else 0
        queries += len(split.shadows) * (per_shadow + compared)
    lines = [
        yaml.safe_dump(mapping(experiment), sort_keys=False),
        f"users: {len(split.members)} members, {len(split.nonmembers)} non-members, {len(split.attackers)} attacker's, "
        f"{len(split.rest)} not in the game",
        f"models: {len(made)} to have, {len(missing)} to train",
        f"queries: {queries:,} texts",
        f"estimated time: {_minutes(_seconds(missing))} of training on one process, then the queries",
    ]
    return "\n".join(lines)


def _minutes(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def _seconds(missing: Sequence[Job]) -> float:
    """Training time of all jobs on this machine, each recipe timed over a few steps of its own."""
    from accelerate import Accelerator

    accelerator, speed, total = Accelerator(), {}, 0.0
    for job in missing:
        steps = job.recipe.steps(job.records, job.processor)
        if repr(job.recipe) not in speed:
            with tempfile.TemporaryDirectory() as folder:
                took = job.recipe.time(job.records, job.processor, Path(folder), accelerator)
            speed[repr(job.recipe)] = took
        total += steps * speed[repr(job.recipe)]
    return total
