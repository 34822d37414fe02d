"""Who trains on what; and training that is never repeated, never mixed up, and survives a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from worlds import TINY, jobs, pool, tiny_gpt2, together

from hf_mia import shadows
from hf_mia.recipes.language import CausalLM
from hf_mia.recipes.vocabulary import word_tokenizer
from hf_mia.shadows import Job, same_halves, split_users, train


@pytest.mark.parametrize(("users", "members", "count"), [(8, 2, 1), (40, 10, 4), (101, 25, 10), (9, 3, 0), (6, 3, 0)])
def test_a_split_is_disjoint_and_has_the_papers_sizes(users: int, members: int, count: int) -> None:
    split = split_users(users, members, count, seed=5)
    parts = [split.members, split.nonmembers, split.attackers, split.rest]
    assert sorted(np.concatenate(parts).tolist()) == list(range(users))
    assert [len(part) for part in parts[:3]] == [members, members, 2 * members if count else 0]
    assert len(split.shadows) == count
    for trained in split.shadows:
        assert len(set(trained.tolist())) == len(trained) == members
        assert set(trained) <= set(split.attackers)


def test_shadows_train_on_different_random_halves() -> None:
    split = split_users(400, 100, 10, seed=0)
    assert len({tuple(trained) for trained in split.shadows}) == 10
    often = np.bincount(np.concatenate(split.shadows), minlength=400)[split.attackers]
    assert often.mean() == 5
    assert often.std() == pytest.approx(np.sqrt(10 / 4), rel=0.2)  # of a binomial: each user in or out by a fair coin


@pytest.mark.parametrize("count", [1, 4, 7])
def test_shadows_of_the_same_pool_come_in_complementary_halves(count: int) -> None:
    drawn = split_users(60, 10, 0, seed=3)
    split = same_halves(drawn, count, seed=3)
    assert sorted(split.attackers.tolist()) == sorted(split.candidates.tolist())
    assert [len(trained) for trained in split.shadows] == [10] * count
    for one, other in zip(split.shadows[::2], split.shadows[1::2], strict=False):
        assert sorted([*one, *other]) == sorted(split.candidates.tolist())
    assert len({tuple(trained) for trained in split.shadows}) == count


def test_who_is_a_member_moves_no_shadow_of_the_same_pool() -> None:
    drawn = split_users(60, 10, 0, seed=3)
    swapped = replace(drawn, members=drawn.nonmembers, nonmembers=drawn.members)
    for one, other in zip(same_halves(drawn, 6, 3).shadows, same_halves(swapped, 6, 3).shadows, strict=True):
        np.testing.assert_array_equal(one, other)


def test_coins_make_members_independent() -> None:
    """Each of the 2N by a fair coin: the number varies as a binomial's does, and who is in question stays."""
    fixed, tossed = split_users(400, 100, 2, seed=1), split_users(400, 100, 2, seed=1, coin=True)
    assert sorted(tossed.candidates.tolist()) == sorted(fixed.candidates.tolist())
    np.testing.assert_array_equal(tossed.attackers, fixed.attackers)
    counts = np.array([len(split_users(40, 20, 0, seed, coin=True).members) for seed in range(400)])
    assert counts.mean() == pytest.approx(20, abs=0.7)
    assert counts.std() == pytest.approx(np.sqrt(10), rel=0.15)
    uneven = next(seed for seed in range(50) if np.random.default_rng([seed, shadows.COINS]).random(4).min() > 0.5)
    with pytest.raises(ValueError, match=r"split\.coin left fewer than 2 of 4 users on a side"):
        split_users(4, 2, 0, uneven, coin=True)


def test_a_split_hangs_on_its_seed_alone() -> None:
    first, again, other = (split_users(40, 10, 3, seed) for seed in (1, 1, 2))
    for part in ("members", "nonmembers", "attackers"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
        assert set(getattr(first, part)) != set(getattr(other, part))
    more = split_users(40, 10, 5, seed=1)
    for one, same in zip(first.shadows, more.shadows[:3], strict=True):  # more shadows leave the first ones cached
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize(
    ("users", "members", "count", "message"),
    [
        (100, 1, 3, "at least 2 users a side"),
        (39, 10, 3, r"takes 40 users .* has 39: set split\.members to 9 or less"),
        (19, 10, 0, r"takes 20 users .* has 19: set split\.members to 9 or less"),
    ],
)
def test_too_few_users_are_refused(users: int, members: int, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_users(users, members, count, seed=0)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_training_is_deterministic_and_different_for_each_job(tmp_path: Path) -> None:
    first, second = (train(jobs(), tmp_path / name) for name in ("a", "b"))
    assert [weights(folder) for folder in first] == [weights(folder) for folder in second]
    assert weights(first[0]) != weights(first[1])


def test_two_processes_train_as_one(two_processes: Path, tmp_path: Path) -> None:
    for folder in train(jobs(), tmp_path):
        assert weights(two_processes / folder.relative_to(tmp_path)) == weights(folder)


def test_two_processes_train_one_model_together(two_processes: Path, tmp_path: Path) -> None:
    """The mean of both processes' gradients is the batch's, so one process alone ends with the same weights."""
    (alone,) = train(together(), tmp_path)
    both = load_file(two_processes / alone.relative_to(tmp_path) / "model.safetensors")
    for name, weight in load_file(alone / "model.safetensors").items():
        assert (both[name] - weight).abs().max() < 1e-4, name


def test_a_second_call_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(jobs(), tmp_path)
    before = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]
    monkeypatch.setattr(type(TINY), "train", lambda *_: pytest.fail("trained again"))
    assert train(jobs(), tmp_path) == first
    assert [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))] == before


