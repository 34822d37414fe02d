"""Weights at round addresses, so that answers do not depend on where a file's weights happened to be mapped."""

from __future__ import annotations

import pytest
import torch

from hf_mia.models.alignment import ROUND, aligned


def shifted(weights: torch.Tensor, by: int) -> torch.Tensor:
    """The same numbers, so many floats after a round address."""
    room = torch.empty(weights.numel() + by)
    return room[by:].view(weights.shape).copy_(weights)


@pytest.mark.parametrize("by", [1, 6, 9])
def test_answers_do_not_depend_on_where_weights_begin(by: int) -> None:
    torch.manual_seed(0)
    plain, other = (torch.nn.Linear(192, 80) for _ in range(2))
    other.weight.data, other.bias.data = shifted(plain.weight.data, by), shifted(plain.bias.data, by)
    assert other.weight.data_ptr() % ROUND == 4 * by
    inputs = torch.randn(2, 192)
    assert torch.equal(aligned(other)(inputs), aligned(plain)(inputs))
    assert all(weights.data_ptr() % ROUND == 0 for weights in other.parameters())


def test_shared_weights_stay_shared_and_round_ones_where_they_are() -> None:
    module = torch.nn.ModuleList([torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)])
    module[0].weight.data = shifted(module[0].weight.data, 1)
    module[1].weight = module[0].weight
    module.register_buffer("seen", shifted(torch.ones(5), 3))
    before = module[1].bias.data_ptr()
    aligned(module)
    assert module[0].weight.data_ptr() == module[1].weight.data_ptr()
    assert module[1].bias.data_ptr() == before
    assert module.get_buffer("seen").data_ptr() % ROUND == 0
    assert module.get_buffer("seen").tolist() == [1.0] * 5
