"""`evaluate.load` and `compute` of 1,000,000 pairs against evaluate's own Arrow round trip, a metric that does nothing.

And the plain function beneath, with all intervals, against one second. One thread; exits with 1 when one falls short.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from measured import medians, verdict

PAIRS, BAR, SECONDS = 1_000_000, 1.3, 1.0
SPACE = Path(__file__).parents[2] / "spaces" / "membership_inference"


def main() -> int:
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
        return _main()


def _main() -> int:
    import datasets
    import evaluate

    from hf_mia.reports.membership import membership_inference

    class Nothing(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> evaluate.MetricInfo:
            features = {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            given = datasets.Features(features)
            return evaluate.MetricInfo(description="", citation="", features=given, format="arrow")

        def _compute(self, predictions: object, references: object) -> dict[str, float]:
            return {}

    rng = np.random.default_rng(0)
    member = rng.random(PAIRS) < 0.5
    scores = rng.normal(size=PAIRS) + 0.3 * member

    def nothing() -> object:
        return Nothing().compute(predictions=scores, references=member)

    def ours() -> dict[str, float]:
        return evaluate.load(str(SPACE)).compute(predictions=scores, references=member, threshold=0.0)

    def plain() -> dict[str, float]:
        return membership_inference(scores, member, threshold=0.0)

    if ours() != plain() or "tpr@0.001_low" not in plain():
        print("the metric and the function disagree")
        return 1
    floor_s, ours_s, plain_s = medians(nothing, ours, plain, rounds=5)
    print(f"round trip {floor_s:.2f} s, ours {ours_s:.2f} s, the plain function {plain_s:.2f} s (bar {SECONDS:g} s)")
    return max(verdict("evaluate_metric", ours_s / floor_s, BAR), int(plain_s > SECONDS))


if __name__ == "__main__":
    sys.exit(main())
