"""An attack around another one, which asks what that asks."""

from __future__ import annotations

from dataclasses import dataclass

from hf_mia.core import Attack, Signal


@dataclass(frozen=True)
class Wrapper(Attack):
    """Any attack, decided or asked another way: how many shadows it takes, and what it reads, are the inner one's."""

    attack: Attack

    @property
    def least(self) -> int:  # type: ignore[override]
        return self.attack.least

    @property
    def compares(self) -> bool:  # type: ignore[override]
        return self.attack.compares

    @property
    def signal(self) -> Signal:  # type: ignore[override]
        return self.attack.signal
