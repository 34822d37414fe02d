"""Our 1,000 stratified resamples of AUC and TPRs for 2,000 scores against a loop over scikit-learn's, in one run.

Run it with one thread: OMP_NUM_THREADS=1 python tests/benchmarks/bootstrap.py. Exits with 1 when it falls short.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score, roc_curve  # type: ignore[import-untyped, unused-ignore]

from hf_mia.reports.estimates import bootstrap

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SCORES, RESAMPLES, NAIVE, FPRS = 2_000, 1_000, 50, (0.01, 0.001)
BAR, SECONDS = 20, 0.2


def main() -> int:
    rng = np.random.default_rng(0)
    member = np.arange(SCORES) < SCORES // 2
    scores = rng.normal(size=SCORES) + 0.5 * member
    bootstrap(scores, member, FPRS, resamples=10)  # both warm
    roc_auc_score(member, scores)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        aucs, tprs = bootstrap(scores, member, FPRS, RESAMPLES)
        times.append(time.perf_counter() - start)
    ours = float(np.median(times))
    start = time.perf_counter()
    naive = np.array([_resample(scores, member, rng) for _ in range(NAIVE)])
    theirs = (time.perf_counter() - start) * RESAMPLES / NAIVE
    for name, mine, other in zip(("AUC", *FPRS), np.column_stack([aucs, tprs]).T, naive.T, strict=True):
        print(f"{name}: ours {mine.mean():.4f} +- {mine.std():.4f}, naive {other.mean():.4f} +- {other.std():.4f}")
        if abs(mine.mean() - other.mean()) > 5 * other.std() / NAIVE**0.5:
            print("the two disagree")
            return 1
    print(f"ours: {ours:.3f} s (bar {SECONDS} s) for {RESAMPLES:,} resamples of {SCORES:,} scores")
    print(f"naive: {theirs:.3f} s, {NAIVE} resamples scaled to {RESAMPLES:,}")
    ratio = theirs / ours
    print(f"bootstrap: {ratio:.1f} (bar {BAR})")
    return int(ratio < BAR or ours > SECONDS)


def _resample(scores: Floats, member: Bools, rng: np.random.Generator) -> list[float]:
    rows = np.concatenate([rng.choice(side, side.size) for side in (np.flatnonzero(member), np.flatnonzero(~member))])
    truth, drawn = member[rows], scores[rows]
    fpr, tpr, _ = roc_curve(truth, drawn, drop_intermediate=False)  # dropped points would miss TPRs
    return [roc_auc_score(truth, drawn), *(float(tpr[fpr <= rate].max()) for rate in FPRS)]


if __name__ == "__main__":
    sys.exit(main())
