"""Translation: asking `Tokens` and training, each against bare PyTorch on the same batches, in one run.

Asking: the bare forward pass of AuditMI's translation model (V = 5,000) and of a Marian of two layers (V = 32,000),
logits kept and not read, is the floor, ratio 1. Training: a bare loop over the same batches, with the same loss,
clipping and fused Adam; both must end with the same weights.
"""

from __future__ import annotations

import sys
import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from measured import medians, verdict
from transformers import MarianConfig, MarianMTModel, PreTrainedModel

from hf_mia.architectures.seq2seq import Seq2SeqConfig, Seq2SeqForConditionalGeneration
from hf_mia.collate import Batch
from hf_mia.models.language import filled
from hf_mia.probes.tokens import Tokens
from hf_mia.recipes.loop import Pairs, fit
from hf_mia.recipes.pairing import TOKENS, RecurrentPairs

ASKING, TRAINING, STEPS = 1.25, 1.1, 5
PLAN = RecurrentPairs(epochs=2)


def texts(count: int, low: int, high: int, size: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high, (count,), generator=generator)
    return [torch.randint(2, size, (int(n),), generator=generator).tolist() for n in lengths]


def batch(rows: int, length: int, size: int) -> Batch:
    """Pairs whose targets are of like length, as the runner makes batches of them."""
    sources, targets = texts(rows, length - 6, length + 6, size, 0), texts(rows, length - 3, length + 1, size, 1)
    labels = filled(targets, -1)
    return {
        "input_ids": filled(sources, 0),
        "attention_mask": filled([[1] * len(source) for source in sources], 0),
        "decoder_input_ids": torch.cat([torch.zeros(rows, 1, dtype=torch.int64), labels[:, :-1].clamp_min(0)], 1),
        "labels": labels.clamp_min(0),
        "starts": torch.ones_like(labels),
        "scored": labels >= 0,
    }


def asking(name: str, module: PreTrainedModel, size: int, rows: int) -> float:
    batches = [batch(rows, 25, size), batch(rows // 2, 60, size)]
    inputs = [{name: one[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")} for one in batches]

    def bare() -> None:
        with torch.inference_mode():
            for one in inputs:
                _ = module(**one).logits

    def ours() -> None:
        for one in batches:
            Tokens().observe(module, one)

    bare_s, ours_s = medians(bare, ours, rounds=5)
    print(f"{name}: bare {bare_s:.3f} s, ours {ours_s:.3f} s of processor time for {len(batches)} batches")
    return ours_s / bare_s


def bare_training(module: PreTrainedModel, pairs: Pairs) -> None:
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=PLAN.learning_rate, fused=True)
    made = {}
    for epoch in range(PLAN.epochs):
        torch.manual_seed(epoch)
        for rows in pairs.batches(PLAN.batch, torch.Generator().manual_seed(epoch)):
            inputs, targets = made.setdefault(tuple(rows.tolist()), pairs.batch(rows))
            loss = PLAN.loss(module(**inputs).logits, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), PLAN.clip or 0)
            optimizer.step()


def training(start: PreTrainedModel, size: int) -> float:
    count = STEPS * PLAN.batch
    pairs = Pairs(texts(count, 10, 40, size, 2), texts(count, 10, 40, size, 3), 0)
    ends: dict[str, PreTrainedModel] = {}

    def theirs() -> None:
        ends["bare"] = deepcopy(start)
        bare_training(ends["bare"], pairs)

    def ours() -> None:
        ends["ours"] = deepcopy(start)
        with tempfile.TemporaryDirectory() as folder:
            fit(ends["ours"], pairs, PLAN, 0, Path(folder), Accelerator(cpu=True), lambda done, total, note: None)

    bare_s, ours_s = medians(theirs, ours, rounds=5)
    if any(not torch.equal(a, b) for a, b in zip(ends["bare"].parameters(), ends["ours"].parameters(), strict=True)):
        raise SystemExit("the two trainings end with different weights")
    print(f"training: {PLAN.epochs * STEPS} steps and a checkpoint: bare {bare_s:.3f} s, ours {ours_s:.3f} s")
    return ours_s / bare_s


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recurrent = Seq2SeqForConditionalGeneration(Seq2SeqConfig()).eval()
    sizes = {"d_model": 256, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "use_cache": False}
    marian = MarianMTModel(MarianConfig(vocab_size=32_000, **sizes, **heads, **TOKENS)).eval()
    ratios = [asking("recurrent", recurrent, 5_000, 80), asking("marian", marian, 32_000, 12)]
    failed = verdict("translation training", training(recurrent, 5_000), TRAINING)
    return max(failed, verdict("translation", max(ratios), ASKING))


if __name__ == "__main__":
    sys.exit(main())