def test_a_finished_folder_holds_a_model_and_no_checkpoint(tmp_path: Path) -> None:
    (folder,) = train(jobs(1), tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "training.json"} <= names
    assert not [name for name in names if name.startswith("checkpoint")]
    assert [path.name for path in (tmp_path / "models").iterdir()] == [folder.name]
    assert json.loads((folder / "training.json").read_text())["seed"] == 7


CHANGED = {
    "epochs": 5, "batch": 5, "window": 9, "learning_rate": 0.1, "optimizer": "sgd", "momentum": 0.5, "clip": None,
    "precision": "bf16", "compile": True, "together": True, "cell": "gru", "vocabulary": 61, "lowercase": False,
    "embedding": 9, "hidden": 9, "dropout": 0.1,
}  # fmt: skip


def test_a_models_key_covers_everything_that_decides_its_weights(tmp_path: Path) -> None:
    job, texts = jobs(1)[0], pool(12, 5, seed=3).records["text"]
    assert {field.name for field in fields(TINY)} == set(CHANGED)
    other = word_tokenizer([*texts, "w000 w000 w000"] * 2, 59)
    cased, ended = (word_tokenizer(texts, 60, lowercase=low) for low in (False, True))
    ended.eos_token = "<unk>"
    variants = [
        job,
        *(replace(job, recipe=replace(TINY, **{name: value})) for name, value in CHANGED.items()),
        replace(job, seed=8),
        replace(job, records=job.records.select(range(29))),
        replace(job, records=job.records.select(range(29, -1, -1))),
        *(replace(job, processor=processor) for processor in (other, cased, ended)),
    ]
    assert len({variant.folder(tmp_path) for variant in variants}) == len(variants)
    renamed = replace(job, name="another", processor=word_tokenizer(texts, 60))
    assert renamed.folder(tmp_path) == job.folder(tmp_path)


def test_a_fine_tuned_models_key_covers_the_weights_it_starts_from(tmp_path: Path) -> None:
    base = tiny_gpt2(tmp_path / "base")
    recipe = CausalLM(model=str(base), window=8)
    job = replace(jobs(1)[0], recipe=recipe, processor=recipe.processor([]))
    before = job.folder(tmp_path)
    tiny_gpt2(tmp_path / "base", initializer_range=0.1)
    assert replace(job).folder(tmp_path) != before


@contextmanager
def _recording(calls: list[int], stop: int | None) -> Iterator[Callable[[int, int, str], None]]:
    def move(done: int, total: int, note: str = "") -> None:
        calls.append(done)
        if stop is not None and done >= stop:
            raise KeyboardInterrupt

    yield move


def test_a_full_disk_is_said_clearly_and_the_rerun_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("hf_mia.recipes.checkpoint.save_file", full)
        with pytest.raises(OSError, match=r"cannot write the model to .*No space left.*free some space.*run again"):
            train(jobs(1), tmp_path)
    assert [path.suffix for path in tmp_path.glob("models/*")] == [".unfinished"]
    (folder,) = train(jobs(1), tmp_path)
    assert (folder / "model.safetensors").exists()


