"""The processes of one launch: they join once, meet where one needs what others did, and end together if one fails."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from hf_mia.launch.lines import Lines, Place, called, let_in, opened, record

if TYPE_CHECKING:
    from accelerate import Accelerator

JOINING = timedelta(minutes=30)  # for the last machine to come; no process ever waits for another's work in torch
SEEN = 60  # seconds after which what another machine wrote must be seen on a shared disk


def launched() -> bool:
    """Whether a launcher started this process as one of several, as far as the environment tells."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def joined() -> Accelerator:
    """This process's accelerator; the first time, all processes of the launch are connected to each other.

    From then on each ends within a minute after another one failed, was killed or lost its machine, with that one's
    error on stderr and exit status 3, whatever it is doing. ValueError where a process has no GPU of its own.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    _equipped()
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=JOINING)])
    if accelerator.num_processes > 1:
        _lines()
    return accelerator


def _equipped() -> None:
    """ValueError where a machine with GPUs runs more processes than it has."""
    import torch
    from accelerate.utils import parse_flag_from_env

    here, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if 0 < gpus <= here and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        raise ValueError(
            f"this machine has {gpus} GPUs, and none is left for its process {here}: start {gpus} processes here. "
            "Where small models leave a GPU idle, start the whole command several times instead, with one --cache."
        )


def meet(word: object = None) -> list[object]:
    """Wait for all that have joined, as long as it takes; the word of each (JSON), in the order of their numbers."""
    return _lines().meet(word) if _connected() else [word]


def _connected() -> bool:
    return _lines.cache_info().currsize > 0


def failed(error: BaseException) -> None:
    """Tell the others, if there are any, that this process ends, and why."""
    if _connected() and not _lines().left.is_set():
        text = f"{type(error).__name__}: {error}"
        _lines().fail(text)
        record(text)


def part() -> None:
    """Say that this process needs the others no longer, nor they it: from here on each ends by itself."""
    if _connected():
        _lines().leave()


def agreed(word: str, what: str) -> None:
    """ValueError on every process where they have not the same word for what they are at."""
    words = meet(word)
    if others := [number for number, other in enumerate(words) if other != words[0]]:
        raise ValueError(
            f"processes {others} {what} than process 0: give all processes the same command, config and data, "
            "and install the same versions on every machine."
        )


@cache
def shared(folder: Path) -> None:
    """See that a file which the first process writes to the cache is there for all; ValueError on each where not."""
    state = joined()
    if state.num_processes == 1:
        return
    here = folder / "locks"
    here.mkdir(parents=True, exist_ok=True)
    name = str(meet(f"launch-{uuid4().hex}")[0])
    if state.is_main_process:
        (here / name).touch()
    meet()
    words = meet(not _unseen([here / name], SEEN // 4))
    (here / name).unlink(missing_ok=True)
    if blind := [number for number, saw in enumerate(words) if not saw]:
        raise ValueError(
            f"the cache {folder} of process 0 is not that of processes {blind}, and what one makes, others need: set "
            "--cache to a folder on a disk that all machines share, or run on one machine."
        )


def settled(paths: Sequence[Path]) -> None:
    """Meet, and wait until what the others wrote is seen here too; OSError where it is not after a minute."""
    meet()
    if _connected() and (missing := _unseen(paths, SEEN)):
        raise OSError(f"other processes wrote {missing[0].name} to {missing[0].parent}, but it is not seen here.")


def _unseen(paths: Sequence[Path], seconds: int) -> list[Path]:
    """Those that are not there, though they were waited for; a listing makes a network disk look again."""
    missing = [path for path in paths if not path.exists()]
    for _ in range(seconds):
        if not missing:
            break
        for folder in {path.parent for path in missing if path.parent.exists()}:
            list(folder.iterdir())
        time.sleep(1)
        missing = [path for path in missing if not path.exists()]
    return missing


@cache
def _lines() -> Lines:
    """The lines of this process, made once: as many processes wait for each other here as torch has connected."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    number, count = state.process_index, state.num_processes
    if state.is_main_process:
        door, place = opened(os.environ.get("MASTER_ADDR", "127.0.0.1"))
        broadcast_object_list([list(place.hosts), place.port, place.word])
        lines = let_in(door, place, count)
    else:
        hosts, port, word = broadcast_object_list([None, None, None])
        lines = called(Place(hosts, port, word), number, count)
    lines.listen()
    atexit.register(_end, lines)
    return lines


def _end(lines: Lines) -> None:
    """At exit: what ended this process, if it was an error that nothing caught."""
    error = getattr(sys, "last_value", None)
    if isinstance(error, Exception):
        failed(error)
    lines.leave()
