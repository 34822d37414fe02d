"""The contrastive objectives around an encoder: two views of every image in, a loss out."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from hf_mia.architectures.encoders import EncoderPreTrainedModel


class Projected(nn.Module):
    """An encoder's pooled features through a projection head, with L2 norm 1: (rows, 3, H, W) to (rows, 128)."""

    def __init__(self, encoder: EncoderPreTrainedModel, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return normalize(self.head(self.encoder(images).pooler_output).float(), dim=1)


class MoCoLearner(nn.Module):
    """Momentum contrast, version 1 (He et al. 2020): a query against its key and a queue of other images' keys.

    The keys' encoder follows the queries' with `momentum` and gets no gradient. Every call renews the queue.
    """

    queue: torch.Tensor

    def __init__(
        self, encoder: EncoderPreTrainedModel, features: int, queue: int, momentum: float, temperature: float
    ) -> None:
        super().__init__()
        self.queries = Projected(encoder, nn.Linear(features, 128))
        self.keys = deepcopy(self.queries).requires_grad_(False)
        self.register_buffer("queue", normalize(torch.randn(queue, 128), dim=1))
        self.momentum = momentum
        self.temperature = temperature

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The loss of views `first`, as queries, and `second`, as keys: each (rows, 3, H, W) of the same images."""
        with torch.no_grad():
            for own, other in zip(self.keys.parameters(), self.queries.parameters(), strict=True):
                own.lerp_(other, 1 - self.momentum)
            keys = self.keys(second)
        queries = self.queries(first)
        with torch.autocast(queries.device.type, enabled=False):  # at T = .1 half precision is too coarse
            logits = torch.cat([torch.linalg.vecdot(queries, keys)[:, None], queries @ self.queue.clone().T], dim=1)
            loss = cross_entropy(logits / self.temperature, logits.new_zeros(len(logits), dtype=torch.long))
        self.queue.copy_(torch.cat([self.queue[len(keys) :], keys[-len(self.queue) :]]))
        return loss


class SimCLRLearner(nn.Module):
    """SimCLR (Chen et al. 2020): each view against the other view of its image, among all views of the batch."""

    def __init__(self, encoder: EncoderPreTrainedModel, features: int, temperature: float) -> None:
        super().__init__()
        inner = [nn.Linear(features, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU()]
        self.queries = Projected(encoder, nn.Sequential(*inner, nn.Linear(512, 128)))
        self.temperature = temperature

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """NT-Xent, the mean over both directions: the views (rows, 3, H, W) are of the same images."""
        features = self.queries(torch.cat([first, second]))
        with torch.autocast(features.device.type, enabled=False):
            logits = features @ features.T / self.temperature
        logits.fill_diagonal_(-torch.inf)
        rows = len(first)
        other = torch.arange(2 * rows, device=first.device).roll(rows)
        return cross_entropy(logits, other)
