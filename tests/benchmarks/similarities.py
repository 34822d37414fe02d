"""The similarities of 40,000 images x 10 views with 128 features, sorted, against a loop over images by scikit-learn.

Ours computes all three similarities and sorts each, as `ViewSimilarity` does; the loop computes cosines only, with
`cosine_similarity`, and sorts them. The loop is timed on 2,000 of the images and its time scaled to all of them. Both
are given the features, on one thread; ours takes `PIECE` images at a time, which stay in a CPU's cache.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from measured import medians, verdict
from sklearn.metrics.pairwise import cosine_similarity

from hf_mia.core import Ragged
from hf_mia.probes.views import similarities
from hf_mia.signals.encoder import ViewSimilarity

IMAGES, LOOPED, N, D, PIECE, BAR = 40_000, 2_000, 10, 128, 400, 40.0
NAMES = ("cosine", "correlation", "euclidean")


def main() -> int:
    torch.set_num_threads(1)
    features = torch.randn((IMAGES, N, D), generator=torch.Generator().manual_seed(0))
    offsets = np.arange(IMAGES + 1, dtype=np.int64) * (N * (N - 1) // 2)
    upper = np.triu_indices(N, 1)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        with torch.inference_mode():
            pieces = [similarities(some) for some in torch.split(features, PIECE)]
            values = {name: torch.cat([piece[name] for piece in pieces]).numpy().ravel() for name in NAMES}
        answers = {name: Ragged(flat, offsets) for name, flat in values.items()}
        found.update({name: ViewSimilarity(name).measure(answers) for name in NAMES})

    def loop() -> None:
        rows = [np.sort(cosine_similarity(image)[upper])[::-1] for image in features[:LOOPED].numpy()]
        found["loop"] = np.array(rows)

    loop_s, ours_s = medians(loop, ours)
    loop_s *= IMAGES / LOOPED
    np.testing.assert_allclose(found["cosine"][:LOOPED], found["loop"], rtol=0, atol=1e-6)
    print(f"loop {loop_s:.3f} s (scaled), ours {ours_s:.3f} s of processor time for {IMAGES:,} images x {N} views")
    return verdict("similarities", loop_s / ours_s, BAR, at_least=True)


if __name__ == "__main__":
    sys.exit(main())
