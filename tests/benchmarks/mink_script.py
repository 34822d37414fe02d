"""A public script's way to Min-K%, Min-K%++, zlib and loss against ours, on the same model and texts.

The script's way, written from the published definitions (Shi et al. 2024; Zhang et al. 2024): one text at a time, the
whole softmax and its logarithm over the vocabulary, token probabilities one by one. Ours is from texts to scores too,
with the mean rank on top, through the runner and an empty cache. Both must find the same scores, to the hundredth: the
script's variance is a difference of squares in float32. The model is the package's default target, AuditMI's LSTM with
5,000 words. Where one text alone keeps the processor busy, batches save less: the GPT-2 of `llm_scores.py` took 2.0
times as long by the script.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from pathlib import Path

import gpt2
import numpy as np
import torch
from measured import medians, verdict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_mia.architectures.recurrent import RecurrentConfig, RecurrentForCausalLM
from hf_mia.core import Floats, Model
from hf_mia.runner import Runner

TEXTS, V, K, BAR = 600, 5000, 0.2, 2.5


def script(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Floats:
    """Loss, Min-K%, Min-K%++ and zlib (texts, 4)."""
    found = []
    for text in texts:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            logits = module(input_ids=ids).logits[0, :-1]
        probs, log_probs = torch.softmax(logits, dim=-1), torch.log_softmax(logits, dim=-1)
        all_prob = [log_probs[i, token].item() for i, token in enumerate(ids[0, 1:])]
        mu = (probs * log_probs).sum(-1)
        sigma = (probs * torch.square(log_probs)).sum(-1) - torch.square(mu)
        plus = ((torch.tensor(all_prob) - mu) / sigma.sqrt()).numpy()
        count = max(1, int(len(all_prob) * K))
        lowest = [np.mean(np.sort(values)[:count]) for values in (np.array(all_prob), plus)]
        loss = -np.mean(all_prob)
        found.append([-loss, *lowest, -loss / len(zlib.compress(text.encode()))])
    return np.array(found)


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module, collate = RecurrentForCausalLM(RecurrentConfig(V)).eval(), gpt2.collate(V)
    with torch.no_grad():  # new weights say almost the same of all words, and the script's variance would round to 0
        module.get_output_embeddings().weight.mul_(300)
    texts, model = gpt2.texts(TEXTS, V), Model("lstm", "random", collate, lambda: module)

    def ours() -> Floats:
        with tempfile.TemporaryDirectory() as folder:
            return gpt2.scores(model, texts, Runner(Path(folder)))

    theirs = script(module, collate.tokenizer, texts)
    apart = float(np.abs(theirs - ours()[:, :4]).max())
    script_s, ours_s = medians(lambda: script(module, collate.tokenizer, texts), ours, rounds=3)
    print(f"{TEXTS} texts: script {script_s:.2f} s, ours {ours_s:.2f} s of processor time; scores within {apart:.1g}")
    if not apart <= 1e-2:
        print("the two find different scores")
        return 1
    return verdict("mink_script", script_s / ours_s, BAR, at_least=True)


if __name__ == "__main__":
    sys.exit(main())
