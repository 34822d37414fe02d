"""What an audit would do and how long it would take, without doing it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import yaml

from hf_mia.experiment import Checkpoint, Experiment, mapping
from hf_mia.models import TextCollate, language_model
from hf_mia.papers import PAPERS
from hf_mia.probes import Tokens
from hf_mia.setting import Setting, jobs, setting
from hf_mia.shadows import Job


def describe(experiment: Experiment, cache: Path) -> str:
    """The resolved config, the splits' sizes, the number of queries, and the time by a few timed steps."""
    prepared = setting(experiment)
    split, made = prepared.split, jobs(prepared)
    missing = [job for job in made if not job.folder(cache).exists()]
    queries = _queries(prepared)
    training, asking = _training_seconds(missing), queries * _seconds_a_query(prepared, made)
    lines = [
        yaml.safe_dump(mapping(experiment), sort_keys=False),
        f"users: {len(split.members)} members, {len(split.nonmembers)} non-members, {len(split.attackers)} attacker's, "
        f"{len(split.rest)} not in the game",
        f"models: {len(made)} to have, {len(missing)} to train",
        f"queries: {queries:,} texts, less those whose answers are in the cache",
        f"estimated time: {_spoken(training)} of training and at most {_spoken(asking)} of queries, on one process",
    ]
    return "\n".join(lines)


def _queries(prepared: Setting) -> int:
    """Texts that are asked about, over all models."""
    experiment, candidates = prepared.experiment, len(prepared.candidates().records)
    if not prepared.split.shadows:
        return candidates
    named = [*experiment.attacks.values(), *(PAPERS[name] for s in experiment.sweeps.values() for name in s.attacks)]
    compared = candidates if any(attack.compares for attack in named) else 0
    return candidates + len(prepared.split.shadows) * (len(prepared.shadow_pool().records) + compared)


def _seconds_a_query(prepared: Setting, made: Sequence[Job]) -> float:
    """Time to ask about one text, from the first few: of a model before training, or of the checkpoint."""
    target = prepared.experiment.target
    if isinstance(target, Checkpoint):
        model = language_model(target.model, target.revision)
        module, collate = model.load(), model.collate
    else:
        module, collate = target.module(made[0].processor).eval(), TextCollate(made[0].processor)
    records = prepared.candidates().records[:64]
    batch = collate.pad(collate.encode(records))
    for _ in range(2):  # the first round warms up
        begin = perf_counter()
        Tokens().observe(module, batch)
    return (perf_counter() - begin) / len(records["text"])


def _spoken(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def _training_seconds(missing: Sequence[Job]) -> float:
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
