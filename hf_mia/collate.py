"""From records to batches: the one place where text, images and sound differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

Batch = dict[str, "torch.Tensor"]
Values: TypeAlias = "Sequence[int] | npt.NDArray[np.uint8] | npt.NDArray[np.int32] | int"


@dataclass(frozen=True)
class Item:
    """One row of a batch before padding: which record of its chunk it comes from, how long it is, and its numbers."""

    record: int
    size: int
    values: Mapping[str, Values]


class Collate(ABC):
    """How raw records become the batches that a module takes. The one place that knows text from images from sound."""

    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        """Rows of one chunk of records, in the records' order; a record may give several rows, or none."""

    @abstractmethod
    def pad(self, items: Sequence[Item]) -> Batch:
        """One batch of rows. A boolean tensor `scored` marks where answers count; without it they all do."""

    def stands_on(self) -> str:
        """The content key of another model by which the rows are made, so that answers are kept under it; or ""."""
        return ""