def test_memory_that_does_not_suffice_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no piece of a batch is small enough, or the recipe cannot cut it."""
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation.")
    monkeypatch.setattr(TINY.__class__, "train", lambda *given: (_ for _ in ()).throw(error))
    with pytest.raises(RuntimeError, match=r"training model 0 does not fit in .*2\.00 GiB.*batch, which is 4"):
        train(jobs(1), tmp_path)


def test_an_interrupted_training_goes_on_from_its_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, calls = jobs(1)[0], []
    steps = TINY.steps(job.records, job.processor) // TINY.epochs
    monkeypatch.setattr(shadows, "bar", lambda *_args, **_options: _recording(calls, stop=2 * steps + 1))
    with pytest.raises(KeyboardInterrupt):
        train([job], tmp_path / "stopped")
    assert not job.folder(tmp_path / "stopped").exists()
    calls.clear()
    monkeypatch.setattr(shadows, "bar", lambda *_args, **_options: _recording(calls, stop=None))
    (resumed,) = train([job], tmp_path / "stopped")
    assert calls[0] == 2 * steps + 1  # two epochs are not trained again
    (whole,) = train([job], tmp_path / "whole")
    assert weights(resumed) == weights(whole)


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(1)
import worlds
from hf_mia.shadows import train
if __name__ == "__main__":
    train(worlds.jobs(1, replace(worlds.TINY, epochs=60)), Path({cache!r}))
"""


def test_a_training_killed_by_the_system_ends_with_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL, which no handler sees, as soon as a few epochs are done; and one more run."""
    job: Job = jobs(1, replace(TINY, epochs=60))[0]
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent), cache=str(tmp_path / "killed")))
    state = job.folder(tmp_path / "killed").with_suffix(".unfinished") / "checkpoint.safetensors"
    child = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not state.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with safe_open(state, "pt") as file:
        assert 0 < int(json.loads(file.metadata()["epoch"])) < 60
    assert not job.folder(tmp_path / "killed").exists()
    (resumed,) = train([job], tmp_path / "killed")
    (whole,) = train([job], tmp_path / "whole")
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize("changes", [{"optimizer": "sgd"}, {"optimizer": "adamw"}, {"cell": "gru", "clip": None}])
def test_every_optimizer_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]) -> None:
    job = jobs(1, replace(TINY, **changes))[0]
    steps = TINY.steps(job.records, job.processor) // TINY.epochs
    with monkeypatch.context() as patch:
        patch.setattr(shadows, "bar", lambda *_args, **_options: _recording([], stop=3 * steps))
        with pytest.raises(KeyboardInterrupt):
            train([job], tmp_path / "stopped")
    assert weights(train([job], tmp_path / "stopped")[0]) == weights(train([job], tmp_path / "whole")[0])


@pytest.mark.parametrize(
    ("file", "whole"),
    [("model.safetensors", False), ("model.safetensors", True), ("config.json", True), ("training.json", False)],
)
def test_a_damaged_model_is_named_and_trained_again(tmp_path: Path, file: str, whole: bool) -> None:
    first, second = train(jobs(), tmp_path)
    before, left = weights(first), (second / "model.safetensors").stat().st_mtime_ns
    data = bytearray((first / file).read_bytes())
    data[len(data) // 2] ^= 1
    (first / file).write_bytes(data if whole else data[: len(data) // 2])
    with pytest.warns(UserWarning, match=f"model {first.name} is damaged and is trained again"):
        assert train(jobs(), tmp_path) == [first, second]
    assert weights(first) == before
    assert (second / "model.safetensors").stat().st_mtime_ns == left


@pytest.mark.parametrize("whole", [False, True])
def test_a_damaged_checkpoint_is_named_and_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    job = jobs(1)[0]
    steps = TINY.steps(job.records, job.processor) // TINY.epochs
    with monkeypatch.context() as patch:
        patch.setattr(shadows, "bar", lambda *_args, **_options: _recording([], stop=3 * steps))
        with pytest.raises(KeyboardInterrupt):
            train([job], tmp_path / "stopped")
    (state,) = tmp_path.glob("stopped/models/*/checkpoint.safetensors")
    data = bytearray(state.read_bytes())
    data[-100] ^= 1
    state.write_bytes(data if whole else data[:-100])
    with pytest.warns(UserWarning, match=f"checkpoint of {job.folder(tmp_path).name} is damaged"):
        (resumed,) = train([job], tmp_path / "stopped")
    assert weights(resumed) == weights(train([job], tmp_path / "whole")[0])


def test_a_model_that_another_run_trains_comes_last_and_is_taken_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run puts the first model there while this one trains the second."""
    made = jobs()
    first = made[0].folder(tmp_path / "here")
    other = FileLock(tmp_path / "here" / "locks" / f"{first.name}.lock")
    Path(other.lock_file).parent.mkdir(parents=True)
    (theirs, _), trained = train(made, tmp_path / "there"), []
    real = type(TINY).train

    def spied(self: object, records: object, processor: object, seed: int, *rest: object) -> None:
        trained.append(seed)
        real(self, records, processor, seed, *rest)  # type: ignore[arg-type]
        shutil.copytree(theirs, first)
        other.release()

    monkeypatch.setattr(type(TINY), "train", spied)
    with other:
        assert train(made, tmp_path / "here")[0] == first
    assert trained == [made[1].seed]
