"""What one visitor of the page may send, and how much is done at once; each job ends in an answer or one sentence."""

from __future__ import annotations

import html
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hf_mia.app.deadline import Deadline, GivenUp
from hf_mia.progress import Check

Answered = TypeVar("Answered")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Characters and texts of one question, bytes of an upload, rows of scores, pixels of an image; jobs done at once,
    visitors who wait, and seconds that one waits for a job."""

    characters: int = 20_000
    texts: int = 200
    upload: int = 8 << 20
    rows: int = 100_000
    pixels: int = 20_000_000
    jobs: int = 2
    waiting: int = 64
    seconds: float = 60.0

    def texts_of(self, pasted: str) -> list[str]:
        """One text a line, without blank ones. ValueError for none, too many, or too long ones."""
        if len(pasted) > self.characters:
            raise ValueError(
                f"the texts have {len(pasted):,} characters, and at most {self.characters:,} are read: paste fewer."
            )
        found = [line.strip() for line in pasted.splitlines() if line.strip()]
        if not found:
            raise ValueError("there is nothing to read: paste the texts of one user, one a line.")
        if len(found) > self.texts:
            raise ValueError(f"there are {len(found)} texts, and at most {self.texts} are read: paste fewer lines.")
        return found

    def content(self, upload: str | None, what: str) -> bytes:
        """The bytes of an upload, whose file is then removed. ValueError for none, and one that is too large."""
        if not upload:
            raise ValueError(f"there is no file: upload {what}.")
        path = Path(upload)
        try:
            if (size := path.stat().st_size) > self.upload:
                raise ValueError(f"the file has {size:,} bytes, and at most {self.upload:,} are read: upload less.")
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)


class Jobs:
    """Does the visitors' work, so many jobs at once; a visitor waits so many seconds and no longer."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(limits.jobs, thread_name_prefix="hf_mia-app")

    def do(self, work: Callable[[Check], Answered]) -> Answered:
        """What the work returns. A `gr.Error` with the library's own message where it refuses, or takes too long.

        The work is given a check that it calls between two steps: once the time is over, that raises, so that work that
        was given up leaves its place to the next one.
        """
        deadline = Deadline.after(self._limits.seconds)
        future = self._pool.submit(work, deadline.check)
        try:
            return future.result(timeout=self._limits.seconds)
        except (TimeoutError, GivenUp):
            future.cancel()
            raise refusal(
                f"this took more than {self._limits.seconds:g} seconds and was given up: send less, or try later."
            ) from None
        except ValueError as error:
            raise refusal(str(error)) from error


def refusal(message: str) -> Exception:
    """A `gr.Error` that the page shows as plain text and `gradio_client` raises; it stays until it is closed."""
    import gradio as gr

    told = message[:1].upper() + message[1:]
    error: Exception = gr.Error(html.escape(told, quote=False), duration=None, print_exception=False)
    return error
