"""Work that is given up once nobody waits for it: between two steps it asks whether to go on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_mia.progress import Check

if TYPE_CHECKING:
    from huggingface_hub.utils.tqdm import tqdm


class GivenUp(Exception):
    """Nobody waits for this work any longer."""


@dataclass(frozen=True)
class Deadline:
    """A moment, in seconds of `time.monotonic`, after which work is given up where it next asks."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """So many seconds from now."""
        return cls(time.monotonic() + seconds)

    def check(self) -> None:
        """Nothing before the moment; GivenUp after it."""
        if time.monotonic() > self.at:
            raise GivenUp


def watched(check: Check) -> type[tqdm]:
    """A progress bar of huggingface_hub that asks whether to go on whenever a download has moved."""
    from huggingface_hub.utils.tqdm import tqdm

    class Watched(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            check()
            moved: bool | None = super().update(n)
            return moved

    return Watched
