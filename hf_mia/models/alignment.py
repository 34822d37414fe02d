"""The same bits again: the sum of numbers hangs on where in memory they begin, and on which algorithm a GPU takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def repeatable() -> Iterator[None]:
    """A GPU's convolutions by algorithms that sum in the same order every time, so that a model can be trained again.

    cuDNN's own choice for gradients adds in the order in which threads end.
    """
    import torch

    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
