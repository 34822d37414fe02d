"""How to ask a module. A probe answers compactly, on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

from hf_mia.collate import Batch
from hf_mia.core import Probe

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Head = Callable[[torch.Tensor], torch.Tensor]

INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")
LOGITS = 6 * 2**20  # logits that exist at once: above 32 MB, the C library would clear fresh memory for every piece
CACHED = 2**18  # logits that stay in a CPU's cache while they are read several times
ANSWERS = ("token", "start", "rank", "logprob", "mean", "deviation", "vocabulary", "compressed")


@dataclass(frozen=True)
class Tokens(Probe):
    """What a language model says of each token, given the true text before it; an encoder-decoder, also the source.

    A batch without `decoder_input_ids` is for a causal model: what stands before a token in `input_ids` predicts it.
    With them it is for an encoder-decoder: the decoder's i-th input predicts the i-th of the `labels`.
    Answers, each (rows, length): `token` (id), `start` (1 where it begins a word), `rank` (number of tokens with a
    strictly higher logit, as AuditMI counts), `logprob` (nats), and `mean` and `deviation` of log p under p (for
    Min-K%++); each (rows, 1): `vocabulary`, the number of tokens ranked, and, where the collate tells it, `compressed`,
    the bytes of the whole text once compressed. Rows may be padded on either side. The head is applied to at most
    `rows` hidden states at a time, so logits of a whole batch never exist where the model's logits are its head's
    output; fewer rows would spend their time on reading the head's weights. A service answers as many of these as it
    shows, with ranks cut to the `shown` (rows, 1) tokens that it lists.
    """

    shows: ClassVar[str] = "rank and log-probability of each true next token, given the true text before it"
    rows: int = 1024
    answers: tuple[str, ...] = field(default=ANSWERS, init=False)  # so that the cache's key tells what is answered

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        if "bytes" in batch:  # texts, for what is asked in text
            from hf_mia.probes.respondents import respondent, tabled, texts_of

            return tabled(respondent(module, self).tokens(texts_of(batch)))
        given, (batch, back) = batch, _padded_right(batch)
        ids, scored = batch["labels"] if "labels" in batch else batch["input_ids"], batch["scored"]
        with torch.inference_mode():
            states, head, size = _states(cast("PreTrainedModel", module), batch)
            rows = max(1, min(self.rows, LOGITS // size))
            pieces = zip(torch.split(states, rows), torch.split(ids[scored], rows), strict=True)
            numbers = torch.cat([_read(head(some), target) for some, target in pieces])
            if not torch.isfinite(numbers).all():
                raise ValueError(
                    "the model answers with NaN or infinity: its weights are broken, or its dtype overflows."
                )
        answers = {"token": given.get("labels", given["input_ids"]), "start": given["starts"]}
        for column, name in enumerate(("rank", "logprob", "mean", "deviation")):
            whole = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
            whole[scored] = numbers[:, column]
            whole = whole if back is None else whole.gather(1, back)
            answers[name] = whole.int() if name == "rank" else whole
        answers["vocabulary"] = torch.full((len(ids), 1), size, dtype=torch.int32, device=ids.device)
        return {name: answer for name in self.answers if (answer := answers.get(name, given.get(name))) is not None}


def _padded_right(batch: Batch) -> tuple[Batch, torch.Tensor | None]:
    """The rows with their padding on the right, where a causal model never looks, and where each position went to."""
    mask = batch["attention_mask"]
    if bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return batch, None
    order = mask.argsort(dim=1, descending=True, stable=True)
    moved = {name: tensor.gather(1, order) for name, tensor in batch.items() if tensor.shape == mask.shape}
    return {**batch, **moved}, order.argsort(dim=1)


def _states(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, Head, int]:
    """What predicts each scored token (n, ...), what makes logits (n, V) of it, and V."""
    inputs = {name: batch[name] for name in INPUTS if name in batch}
    sample = {name: tensor[:1, :8] for name, tensor in inputs.items()}
    expected = model(**sample).logits
    head = _head(model, sample, expected)
    states = model(**inputs).logits if head is None else _hidden(model, inputs)
    scored = batch["scored"]
    asked = states[scored] if "decoder_input_ids" in batch else states[:, :-1][scored[:, 1:]]
    return asked, head or _identity, expected.shape[-1]


def _identity(logits: torch.Tensor) -> torch.Tensor:
    return logits


def _hidden(model: PreTrainedModel, inputs: Batch) -> torch.Tensor:
    """The last hidden states (rows, length, width) of a model without its head."""
    if model.base_model is not model:
        return cast("torch.Tensor", model.base_model(**inputs).last_hidden_state).to(inputs["input_ids"].device)
    seen = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])  # as T5 has it
    answer = model.get_decoder()(
        input_ids=inputs["decoder_input_ids"],
        encoder_hidden_states=seen.last_hidden_state,
        encoder_attention_mask=inputs["attention_mask"],
    )
    return cast("torch.Tensor", answer.last_hidden_state).to(inputs["input_ids"].device)  # of a model that is spread


def _head(model: PreTrainedModel, sample: Batch, expected: torch.Tensor) -> Head | None:
    """What makes the model's own logits of its hidden states on a small sample; None where it is not known.

    It is the output layer alone, or with BART's bias behind it or T5's scale before it; a soft cap is not known.
    """
    import torch

    head: Head | None = model.get_output_embeddings()
    if head is None or (model.base_model is model and "decoder_input_ids" not in sample):
        return None
    hidden, bias = _hidden(model, sample), dict(model.named_buffers()).get("final_logits_bias")
    bias = bias if bias is not None and bias.any() else None
    for output in (Output(head, 1.0, bias), Output(head, hidden.shape[-1] ** -0.5, bias)):
        found = output(hidden)
        if found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
            return output
    return None


@dataclass(frozen=True, eq=False)
class Output:
    """An output layer with a scale before and a bias behind it."""

    layer: Head
    scale: float
    bias: torch.Tensor | None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        logits = self.layer(states if self.scale == 1 else states * self.scale).to(states.device)
        return logits if self.bias is None else logits + self.bias.to(states.device)


def _read(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Rank, log p, mean and deviation of log p (n, 4) of the target tokens, on a CPU by pieces that fit its cache."""
    import torch

    rows = max(1, CACHED // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    pairs = zip(torch.split(logits, rows), torch.split(target[:, None], rows), strict=True)
    return torch.cat([_summary(some.float(), own) for some, own in pairs])


def _summary(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """What `_read` tells of a piece, in two scratch tensors of the piece's size and as few passes as that takes."""
    import torch

    scratch = torch.empty_like(logits)
    rank = torch.gt(logits, logits.gather(1, target), out=scratch).sum(1)  # as floats: ten times faster than booleans
    logp = logits.log_softmax(1)
    own = logp.gather(1, target)[:, 0]
    p = torch.exp(logp, out=scratch)
    mean = torch.linalg.vecdot(p, logp)
    logp -= mean[:, None]  # a mean square less a squared mean would lose a flat distribution's deviation to rounding
    deviation = torch.linalg.vecdot(p.mul_(logp), logp).sqrt_()
    return torch.stack([rank, own, mean, deviation], dim=1)
