"""How to ask a classifier whose weights are known: by the gradient of each record's loss.

A batch is as `hf_mia.probes.posteriors` has it: what the module takes, whole, and `label` int64 (rows,).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from hf_mia.collate import Batch
from hf_mia.core import Probe
from hf_mia.probes.posteriors import checked, pieces

if TYPE_CHECKING:
    import torch

Weights = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Gradients(Probe):
    """The loss of each record, and how steep it is in each tensor of weights (Nasr et al. 2019): white box.

    Answers, float32: `loss` (rows, 1), the cross-entropy in nats, and `gradient` (rows, tensors), the L2 norm of its
    gradient by each parameter tensor that requires one, in the module's order. Both keep their digits where p rounds to
    1. The module is put in evaluation. At most `numbers` numbers of gradients are on the device at once, but no fewer
    than one record's. Raises ValueError as `Posteriors`, and for a module of which no parameter requires a gradient.
    """

    shows: ClassVar[str] = "the weights: the loss of each record, and its gradient's norm by each tensor of weights"
    numbers: int = field(default=2**26, repr=False, compare=False)

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        module.eval()  # dropout would draw
        weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        if not weights:
            raise ValueError(
                f"{type(module).__name__} has no parameter that requires a gradient: call its requires_grad_() first."
            )
        with torch.no_grad():
            checked(module(batch), batch["label"])
        rows = max(1, self.numbers // sum(weight.numel() for weight in weights.values()))
        recurrent = any(isinstance(part, torch.nn.RNNBase) for part in module.modules())
        ask = one_by_one if recurrent else _asked
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
            found = [ask(module, weights, piece) for piece in pieces(batch, rows)]  # cuDNN's have none in evaluation
        return {name: torch.cat([some[name] for some in found]).detach().float() for name in ("loss", "gradient")}


def losses(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The cross-entropy (rows,) of logits (rows, C): neither it nor its gradient loses digits where it is small."""
    import torch

    own = torch.arange(logits.shape[1], device=logits.device) == label[:, None]
    gap = logits.masked_fill(~own, 0).sum(1) - logits.masked_fill(own, -torch.inf).logsumexp(1)
    return -torch.nn.functional.logsigmoid(gap)


def batched(module: torch.nn.Module, weights: Weights, batch: Batch) -> dict[str, torch.Tensor]:
    """`loss` and `gradient` of all rows at once. Raises what torch does for a module that cannot be vectorised."""
    import torch
    from torch.func import functional_call, grad_and_value, vmap

    def loss(weights: Weights, row: Batch) -> torch.Tensor:
        alone = {name: tensor[None] for name, tensor in row.items()}
        return losses(functional_call(module, dict(weights), (alone,)), alone["label"]).sum()

    fixed = {name: weight.detach() for name, weight in weights.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # of an operation that is done row by row
        gradients, values = vmap(grad_and_value(loss), in_dims=(None, 0))(fixed, batch)
    return {"loss": values[:, None], "gradient": torch.stack([norms(gradients[name]) for name in weights], dim=1)}


def one_by_one(module: torch.nn.Module, weights: Weights, batch: Batch) -> dict[str, torch.Tensor]:
    """`loss` and `gradient` of one row after the other, for any module."""
    import torch

    values, rows = [], []
    for row in pieces(batch, 1):
        loss = losses(module(row), row["label"]).sum()
        gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        values.append(loss.detach())
        rows.append(torch.cat([norms(gradient[None]) for gradient in gradients]))
    return {"loss": torch.stack(values)[:, None], "gradient": torch.stack(rows)}


def norms(gradients: torch.Tensor) -> torch.Tensor:
    """The L2 norm (rows,) of each row's gradient: scaled first, so that no square is lost where all are small."""
    import torch

    flat = gradients.flatten(1)
    largest = flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    lengths: torch.Tensor = torch.linalg.vector_norm(flat / largest, dim=1)
    return largest[:, 0] * lengths


def _asked(module: torch.nn.Module, weights: Weights, batch: Batch) -> dict[str, torch.Tensor]:
    try:
        return batched(module, weights, batch)
    except Exception:  # what cannot be vectorised raises anything; what is wrong raises again, one by one
        return one_by_one(module, weights, batch)
