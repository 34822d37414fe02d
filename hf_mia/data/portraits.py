"""What a reader should see of a target's answers: who ranks which words, how alike an image's views are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_mia.core import Ask, Booleans, Floats, Game, Model, Probe
from hf_mia.data import Portrait
from hf_mia.models.language import TextCollate
from hf_mia.probes.posteriors import Posteriors
from hf_mia.probes.respondents import RawTexts
from hf_mia.probes.tokens import Tokens
from hf_mia.probes.views import Views
from hf_mia.reports.figures import histogram_figure, matrix_figure
from hf_mia.signals.classifier import Correctness, Loss
from hf_mia.signals.encoder import table
from hf_mia.signals.language import LogRankHistogram, TokenShare, vocabulary

if TYPE_CHECKING:
    from datasets import Dataset

BINS = 40
LOSSES = 1e-6, 20.0  # nats: what lies beyond is drawn at the end


def text_portrait(target: Game, ask: Ask, probe: Probe) -> Portrait:
    """The shares of words by the rank of the true word, members against non-members, and both sides' unknown words.

    Of a service it is what its answers to `probe`, the headline attack's, show: nothing more is asked, and where these
    hold no ranks there is nothing to see.
    """
    inside, spoken = target.member == 1, isinstance(target.model.collate, RawTexts)
    if spoken and not isinstance(probe, Tokens):
        return Portrait()
    answers = ask(target.model, Tokens(), target.pool.records)
    first = next(iter(answers))
    if "rank" not in first:
        return Portrait()
    signal = LogRankHistogram(top=int(first["shown"].values[0]) if "shown" in first else None)
    counts = signal.read(answers, target.pool)
    upper = vocabulary(first) if signal.top is None else signal.top + 1
    edges = np.exp(np.linspace(0, np.log1p(upper), signal.bins + 1))
    shares = counts / counts.sum(axis=1, keepdims=True)
    label = "1 + rank of the true word"
    figure = histogram_figure(*_means(shares, inside), edges, label, _bands(shares, inside))
    known = {} if spoken else {"unknown_word_share": _unknown(target, ask)}
    return Portrait(known, {"ranks": figure})


def _means(shares: Floats, inside: Booleans) -> tuple[Floats, Floats]:
    return shares[inside].mean(axis=0), shares[~inside].mean(axis=0)


def _bands(shares: Floats, inside: Booleans) -> tuple[Floats, Floats]:
    """Half-widths of a 95 % band over units around each side's mean."""
    one, other = (1.96 * side.std(axis=0) / np.sqrt(len(side)) for side in (shares[inside], shares[~inside]))
    return one, other


def _unknown(target: Game, ask: Ask) -> dict[str, float] | None:
    """The mean share of unknown words of both sides' users: where they differ, the vocabulary gives members away."""
    assert isinstance(target.model.collate, TextCollate)
    unknown = target.model.collate.tokenizer.unk_token_id
    if unknown is None:
        return None
    signal = TokenShare(token=unknown)
    shares = signal.read(ask(target.model, signal.probe, target.pool.records), target.pool)[:, 0]
    inside = target.member == 1
    return {"members": float(shares[inside].mean()), "non_members": float(shares[~inside].mean())}


def image_portrait(target: Game, ask: Ask, probe: Probe) -> Portrait:
    """How alike the views of an image are, members against non-members, and of a typical image of each side."""
    from hf_mia.models.backbones import Encoder

    probe, inside = probe if isinstance(probe, Views) else Views(), target.member == 1
    answers = ask(target.model, probe, target.pool.records)
    alike = np.concatenate([table(chunk["cosine"]) for chunk in answers])[np.argsort(target.pool.unit)].astype(
        np.float64
    )
    edges = np.linspace(alike.min(), max(alike.max(), alike.min() + 1e-6), BINS + 1)
    shares = np.array([np.histogram(row, edges)[0] for row in alike]) / alike.shape[1]
    label = "cosine similarity of two views of an image"
    spread = histogram_figure(*_means(shares, inside), edges, label, _bands(shares, inside), logy=False)
    sides = {"member": inside, "non-member": ~inside}
    typical = {f"a typical {side}": matrix(alike[_median(alike.mean(axis=1), rows)]) for side, rows in sides.items()}
    means = {f"{side}s": float(alike[rows].mean()) for side, rows in sides.items()}
    figures = {"similarities": spread, "views": matrix_figure(typical, "cosine similarity")}
    module = target.model.load()
    rule = module.rule if isinstance(module, Encoder) else type(module).__name__
    return Portrait({"pooled_feature": rule, "mean_view_similarity": means}, figures)


def matrix(pairs: Floats) -> Floats:
    """The symmetric matrix (n, n) of n views from its pairs (n(n-1)/2,), by the later view, then the earlier."""
    n = round((1 + np.sqrt(1 + 8 * len(pairs))) / 2)
    matrix = np.eye(n)
    later, earlier = np.tril_indices(n, -1)
    matrix[later, earlier] = matrix[earlier, later] = pairs
    return matrix


def _median(level: Floats, rows: Booleans) -> int:
    """The unit of a side whose level is the side's median."""
    index = np.flatnonzero(rows)
    return int(index[np.argsort(level[index], kind="stable")[len(index) // 2]])


def classifier_portrait(target: Game, ask: Ask) -> Portrait:
    """How often a classifier is right about members and about the others, and how likely it holds the true class."""
    inside = target.member == 1
    answers = ask(target.model, Posteriors(), target.pool.records)
    right = Correctness().read(answers, target.pool)[:, 0]
    loss = np.clip(-Loss().read(answers, target.pool)[:, 0], *LOSSES)
    edges = np.geomspace(*LOSSES, BINS + 1)
    shares = np.array([np.histogram(one, edges)[0] for one in loss[:, None]], dtype=np.float64)
    figure = histogram_figure(*_means(shares, inside), edges, "loss on a record, in nats", logy=False)
    means = {"members": float(right[inside].mean()), "non_members": float(right[~inside].mean())}
    return Portrait({"accuracy_of_the_target": means}, {"losses": figure})


def accuracy(model: Model, records: Dataset, ask: Ask) -> float:
    """The share of records that a classifier gives their class."""
    right = [Correctness().measure(chunk) for chunk in ask(model, Posteriors(), records)]
    return float(np.concatenate(right).mean())
