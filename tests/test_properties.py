"""What must hold of every report, rank and fold, whatever the numbers: searched by hypothesis, not by example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from transformers.modeling_outputs import CausalLMOutput
from worlds import ragged

from hf_mia.core import Answers, Floats, Pool, Probe, Signal
from hf_mia.probes import tokens as probes
from hf_mia.probes.tokens import Tokens
from hf_mia.reports.estimates import Bools, auc, roc, tpr_at
from hf_mia.reports.report import Report
from hf_mia.signals.language import MeanRank

Scored = tuple[Floats, Bools]
FEW = st.integers(-3, 3).map(float)  # many ties
ANY = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@st.composite
def scored(draw: st.DrawFn, least: int = 2) -> Scored:
    """Scores with many ties or with few, and a truth with at least so many of each class."""
    member = np.array([True] * least + [False] * least + draw(st.lists(st.booleans(), max_size=40)))
    scores = draw(arrays(np.float64, len(member), elements=draw(st.sampled_from([FEW, ANY]))))
    return scores, member


def report(given: Scored, **changes: object) -> Report:
    scores, member = given
    fields: dict[str, object] = {"threshold": 0.5, "fprs": (0.5, 0.05), "resamples": 30} | changes
    return Report("any", scores, member, tuple(map(str, range(len(scores)))), **fields)  # type: ignore[arg-type]


@given(scored())
def test_the_auc_is_scikit_learns_and_mann_whitneys(given: Scored) -> None:
    scores, member = given
    u = mannwhitneyu(scores[member], scores[~member]).statistic
    assert auc(scores, member) == pytest.approx(roc_auc_score(member, scores), abs=1e-12)
    assert auc(scores, member) == pytest.approx(u / (member.sum() * (~member).sum()), abs=1e-12)
    assert report(given).auc.value == auc(scores, member)


@given(scored())
def test_swapping_the_sides_or_the_sign_mirrors_the_auc(given: Scored) -> None:
    scores, member = given
    assert auc(scores, ~member) == pytest.approx(1 - auc(scores, member), abs=1e-12)
    assert auc(-scores, member) == auc(scores, ~member)


@given(scored(), st.sampled_from([lambda s: s**3, np.arctan, lambda s: 2 * s - 7, np.cbrt]))
def test_a_monotone_transform_changes_no_rate(given: Scored, transform: Callable[[Floats], Floats]) -> None:
    scores, member = given
    moved = transform(scores)
    assume(len(np.unique(moved)) == len(np.unique(scores)))  # float64 may round neighbours together
    before, after = report(given, threshold=None), report((moved, member), threshold=None)
    assert after.summary() == before.summary()
    assert all(np.array_equal(a, b) for a, b in zip(roc(moved, member)[:2], roc(scores, member)[:2], strict=True))


@given(scored(), st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_the_tpr_never_falls_as_the_fpr_rises(given: Scored, fprs: list[float]) -> None:
    fpr, tpr, thresholds = roc(*given)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert (np.diff(thresholds) < 0).all()
    found = [value for rate in sorted(fprs) if (value := tpr_at(*given, rate)) is not None]
    assert found == sorted(found)
    for rate in fprs:
        if (value := tpr_at(*given, rate)) is not None:
            assert value == tpr[fpr <= rate].max()


@given(scored(), st.floats(0.5, 0.999))
def test_every_interval_holds_its_estimate(given: Scored, confidence: float) -> None:
    made = report(given, confidence=confidence)
    for name, found in (made.summary() | {"advantage": made.advantage}).items():
        if found.value is None:
            assert found.low is None
            assert found.high is None
            continue
        assert found.low is not None
        assert found.high is not None
        least = -1.0 if name == "advantage" else 0.0
        assert least - 1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12


@given(scored(), st.randoms(use_true_random=False))
def test_the_order_of_units_changes_nothing(given: Scored, random: object) -> None:
    scores, member = given
    order = np.arange(len(scores))
    random.shuffle(order)  # type: ignore[attr-defined]
    before, after = report(given), report((scores[order], member[order]))
    assert after.summary() == before.summary()
    assert after.advantage == before.advantage


@dataclass(frozen=True, eq=False)
class Says(torch.nn.Module):
    """A language model that answers with the same logits (rows, length, V), whatever it is asked."""

    logits: torch.Tensor

    def __post_init__(self) -> None:
        super().__init__()

    def get_output_embeddings(self) -> None: ...

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> CausalLMOutput:
        return CausalLMOutput(logits=self.logits[: len(input_ids), : input_ids.shape[1]])


@given(st.data())
def test_ranks_are_places_in_a_sorted_list_whatever_the_chunk(data: st.DataObject) -> None:
    rows, length, size = (data.draw(st.integers(low, high)) for low, high in ((1, 4), (2, 7), (2, 12)))
    values = data.draw(st.sampled_from([FEW, st.floats(-50, 50, width=32)]))
    logits = data.draw(arrays(np.float32, (rows, length, size), elements=values))
    ids = data.draw(arrays(np.int64, (rows, length), elements=st.integers(0, size - 1)))
    scored = data.draw(arrays(np.bool_, (rows, length)))
    scored[:, 0] = False  # nothing predicts the first token
    assume(scored.any())
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "scored": scored, "starts": np.ones_like(ids)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "CACHED", data.draw(st.integers(1, 60)))
        probe = Tokens(rows=data.draw(st.integers(1, 30)))
        found = probe.observe(Says(torch.from_numpy(logits)), {k: torch.from_numpy(v) for k, v in batch.items()})
    for row, place in np.argwhere(scored):
        said, target = logits[row, place - 1], ids[row, place]
        descending = said[np.argsort(-said, kind="stable")]
        assert found["rank"][row, place] == int(np.flatnonzero(descending == said[target])[0])
        own = said.astype(np.float64)
        logp = own[target] - own.max() - np.log(np.exp(own - own.max()).sum())
        assert float(found["logprob"][row, place]) == pytest.approx(logp, abs=1e-4)


@dataclass(frozen=True)
class Powers(Signal):
    """Two numbers a record, folded by the default."""

    probe: Probe = field(default=MeanRank().probe)

    def measure(self, answers: Answers) -> Floats:
        values = answers["x"].values.astype(np.float64)
        return np.stack([values, values**2], axis=1)


def chunks(values: Floats, cuts: Sequence[int]) -> list[Answers]:
    rows = [{"x": np.array([value])} for value in values]
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(rows)}), len(rows)]
    return [ragged(rows[a:b]) for a, b in pairwise(edges)]


def folded(values: Floats, units: Sequence[int], names: int, cuts: Sequence[int], keep: Bools | None) -> Floats:
    pool = Pool(Dataset.from_dict({"x": values}), np.array(units, dtype=np.int64), tuple(map(str, range(names))))
    return Powers().read(chunks(values, cuts), pool, keep)


@given(st.data())
def test_folding_is_a_loop_over_units_in_any_order_and_any_chunks(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    count = sum(sizes)
    units = data.draw(st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist()))
    values = data.draw(arrays(np.float64, count, elements=st.floats(-100, 100)))
    keep = data.draw(st.none() | arrays(np.bool_, count))
    cuts = data.draw(st.lists(st.integers(0, count), max_size=4))
    found = folded(values, units, len(sizes), cuts, keep)
    for unit in range(len(sizes)):
        own = [v for i, (v, u) in enumerate(zip(values, units, strict=True)) if u == unit and (keep is None or keep[i])]
        expected = [np.mean(own), np.mean(np.square(own))] if own else [np.nan, np.nan]
        np.testing.assert_allclose(found[unit], expected, rtol=1e-9, atol=1e-9)
    order = np.array(data.draw(st.permutations(range(count))))
    again = folded(
        values[order], np.array(units)[order].tolist(), len(sizes), [], None if keep is None else keep[order]
    )
    np.testing.assert_allclose(again, found, rtol=1e-9, atol=1e-9)
