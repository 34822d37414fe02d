"""Another process that holds something until it is killed, or its standard input ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def waiting(script: str, cache: Path, word: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the script about the cache, has said the word, and is there until the block ends."""
    command = [sys.executable, "-c", script, str(cache)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{word}\n"
        try:
            yield process
        finally:
            process.kill()
