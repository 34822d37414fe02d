"""Weights at round addresses: how a product is summed on a processor hangs on where in memory its numbers begin."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROUND = 64  # bytes: where torch itself puts what it makes


def aligned(module: torch.nn.Module) -> torch.nn.Module:
    """The module, with copies in place of weights that do not begin at a multiple of 64 bytes.

    Weights mapped from a file begin anywhere; a launch of several processes copies them, and one process does not. Left
    there, the last bit of an answer would tell how many processes had asked.
    """
    for weights in chain(module.parameters(), module.buffers()):
        if weights.device.type == "cpu" and weights.data_ptr() % ROUND:
            weights.data = weights.data.clone()
    return module
