"""The state of an unfinished training in one safetensors file, put in place whole; a kill loses what came after it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from hf_mia.keys import WAY_OUT

STATE = "checkpoint.safetensors"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what safetensors says of a full disk into an OSError that names the folder and the way out."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot write the model to {folder} ({error}): {WAY_OUT}") from error


def save(folder: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Write parameters and buffers as `p.NAME`, optimizer state as `s.NUMBER.NAME`, and the epochs that are done."""
    tensors = {f"p.{name}": tensor.detach().cpu().contiguous() for name, tensor in _tensors(module).items()}
    for number, state in optimizer.state_dict()["state"].items():
        kept = {name: value.cpu().contiguous() for name, value in state.items() if value is not None}
        tensors |= {f"s.{number}.{name}": value for name, value in kept.items()}
    temporary = folder / f"{STATE}.tmp"
    with writing(folder):
        save_file(tensors, temporary, metadata={"epoch": json.dumps(epoch)})
        os.replace(temporary, folder / STATE)


def restore(folder: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put parameters, buffers and optimizer state back; the epoch to go on with, 0 without a checkpoint."""
    if not (folder / STATE).exists():
        return 0
    tensors = load_file(folder / STATE)
    with safe_open(folder / STATE, "pt") as file, torch.no_grad():
        epoch = int(json.loads(file.metadata()["epoch"]))
        for name, tensor in _tensors(module).items():
            tensor.copy_(tensors[f"p.{name}"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("s."):
            _, number, key = name.split(".", 2)
            parameter = own[int(number)]
            same = tensor.shape == parameter.shape  # then also in the same memory format, which fused steps rely on
            state.setdefault(int(number), {})[key] = torch.empty_like(parameter).copy_(tensor) if same else tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return epoch


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and the buffers that are saved with them, each once, where two names share one."""
    kept = module.state_dict().keys()
    return {**dict(module.named_parameters()), **{n: b for n, b in module.named_buffers() if n in kept}}
