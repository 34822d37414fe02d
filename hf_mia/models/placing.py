"""Where a module is while it is asked, and how much fits beside it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FULL = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "not enough memory")  # as RuntimeErrors say it
MARKS = ("hf_device_map", "is_quantized", "is_loaded_in_8bit", "is_loaded_in_4bit")  # of what is spread, or quantized
LARGE = 2**27  # bytes of weights
WAY = "set target.device_map to auto, which spreads it, or target.quantization to 8bit or 4bit, which makes it smaller."


@dataclass
class Room:
    """How many positions a batch may have; it shrinks where memory does not suffice, and stays so for what follows."""

    positions: int

    def shrink(self, tried: int) -> None:
        """No batch shall be larger than half of the one of `tried` positions, which did not fit."""
        self.positions = max(1, min(self.positions, tried // 2))


@contextmanager
def placed(module: torch.nn.Module, device: torch.device, name: str) -> Iterator[torch.device]:
    """The module on the device, and back where it was in the end; where its inputs go, which is that device.

    One that transformers spread over devices or quantized stays where it is: its inputs go where it begins. Memory that
    the device has kept is given back. RuntimeError, with the way out, where the module does not fit.
    """
    if stays(module):
        place = begins(module)
        try:
            yield place
        finally:
            _emptied(place, module)
        return
    home = begins(module)
    try:
        with fits(f"model {name!r}", device, WAY):
            module.to(device)
    except BaseException:
        module.to(home)
        raise
    try:
        yield device
    finally:
        module.to(home)
        _emptied(device, module)


@contextmanager
def fits(what: str, device: torch.device, way: str) -> Iterator[None]:
    """Turns what says that memory does not suffice into a RuntimeError that names the way out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not scarce(error):
            raise
        said = (str(error).splitlines() or ["out of memory"])[0]
        raise RuntimeError(f"{what} does not fit in the memory of {device} ({said}): {way}") from error


def stays(module: torch.nn.Module) -> bool:
    """Whether a module, or one within it, must not be moved: it is spread over devices, or quantized."""
    return any(getattr(inner, mark, None) for inner in module.modules() for mark in MARKS)


def kept(whole: torch.nn.Module, part: torch.nn.Module) -> torch.nn.Module:
    """A part of a module, which stays where it is if the whole does."""
    for mark in MARKS:
        if getattr(whole, mark, None):
            setattr(part, mark, getattr(whole, mark))
    return part


def taken(module: torch.nn.Module, numbers: torch.Tensor) -> torch.Tensor:
    """Fractions as a module takes them: in the dtype of its weights, where these begin."""
    import torch

    dtype = next((w.dtype for w in module.parameters() if w.is_floating_point()), torch.float32)
    return numbers.to(begins(module), dtype)


def begins(module: torch.nn.Module) -> torch.device:
    """Where a module's first weights are, of those that are in memory; the CPU for one that has none."""
    import torch

    return next((w.device for w in module.parameters() if w.device.type != "meta"), torch.device("cpu"))


def scarce(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, the CPU's or a device's."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)


def _emptied(device: torch.device, module: torch.nn.Module) -> None:
    """Give back the memory that torch keeps of a device for later, and what large modules before this one left."""
    import torch

    if sum(weights.nbytes for weights in module.parameters()) >= LARGE:
        gc.collect()  # hooks and modules hold each other; a third of a second, in which a small one is asked ten times
    if device.type == "cuda":
        torch.cuda.empty_cache()
