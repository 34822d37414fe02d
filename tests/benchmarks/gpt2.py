"""A randomly initialised GPT-2 with the real vocabulary of 50,257 tokens, and random ids and texts for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hf_mia.collate import Batch
from hf_mia.core import Floats, Model, Pool
from hf_mia.models.language import TextCollate
from hf_mia.papers import PAPERS
from hf_mia.probes.tokens import Tokens
from hf_mia.runner import Runner

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


SCORES = ("mean-loss", "min-k", "min-k++", "zlib", "mean-rank")


def texts(count: int, size: int = V) -> list[str]:
    """Texts of random words, common ones more often (Zipf), of the unequal lengths that texts have: 4 to 60 words."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(np.log(12), 0.6, count), 4, 60).astype(int)
    return [" ".join(f"w{word % (size - 2)}" for word in rng.zipf(1.3, size)) for size in sizes]


def collate(size: int = V) -> TextCollate:
    """One token a word, and `size` of them."""
    raw = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, **{f"w{i}": i + 2 for i in range(size - 2)}}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TextCollate(PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", unk_token="<unk>"), 1024)


def scores(model: Model, some: Sequence[str], runner: Runner) -> Floats:
    """All scores that need no reference (texts, 5), each text a unit, by the runner and from its one pass."""
    count = len(some)
    pool = Pool(Dataset.from_dict({"text": list(some)}), np.arange(count), tuple(map(str, range(count))))
    answers = runner(model, Tokens(), pool.records)
    return np.hstack([PAPERS[name].signal.read(answers, pool) for name in SCORES])
