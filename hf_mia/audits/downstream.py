"""From encoders to the classifiers built on them: a linear layer, trained on labelled images outside of the game."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.core import Ask, Floats, Game, Integers, Model, Pool
from hf_mia.data.knn import labelled
from hf_mia.signals.encoder import Feature
from hf_mia.storage.keys import content_key

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


@dataclass(frozen=True, eq=False)
class Head:
    """A linear layer: features (rows, d) to logits (rows, classes) by `weight` (classes, d) and `bias` (classes,)."""

    weight: Floats
    bias: Floats

    @property
    def key(self) -> str:
        """The layer's content, at the precision it answers in."""
        return content_key([part.astype(np.float32).tobytes() for part in (self.weight, self.bias)])


def classifying(games: list[Game], pool: Pool, ask: Ask) -> list[Game]:
    """The same games with a classifier in each encoder's place, all trained on the same labelled images of `pool`.

    These are up to 3,000; they must not be in the game. A game's model is then its encoder, followed by a linear layer
    over its features, and answers with logits (rows, classes). Raises ValueError where the pool has no labels, fewer
    than 120 labelled images, or one class only.
    """
    records, labels = taught(pool)
    signal = Feature()
    made = []
    for game in games:
        features = np.concatenate([signal.measure(chunk) for chunk in ask(game.model, signal.probe, records)])
        made.append(replace(game, model=classifier(game.model, head(features, labels))))
    return made


def taught(pool: Pool) -> tuple[Dataset, Integers]:
    """The labelled images of a pool that classifiers are trained on, and their classes; ValueError as `classifying`."""
    found = labelled(pool)
    if found is None or len(np.unique(found[1])) < 2:
        raise ValueError(
            "a downstream classifier takes 120 labelled images, of two classes or more, outside of the game, and there "
            f"are {'fewer' if found is None else 'images of one class only'}: set data.label, lower split.members, or "
            "leave this attack out."
        )
    return found


def head(features: Floats, labels: Integers) -> Head:
    """scikit-learn's logistic regression on standardised features (rows, d), as one layer over them as they are.

    Labels (rows,) are of two classes or more; the logits stand in the order of the sorted labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression(max_iter=1000).fit(scaler.transform(features), labels)
    weight, bias = fitted.coef_ / scaler.scale_, fitted.intercept_
    if len(weight) == 1:  # of two classes, scikit-learn gives the second one's logit alone
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.append(0.0, bias)
    return Head(weight, bias - weight @ scaler.mean_)


def classifier(model: Model, head: Head) -> Model:
    """An encoder followed by a linear layer; its key holds the contents of both."""
    key = content_key([model.key, head.key])
    return Model(f"{model.name} with a classifier", key, model.collate, partial(_load, model.load, head))


def _load(load: Callable[[], torch.nn.Module], head: Head) -> torch.nn.Module:
    import torch

    layer = torch.nn.Linear(head.weight.shape[1], len(head.weight))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight))
        layer.bias.copy_(torch.from_numpy(head.bias))
    return torch.nn.Sequential(load(), layer.requires_grad_(False))
