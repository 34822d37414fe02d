"""AuditMI's fit and scores for 10 shadows x 600 users x 100 bins, against the same scikit-learn pipeline called bare.

The floor is the bare pipeline, ratio 1: stack, standardise, LinearSVC, decision function. The issue's bar of 1 s is
held against our seconds, printed beside it.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from measured import medians, verdict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

from hf_mia.attacks.shadow import ShadowClassifier
from hf_mia.core import Evidence
from hf_mia.signals.language import RankHistogram, unit_norm

SHADOWS, USERS, BINS = 10, 600, 100
SECONDS, BAR = 1.0, 1.1


def evidence(seed: int) -> Evidence:
    """Users' histograms of 400 ranks of words, members' ranks a little lower."""
    rng = np.random.default_rng(seed)
    member = (np.arange(USERS) % 2).astype(np.float64)
    ranks = np.minimum(rng.geometric(0.03 + 0.01 * member[:, None], (USERS, 400)) - 1, BINS - 1)
    counts = np.stack([np.bincount(row, minlength=BINS) for row in ranks]).astype(np.float64)
    names = tuple(f"user {i:03d}" for i in range(USERS))
    return Evidence(unit_norm(counts), member, names)


def main() -> int:
    target, shadows = evidence(0), [evidence(1 + i) for i in range(SHADOWS)]
    attack = ShadowClassifier(RankHistogram())

    def ours() -> npt.NDArray[np.float64]:
        return attack.fit(shadows).score(target)

    def bare() -> npt.NDArray[np.float64]:
        fitted = make_pipeline(StandardScaler(), LinearSVC(random_state=0)).fit(
            np.vstack([shadow.features for shadow in shadows]), np.concatenate([shadow.member for shadow in shadows])
        )
        return np.asarray(fitted.decision_function(target.features))

    with threadpool_limits(1):
        if not np.array_equal(ours(), bare()):
            print("the two disagree")
            return 1
        ours_s, bare_s = medians(ours, bare, rounds=41)
    print(f"ours {ours_s:.3f} s (bar {SECONDS:g} s), bare {bare_s:.3f} s of processor time")
    return verdict("auditmi", ours_s / bare_s, BAR) or int(ours_s > SECONDS)


if __name__ == "__main__":
    sys.exit(main())
