"""EncoderMI-V's classifier, an MLP of 45-256-256-2, fitted whole: 20,000 units, batches of 100, 300 epochs.

The floor is its matrix products alone, of the same shapes and into tensors that exist: forward, the weights'
gradients and the inputs', 60,000 times; no tanh, loss, bias, Adam or shuffling. The floor is timed on a tenth of the
steps, half before and half after the fit. The issue's bar is 60 s by the clock on the wall.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from measured import verdict
from sklearn.metrics import roc_auc_score

from hf_mia.attacks.networks import MLP
from hf_mia.attacks.shadow import ShadowClassifier
from hf_mia.core import Evidence
from hf_mia.signals.language import RankHistogram

UNITS, SIMILARITIES, SECONDS = 20_000, 45, 60.0
PLAN = MLP()
STEPS = PLAN.epochs * UNITS // PLAN.batch


def evidence(seed: int, units: int) -> Evidence:
    """Sorted similarities of ten views, members' a little higher and closer to each other."""
    rng = np.random.default_rng(seed)
    member = (np.arange(units) % 2).astype(np.float64)
    level = rng.normal(0.80 + 0.02 * member, 0.03)[:, None]
    spread = (0.06 - 0.01 * member)[:, None]
    features = np.clip(level + spread * rng.normal(size=(units, SIMILARITIES)), -1, 1)
    return Evidence(np.sort(features, axis=1), member, tuple(f"image {i:05d}" for i in range(units)))


def floor(steps: int) -> float:
    """Seconds of processor time of the bare products of so many steps."""
    widths = [SIMILARITIES, *PLAN.hidden, 2]
    layers = range(len(widths) - 1)
    acts = [torch.randn(PLAN.batch, width) for width in widths]
    slopes = [torch.randn(PLAN.batch, width) for width in widths]
    weights = [torch.randn(widths[i], widths[i + 1]) for i in layers[:-1]] + [torch.randn(2, widths[-2]).t()]
    gradients = [torch.empty_like(weight) for weight in weights]  # in the layout of the weights
    start = time.process_time()
    for _ in range(steps):
        for i in layers:
            torch.mm(acts[i], weights[i], out=acts[i + 1])
        for i in reversed(layers):
            torch.mm(acts[i].t(), slopes[i + 1], out=gradients[i])
            if i:
                torch.mm(slopes[i + 1], weights[i].t(), out=slopes[i])
    return time.process_time() - start


def main() -> int:
    torch.set_num_threads(1)
    shadow, target = evidence(0, UNITS), evidence(1, 2_000)
    attack = ShadowClassifier(RankHistogram(), PLAN)
    floor(STEPS // 100)  # warm up
    before = floor(STEPS // 20)
    wall, processor = time.perf_counter(), time.process_time()
    scorer = attack.fit([shadow])
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    bare = 10 * (before + floor(STEPS // 20))
    if roc_auc_score(target.member, scorer.score(target)) < 0.8:
        print("the classifier has not learnt")
        return 1
    print(f"{STEPS} steps: ours {processor:.1f} s, bare products {bare:.1f} s of processor time")
    print(f"encodermi_v floor: {processor / bare:.3g} times the bare products")
    return verdict("encodermi_v", wall, SECONDS)


if __name__ == "__main__":
    sys.exit(main())
