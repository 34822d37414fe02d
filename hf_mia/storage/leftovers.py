"""What processes that were killed left half written: told by locks from what living ones are at, and taken away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from hf_mia.storage.locks import locked

PLACES = ("answers/*", "replies/*/*")  # where files of a cache are written under another name first


@contextmanager
def writing(cache: Path) -> Iterator[str]:
    """A name for the files that this process is writing; while the process lives, its lock keeps others off them."""
    while True:
        name = f"writing-{uuid4().hex}"
        with locked(cache, [name], wait=False, doing="writing") as held:
            if held:  # or somebody who sweeps took the lock before it was ours
                try:
                    yield name
                finally:
                    (cache / "locks" / f"{name}.lock").unlink(missing_ok=True)
                return


def sweep(cache: Path) -> None:
    """Take away what writers who no longer live left among answers and replies, and their locks."""
    for lock in (cache / "locks").glob("writing-*.lock"):
        with locked(cache, [lock.stem], wait=False, doing="writing") as dead:
            if dead:
                for leftover in (one for place in PLACES for one in cache.glob(f"{place}/*.{lock.stem}.tmp")):
                    leftover.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
