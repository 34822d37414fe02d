"""Work on a GPU that is launched once for all: a training step's many small kernels as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

FIRST = 3  # calls until one is captured: what libraries set up when they are first used must not be in the graph


class Captured:
    """A function of tensors on a GPU that is always called with the same shapes, and reads nothing back from there.

    The first few calls are plain. Then one is captured, and replayed at every call with the tensors that are given, so
    what the function made on the way (gradients) stays where it is and is overwritten by the next call.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.given: tuple[torch.Tensor, ...] = ()

    def __call__(self, *tensors: torch.Tensor) -> None:
        self.calls += 1
        if self.calls <= FIRST:
            self._aside(tensors)
            return
        if self.graph is None:
            self.given = tuple(tensor.clone() for tensor in tensors)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.function(*self.given)
        for own, tensor in zip(self.given, tensors, strict=True):
            own.copy_(tensor)
        self.graph.replay()  # type: ignore[no-untyped-call]

    def _aside(self, tensors: tuple[torch.Tensor, ...]) -> None:
        """A plain call, on another stream, as CUDA graphs want what comes before them."""
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
        side.wait_stream(main)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            self.function(*tensors)
        main.wait_stream(side)  # type: ignore[no-untyped-call]
