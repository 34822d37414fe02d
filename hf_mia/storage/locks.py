"""One process at a time at what several may want to make: locks that the system frees when who holds them dies."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def locked(cache: Path, names: Iterable[str], wait: bool, doing: str) -> Iterator[bool]:
    """Hold the cache's locks of all the names, or of none; whether they are held.

    Where another process holds one and it shall `wait`, it says so on stderr, with what the other is `doing`, and waits
    until that one is done or dead. Names are taken in sorted order: who waits holds nothing that the other waits for.
    """
    from filelock import FileLock, Timeout

    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name in sorted(names):
            lock = FileLock(folder / f"{name}.lock")
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                if not wait:
                    stack.close()
                    yield False
                    return
                print(f"Another run is {doing}: waiting for it to end.", file=sys.stderr, flush=True)
                stack.enter_context(lock.acquire())
        yield True
