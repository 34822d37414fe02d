"""A local causal language model, asked in text as a service is: for shadows of a service, and to try its attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from hf_mia.collate import Batch
from hf_mia.core import Floats, Integers, Model, Probe
from hf_mia.models.language import TextCollate
from hf_mia.probes.continuations import Continuations
from hf_mia.probes.respondents import RawTexts, Respondent, Told
from hf_mia.probes.tokens import Tokens
from hf_mia.storage.keys import content_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 512  # texts that are continued at once

WHOLE = ("vocabulary", "compressed")  # what `Tokens` tells of a text as a whole


class Local(Respondent):
    """A causal language model and its collate, asked in text.

    Draws hang on the prompt, the seed and the number of the sample alone, not on what is asked beside. Every new token
    is one pass over the whole text, which any causal model can do and none is fast at.
    """

    def __init__(self, inner: PreTrainedModel, collate: TextCollate) -> None:
        super().__init__()
        self.inner, self.collate = inner, collate

    def tokens(self, texts: Sequence[str]) -> list[Told]:
        found = []
        for text in texts:
            batches = [self._placed(self.collate.pad([item])) for item in self.collate.encode({"text": [text]})]
            pieces = [(Tokens().observe(self.inner, batch), batch["scored"]) for batch in batches]
            names = [name for name in pieces[0][0] if name not in WHOLE]
            numbers = {name: torch.cat([one[name][scored] for one, scored in pieces]).cpu().numpy() for name in names}
            found.append(Told(numbers, {name: int(pieces[0][0][name][0, 0]) for name in WHOLE}))
        return found

    def continued(
        self, prompts: Sequence[str], tokens: Sequence[int], samples: int, temperature: float, seed: int
    ) -> list[list[str]]:
        ids = [one for prompt, most in zip(prompts, tokens, strict=True) for one in [self._ids(prompt, most)] * samples]
        most = np.repeat(np.asarray(tokens, dtype=np.int64), samples)
        drawn = [draws(prompt, i, seed, most.max(initial=0)) for prompt in prompts for i in range(samples)]
        order = np.argsort([len(one) for one in ids], kind="stable")
        texts = [""] * len(ids)
        for start in range(0, len(ids), ROWS):
            rows = order[start : start + ROWS]
            uniform = np.stack([drawn[i] for i in rows])
            new = self._written([ids[i] for i in rows], most[rows], uniform, temperature)
            for row, text in zip(rows, self.collate.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                texts[row] = text
        return [texts[i : i + samples] for i in range(0, len(texts), samples)]

    def _ids(self, prompt: str, most: int) -> list[int]:
        """A prompt as its tokenizer makes it, its end where the context is too small for all of it."""
        tokenizer = self.collate.tokenizer
        ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
        opening = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        room = len(ids) if self.collate.context is None else max(1, self.collate.context - most)
        return ids[-room:] or [opening or 0]

    def _written(self, ids: list[list[int]], most: Integers, drawn: Floats, heat: float) -> list[list[int]]:
        """New tokens of each row, at most `most` (rows,) and up to the end-of-text token."""
        from torch.nn.utils.rnn import pad_sequence

        ends = torch.tensor([len(one) for one in ids]) + torch.from_numpy(most)
        limit = self.collate.context or int(ends.max())
        length, ends = torch.tensor([len(one) for one in ids]), ends.clamp(max=limit)
        rows = pad_sequence([torch.tensor(one) for one in ids], batch_first=True)
        rows = torch.nn.functional.pad(rows, (0, max(0, int(ends.max()) - rows.shape[1])))
        uniform, alive = torch.from_numpy(drawn), torch.nonzero(length < ends)[:, 0]
        for step in range(int(most.max(initial=0))):
            if not len(alive):
                break
            new = chosen(self._next(rows[alive], length[alive]), uniform[alive, step], heat)
            rows[alive, length[alive]] = new
            length[alive] += 1
            alive = alive[(length[alive] < ends[alive]) & (new != self.collate.tokenizer.eos_token_id)]
        return [row[len(one) : end].tolist() for row, one, end in zip(rows, ids, length.tolist(), strict=True)]

    def _next(self, rows: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Logits (rows, V), float64, of what follows the first `length` (rows,) tokens."""
        width = int(length.max())
        mask = torch.arange(width) < length[:, None]
        batch = self._placed({"input_ids": rows[:, :width], "attention_mask": mask.long()})
        with torch.inference_mode():
            logits = self.inner(**batch).logits
        return cast("torch.Tensor", logits[torch.arange(len(rows)), length.to(logits.device) - 1].double().cpu())

    def _placed(self, batch: Batch) -> Batch:
        device = next(self.inner.parameters()).device
        return {name: tensor.to(device) for name, tensor in batch.items()}


def chosen(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> torch.Tensor:
    """The tokens (rows,) on which numbers in [0, 1) fall by softmax(logits / temperature); at 0, the likeliest."""
    if temperature == 0:
        return logits.argmax(1)
    total = torch.softmax(logits / temperature, dim=1).cumsum(1)
    return torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def draws(prompt: str, sample: int, seed: int, count: int) -> Floats:
    """Numbers (count,) in [0, 1) that belong to one sample of one prompt."""
    digest = blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8, key=f"{seed} {sample}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).random(count)


def in_text(model: Model) -> Model:
    """The same causal language model, asked in text as a service is; ValueError for a model of anything else."""
    if isinstance(model.collate, RawTexts):
        return model
    if not isinstance(model.collate, TextCollate):
        raise ValueError(f"model {model.name!r} takes no texts, but {type(model.collate).__name__}: name a text model.")
    return Model(model.name, content_key([model.key, "in text"]), RawTexts(), partial(_load, model.load, model.collate))


def as_asked(model: Model, probe: Probe) -> Model:
    """The model as a probe asks it: in text where it is about what is written."""
    return in_text(model) if isinstance(probe, Continuations) else model


def _load(load: Callable[[], torch.nn.Module], collate: TextCollate) -> Respondent:
    return Local(cast("PreTrainedModel", load()), collate)
