"""Shared fixtures: one thread, no network, and the tiny worlds of `tests/worlds.py`, each trained once a session."""

from __future__ import annotations

import os
import tempfile

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_mia-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import datasets
import pytest
import torch
import trials
import worlds
from hypothesis import Phase, settings

from hf_mia.core import Pool
from hf_mia.probes import masked

torch.set_num_threads(1)
datasets.disable_progress_bars()

QUICK = [Phase.explicit, Phase.generate]  # `pytest --hypothesis-profile long` draws more, anew, and shrinks what fails
settings.register_profile("quick", max_examples=25, phases=QUICK, deadline=None, derandomize=True, database=None)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile("quick")


@pytest.fixture(scope="session", autouse=True)
def _clean_home() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _a_masked_model_without_the_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `neighbourhood-masked` names is on the Hub: a tiny one of the worlds' words takes its place."""
    found, tiny = masked.folder_of, cache(lambda: worlds.tiny_bert(tmp_path_factory.mktemp("bert")))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(masked, "folder_of", lambda model, at: tiny() if model == masked.BERT else found(model, at))
        yield


@pytest.fixture(scope="session")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """A target and three shadows that know their members' texts by heart."""
    return worlds.world(tmp_path_factory.mktemp("overfitted"), users=worlds.OVERFITTED, epochs=40)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """The same game with models that never saw a text; more users, for nothing is trained."""
    return worlds.world(tmp_path_factory.mktemp("untrained"), users=worlds.UNTRAINED, epochs=0)


@pytest.fixture(scope="session")
def overfitted_cased(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """As `overfitted`, of texts in which the case of words tells something."""
    return worlds.cased_world(tmp_path_factory.mktemp("overfitted-cased"), worlds.OVERFITTED, epochs=40)


@pytest.fixture(scope="session")
def untrained_cased(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """The same game with models that never saw a text."""
    return worlds.cased_world(tmp_path_factory.mktemp("untrained-cased"), worlds.UNTRAINED, epochs=0)


@pytest.fixture(scope="session")
def reciters(overfitted: worlds.World) -> worlds.World:
    """The overfitted world's game among language models made by hand: nothing is trained."""
    return worlds.reciters(overfitted)


@pytest.fixture(scope="session")
def overfitted_images(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """A target and a shadow that know views of their members from all others."""
    return worlds.image_world(tmp_path_factory.mktemp("overfitted-images"), images=worlds.OVERFITTED, epochs=1200)


@pytest.fixture(scope="session")
def untrained_images(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """The same game with encoders that never saw an image, which map 2x2 positions; more images."""
    folder = tmp_path_factory.mktemp("untrained-images")
    mapping = {"architecture": "resnet18", "width": 4, "size": 16}
    return worlds.image_world(folder, images=worlds.UNTRAINED, epochs=0, **mapping)


@pytest.fixture(scope="session")
def overfitted_classes(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """A target and eight shadows that know the classes of their members by heart, which nothing tells."""
    return worlds.classes_world(tmp_path_factory.mktemp("overfitted-classes"), images=120, epochs=40)


@pytest.fixture(scope="session")
def untrained_classes(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """The same game with classifiers that never saw an image; more images."""
    return worlds.classes_world(tmp_path_factory.mktemp("untrained-classes"), images=worlds.UNTRAINED, epochs=0)


@pytest.fixture(scope="session")
def overfitted_pairs(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """A target and two shadows that know their members' targets by heart."""
    return worlds.pair_world(tmp_path_factory.mktemp("pairs"), worlds.OVERFITTED, epochs=25, shadows=2)


@pytest.fixture(scope="session")
def memorisers(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """A target and a shadow made by hand: nothing is trained."""
    return worlds.memorisers(worlds.image_world(tmp_path_factory.mktemp("memorisers"), worlds.OVERFITTED, epochs=0))


@pytest.fixture(scope="session")
def run_folder(overfitted: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `hf-mia audit` wrote of the overfitted world, with attacks that learn and that compare."""
    return worlds.audited(overfitted, tmp_path_factory.mktemp("audited"))


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a context of 16 tokens and random weights, saved as a Hub repository is."""
    return worlds.tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def small_pool() -> Pool:
    """Twelve users with five texts each, and no model."""
    return worlds.pool(12, 5, seed=3)


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory, gpt2_folder: Path) -> Path:
    """A cache that two processes of one launch filled: answers about `small_pool`, and the models of `worlds.jobs`."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "launched.py"
    script.write_text(
        worlds.LAUNCHED.format(tests=str(Path(__file__).parent), cache=str(folder), model=str(gpt2_folder))
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.glob("process-*")) == ["process-0-of-2", "process-1-of-2"]
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[trials.Place, bytes, float]:
    """A whole audit in a process of its own that nothing disturbed, its report, and the seconds it took."""
    folder = tmp_path_factory.mktemp("trials")
    return trials.undisturbed(trials.prepared(folder), folder / "whole")


@pytest.fixture(scope="session")
def published_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small audit of texts, with one control; tests copy what they change."""
    return worlds.run_folder(tmp_path_factory.mktemp("run-folder"))


@pytest.fixture(scope="session")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `hf-mia audit` wrote of encoders that never saw an image: their answers are real, and tell nothing."""
    folder = tmp_path_factory.mktemp("audited-images")
    world = worlds.image_world(folder, images=worlds.OVERFITTED, epochs=0)
    return worlds.audited(world, folder, attacks=["encodermi-t"])
