"""How to ask a classifier: what it makes of each record, as far as its access level shows.

A batch is what the module takes, whole, and `label` int64 (rows,), the records' true classes; the module answers it
with logits (rows, C).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, get_args

from hf_mia.collate import Batch
from hf_mia.core import Probe

if TYPE_CHECKING:
    import torch

Access = Literal["logits", "probabilities", "top-k", "label"]


@dataclass(frozen=True)
class Shifts:
    """The queries made of an image: itself, and those moved by `reach` pixels to the left, right, top and bottom.

    What a shift leaves bare repeats the pixels at the edge. With `mirror`, each is followed by its mirror image. The
    plain image comes first. Raises ValueError for a negative `reach`, and for one as large as the images.
    """

    reach: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.reach < 0:
            raise ValueError(f"reach must be 0 pixels, for no shifts, or more, but is {self.reach}.")

    @property
    def n(self) -> int:
        """How many queries are made of an image."""
        return (5 if self.reach else 1) * (2 if self.mirror else 1)

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """The batch itself, and again with its `pixels` (rows, 3, H, W) shifted and mirrored, n in all."""
        if self.n == 1:
            yield batch
            return
        if "pixels" not in batch:
            raise ValueError(
                f"queries are shifts and mirror images, which only images have, but the batch has {sorted(batch)}: "
                "leave queries as they are by default."
            )
        for across, down in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))[: 5 if self.reach else 1]:
            pixels = moved(moved(batch["pixels"], 3, across * self.reach), 2, down * self.reach)
            yield {**batch, "pixels": pixels}
            if self.mirror:
                yield {**batch, "pixels": pixels.flip(3)}


@dataclass(frozen=True)
class Posteriors(Probe):
    """What a classifier says of each record, and of the `queries` made of it if it is an image.

    Answers by `access`, query after query in a row (q queries, C classes in the order of the labels):
    `logits`: `logits` (rows, q * C), float32, or float64 where the module's are;
    `probabilities`: `probabilities` (rows, q * C), float32;
    `top-k`: `top` (rows, q * min(k, C)), float32, the largest probabilities in descending order, `classes`, int64,
    whose they are, and `shown` (rows, 1), int64, how many belong to a query;
    `label`: `predicted` (rows, q), int64.
    Always `label` (rows, 1) and `count` (rows, 1), int64: the true class, and C. At most `rows` records are on their
    way through the module at once. Raises ValueError for an unknown access, a k below 1, a label outside of 0 to C - 1,
    for logits that are NaN or infinite, and for a module with fewer than two classes.
    """

    access: Access = "logits"
    k: int = 5
    queries: Shifts = Shifts()
    rows: int = field(default=256, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = get_args(Access)
        if self.access not in known:
            near = get_close_matches(str(self.access), known, 1)
            hint = f": did you mean {near[0]!r}" if near else ""
            raise ValueError(f"access must be one of {list(known)}, but is {self.access!r}{hint}.")
        if self.k < 1:
            raise ValueError(f"k must be at least 1, the number of classes that top-k access shows, but is {self.k}.")

    @property
    def shows(self) -> str:  # type: ignore[override]
        what = {
            "logits": "the logits",
            "probabilities": "the probabilities of all classes",
            "top-k": f"the {self.k} largest probabilities, and whose they are",
            "label": "the class it answers with, and no number",
        }
        of = "each record" if self.queries.n == 1 else f"{self.queries.n} shifts and mirror images of each image"
        return f"{what[self.access]}, of {of}"

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        with torch.inference_mode():
            found = [self._asked(module, piece) for piece in pieces(batch, self.rows)]
            return {name: torch.cat([some[name] for some in found]) for name in found[0]}

    def _asked(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        label = batch["label"]
        logits = torch.stack([checked(module(query), label) for query in self.queries(batch)], dim=1)
        count = torch.full_like(label, logits.shape[2])
        answers = {name: answer.flatten(1) for name, answer in self.shown(logits).items()}
        return {**answers, "label": label[:, None], "count": count[:, None]}

    def shown(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the access level shows of logits (rows, q, C)."""
        if self.access == "logits":
            return {"logits": logits}
        if self.access == "label":
            return {"predicted": logits.argmax(2)}
        probabilities = logits.softmax(2).float()
        if self.access == "probabilities":
            return {"probabilities": probabilities}
        top, classes = probabilities.sort(dim=2, descending=True, stable=True)  # of equals, the first class comes first
        top, classes = top[:, :, : self.k], classes[:, :, : self.k]
        return {"top": top, "classes": classes, "shown": classes.new_full((len(top), 1), top.shape[2])}


def pieces(batch: Batch, rows: int) -> Iterator[Batch]:
    """A batch in parts of at most `rows` rows."""
    for start in range(0, len(batch["label"]), rows):
        yield {name: tensor[start : start + rows] for name, tensor in batch.items()}


def checked(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Logits (rows, C), at least float32; ValueError where they are none, or a label (rows,) names no class of them."""
    import torch

    if logits.ndim != 2 or len(logits) != len(label) or logits.shape[1] < 2:
        raise ValueError(
            f"a classifier must answer {len(label)} records with logits ({len(label)}, C) of two classes or more, but "
            f"answers {tuple(logits.shape)}: take a model that was trained to tell classes apart."
        )
    if not torch.isfinite(logits).all():
        raise ValueError("the model answers with NaN or infinity: its weights are broken, or its dtype overflows.")
    outside = label[(label < 0) | (label >= logits.shape[1])]
    if len(outside):
        raise ValueError(
            f"label must be 0 to {logits.shape[1] - 1}, for the model has {logits.shape[1]} classes, but is "
            f"{int(outside[0])}: leave out records without a class, or take a model of the same classes as the data."
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def moved(pixels: torch.Tensor, axis: int, by: int) -> torch.Tensor:
    """Images (rows, 3, H, W) moved along an axis, right or down where `by` > 0; the edge fills what is bare."""
    import torch

    size = pixels.shape[axis]
    if abs(by) >= size:
        raise ValueError(f"reach must be below the images' {size} pixels, but is {abs(by)}.")
    source = (torch.arange(size, device=pixels.device) - by).clamp_(0, size - 1)
    return pixels.index_select(axis, source) if by else pixels
