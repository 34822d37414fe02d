"""Whole audits in processes of their own, for the tests of what befalls them.

Each is forked from a process that has imported the libraries, as one of several of a launch where it is told so. Its
`fault` makes it fail: it raises, or is killed with SIGKILL, at its first model or its first question, while the others
of its launch are busy for ten minutes there, so that they end in time only if they are stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

TOKEN = "hf_" + "PlantedInTheEnvironment"  # in the environment of every audit
SAID = "had enough"  # what a process raises that is to fail
LONG = 600.0  # seconds that the others are busy then
LIMIT = 600.0  # seconds that an audit may take on a busy machine
PRELOADED = [
    "hf_mia.cli.main",
    "hf_mia.audits.run",
    "hf_mia.queries.calibration",
    "hf_mia.audits.folder",
    "hf_mia.queries.keeping",
    "hf_mia.audits.table",
]
PRELOADED += ["hf_mia.cli.gate", "hf_mia.recipes.loop", "hf_mia.architectures.recurrent", "hf_mia.recipes.vocabulary"]
PRELOADED += ["accelerate", "datasets", "transformers", "sklearn.svm", "torch.distributed", "pyarrow.parquet"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Place:
    """Where an audit runs: its config, its cache, its run folder, and a log of all that it said."""

    config: Path
    folder: Path
    log_file: Path

    @classmethod
    def at(cls, config: Path, folder: Path) -> Place:
        """The log is beside the folder, on another disk where the folder is one."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        return cls(config, folder, config.parent / "logs" / f"{folder.name}.log")

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def command(self) -> list[str]:
        return ["audit", str(self.config), "--cache", str(self.cache), "--out", str(self.folder / "run")]

    @property
    def report(self) -> bytes:
        path = self.folder / "run" / "report.json"
        return path.read_bytes() if path.exists() else b""

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def whole(self) -> dict[Path, int]:
        """The finished shards and models, and when each was written."""
        found = [*self.cache.glob("answers/*/*.parquet"), *self.cache.glob("models/*/model.safetensors")]
        return {path: path.stat().st_mtime_ns for path in found if ".unfinished" not in str(path)}


@dataclass(frozen=True)
class Tried:
    """One kind of fault: how often it was tried and survived, and how many whole things were made again."""

    fault: str
    tried: int
    survived: int
    lost: int = 0


def again(before: Mapping[Path, int], after: Mapping[Path, int]) -> int:
    """How many of what was whole was made again, or is gone."""
    return sum(after.get(path) != written for path, written in before.items())


def faulty(fault: str, mine: bool) -> None:
    """Make this process fail at what the fault says, `raises-training` say, or if it is not `mine`, be busy."""
    from hf_mia.probes.tokens import Tokens
    from hf_mia.recipes.language import Recurrent

    def fails(*_: object, **__: object) -> None:
        if not mine:
            time.sleep(LONG)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError(SAID)

    how, _, at = fault.partition("-")
    if at == "training":
        Recurrent.train = fails  # type: ignore[method-assign]
    elif at == "inference":
        Tokens.observe = fails  # type: ignore[method-assign]


def _audit(place: Place, environment: Mapping[str, str], fault: str, mine: bool) -> None:
    """What a process does: `hf-mia audit`, all it says into the log."""
    os.environ.update({"HF_TOKEN": TOKEN, **environment})
    with place.log_file.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import torch

    from hf_mia.cli.main import app

    torch.set_num_threads(1)
    faulty(fault, mine)
    app(place.command)


def start(
    place: Place, environment: Mapping[str, str] | None = None, fault: str = "", mine: bool = True
) -> ForkServerProcess:
    for folder in (place.folder, place.log_file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    process = FORKS.Process(target=_audit, args=(place, dict(environment or {}), fault, mine), daemon=True)
    process.start()
    return process


def ended(process: ForkServerProcess, limit: float = LIMIT) -> int | None:
    """The exit status of an audit; None where it hung, and was killed."""
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def finished(place: Place, expected: bytes) -> bool:
    """Whether a run, or a rerun, ends well and with the expected report."""
    return ended(start(place)) == 0 and place.report == expected


def prepared(folder: Path) -> Path:
    """The config of an audit of a few seconds: a target and two shadows of 16 users, two attacks, one that compares."""
    import worlds
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    content = worlds.config(worlds.write(folder / "texts.parquet", 16), 16, epochs=8, shadows=2)
    content |= {"attacks": ["mean-loss", "reference"], "controls": [], "fprs": [0.1]}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder / "config.yaml"


def undisturbed(config: Path, folder: Path) -> tuple[Place, bytes, float]:
    """A whole run, its report, and how long it took when all was imported."""
    place = Place.at(config, folder)
    begin = time.monotonic()
    if ended(start(place)) != 0:
        raise RuntimeError(f"the undisturbed audit failed:\n{place.log[-2000:]}")
    first = time.monotonic() - begin
    begin = time.monotonic()
    other = Place.at(config, folder.with_name(f"{folder.name}-again"))
    if not finished(other, place.report):
        raise RuntimeError("two undisturbed audits differ")
    return place, place.report, min(first, time.monotonic() - begin)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def ranks(place: Place, fault: str = "", failing: int = 0, other: Place | None = None) -> list[ForkServerProcess]:
    """Two processes of one launch without a launcher that watches over them, as if each had a machine of its own.

    The second process is at the `other` place, if there is one.
    """
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"ACCELERATE_USE_CPU": "1"}
    return [
        start(at, {**common, "RANK": str(rank), "LOCAL_RANK": "0"}, fault, rank == failing)
        for rank, at in enumerate((place, other or place))
    ]
