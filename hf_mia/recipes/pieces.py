"""A training step in pieces, where memory does not suffice for a whole batch: the same gradient, summed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hf_mia.models.placing import scarce


@dataclass
class Pieces:
    """Into how many pieces a batch is cut; doubled where one does not fit, and so for all batches that follow."""

    count: int = 1

    def step(self, rows: torch.Tensor, clear: Callable[[], None], backward: Callable[[torch.Tensor], None]) -> None:
        """Let `backward` add the gradient of each piece of a batch (indices), from `clear` on, until all are there.

        Each try draws the same random numbers, so a run that was killed and goes on, and finds out anew, ends with the
        same weights. Raises the error where one row does not fit, and any other.
        """
        on_gpu = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
        cpu, devices = torch.get_rng_state(), torch.cuda.get_rng_state_all() if on_gpu else []
        while True:
            clear()
            try:
                for piece in torch.split(rows, -(-len(rows) // self.count)):
                    backward(piece)
                return
            except (RuntimeError, MemoryError) as error:
                if self.count >= len(rows) or not scarce(error):
                    raise
            self.count *= 2
            clear()  # out of the handler, where the error would hold the tensors that did not fit
            gc.collect()
            if devices:
                torch.cuda.empty_cache()
                torch.cuda.set_rng_state_all(devices)
            torch.set_rng_state(cpu)
