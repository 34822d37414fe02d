"""What a run asked of a service: queries and tokens, counted as they go."""

from __future__ import annotations

from threading import Lock
from typing import TypeVar

from hf_mia.services.replies import Reply, usage

T = TypeVar("T")


class Tally:
    """The queries of one process in one run, for all threads that ask.

    `sent` counts retries; `answered` those whose reply could be used; `cached` the questions whose reply was already
    kept; the tokens are those that replies tell of, None where one tells of none.
    """

    def __init__(self) -> None:
        self.sent = self.answered = self.cached = 0
        self.prompt: int | None = 0
        self.written: int | None = 0
        self._lock = Lock()

    def found(self, answer: T) -> T:
        """An answer that was already kept, counted."""
        with self._lock:
            self.cached += 1
        return answer

    def paid(self, reply: Reply) -> None:
        """Count a reply that could be used."""
        try:
            told = usage(reply)
        except ValueError:
            told = None
        with self._lock:
            self.answered += 1
            self.prompt = None if told is None or self.prompt is None else self.prompt + told.prompt_tokens
            self.written = None if told is None or self.written is None else self.written + told.completion_tokens

    def to_dict(self, cost: float | None) -> dict[str, int | float | None]:
        """As report.json holds it; `refused` are those of the sent whose reply was a failure or could not be read."""
        own: dict[str, int | float | None] = {"sent": self.sent, "refused": self.sent - self.answered}
        own |= {"from_cache": self.cached, "prompt_tokens": self.prompt, "written_tokens": self.written}
        return own | {"cost": cost}
