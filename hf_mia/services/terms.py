"""On what terms a service is asked: what may be spent, how fast, how patiently; and how asking ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

Access = Literal["prompt", "top-k", "text"]  # what a service shows, the most first


class BudgetSpent(RuntimeError):
    """No more is asked: the budget is spent. What was paid for is kept, and is not asked again."""


class ServiceError(OSError):
    """A service that refused, or did not answer in spite of all retries."""


@dataclass(frozen=True)
class Budget:
    """What may be spent by one process: `queries` sent, retries included, and `cost`, by prices for a million tokens.

    Cost is known after a reply: as many calls as are under way at once may exceed it. None: no limit.
    """

    queries: int | None = None
    cost: float | None = None
    prompt_price: float = 0.0
    written_price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("queries", "cost", "prompt_price", "written_price"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"budget.{name} must be 0 or more, but is {value}.")
        if self.cost is not None and not self.prompt_price + self.written_price:
            raise ValueError(
                "budget.cost is counted by prices for a million tokens, and both are 0: set budget.prompt_price and "
                "budget.written_price."
            )


@dataclass(frozen=True)
class Manners:
    """How a service is treated: `threads` calls at once, at most `rate` a second (None: no limit).

    After `timeout` seconds without a byte a call has failed. One that failed in a way that may pass is made again, up
    to `retries` times, after `pause` seconds, then twice as long each time up to a minute, by chance a little more; or
    after as many seconds as the service asks for, if these are at most `patience`.
    """

    threads: int = 4
    rate: float | None = None
    timeout: float = 60.0
    retries: int = 5
    pause: float = 1.0
    patience: float = 300.0

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("retries", 0), ("pause", 0), ("patience", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"manners.{name} must be at least {least}, but is {getattr(self, name)}.")
        for name in ("rate", "timeout"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"manners.{name} must be above 0, but is {value}.")


def seconds(header: str | None) -> float | None:
    """What Retry-After says: seconds, or a date; None where it says nothing that can be read."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return None
