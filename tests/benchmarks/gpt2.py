"""A randomly initialised GPT-2 with the real vocabulary of 50,257 tokens, and a batch of random ids for it."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hf_mia.collate import Batch

V = 50_257


def module() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=V, n_layer=4, n_embd=256, n_head=4)).eval()


def batch(rows: int, length: int) -> Batch:
    """Rows of random tokens, all but the first of each scored."""
    ids = torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(1))
    ones = torch.ones_like(ids)
    return {
        "input_ids": ids,
        "attention_mask": ones,
        "starts": ones,
        "scored": torch.arange(length).expand(ids.shape) > 0,
    }
