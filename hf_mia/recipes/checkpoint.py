"""The state of an unfinished training in one safetensors file, put in place whole; a kill loses what came after it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from hf_mia.storage.keys import WAY_OUT, content_key

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
        save_file(tensors, temporary, metadata={"epoch": json.dumps(epoch), "content": _content(tensors, epoch)})
        os.replace(temporary, folder / STATE)


def restore(folder: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put parameters, buffers and optimizer state back; the epoch to go on with, 0 without a whole checkpoint."""
    if not (folder / STATE).exists():
        return 0
    try:
        tensors, epoch = _read(folder / STATE)
    except (SafetensorError, OSError, ValueError) as error:
        warnings.warn(
            f"the checkpoint of {folder.stem} is damaged, and its training begins anew: {error}", stacklevel=2
        )
        return 0
    with torch.no_grad():
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


def _read(path: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The tensors and the epochs of a checkpoint; ValueError where they are not what was written."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    epoch = int(about.get("epoch", 0))
    if about.get("content") != _content(tensors, epoch):
        raise ValueError("its content is not what was written")
    return tensors, epoch


def _content(tensors: Mapping[str, torch.Tensor], epoch: int) -> str:
    def parts() -> Iterator[str | bytes]:
        yield str(epoch)
        for name, tensor in sorted(tensors.items()):
            yield f"{name} {tensor.dtype} {list(tensor.shape)}"
            yield tensor.flatten().view(torch.uint8).numpy().tobytes()

    return content_key(parts())


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and the buffers that are saved with them, each once, where two names share one."""
    kept = module.state_dict().keys()
    return {**dict(module.named_parameters()), **{n: b for n, b in module.named_buffers() if n in kept}}
