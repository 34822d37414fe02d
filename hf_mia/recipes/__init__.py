"""How a model is trained. A recipe is a frozen dataclass whose fields are the paper's hyper-parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from hf_mia.core import Model

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase, SequenceFeatureExtractor

    Processor: TypeAlias = PreTrainedTokenizerBase | BaseImageProcessor | SequenceFeatureExtractor

Progress = Callable[[int, int, str], None]  # steps done, steps in all, what to say beside the bar


class Recipe(ABC):
    """One way of making a model from records."""

    columns: ClassVar[tuple[str, ...]]
    together: bool
    batch: int

    def key(self) -> str:
        """What of the recipe decides a model's weights, for the cache."""
        return repr(self)

    @abstractmethod
    def processor(self, outside: Iterable[str]) -> Processor:
        """What turns records into numbers; a vocabulary, where one is built, sees only the texts `outside`."""

    @abstractmethod
    def processor_key(self, processor: Processor) -> str:
        """The content of a processor, for the cache."""

    @abstractmethod
    def blank(self) -> Recipe:
        """The recipe of the same model without training."""

    @abstractmethod
    def train(
        self,
        records: Dataset,
        processor: Processor,
        seed: int,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        """Train on the records and save model and processor in the folder; resume from what the folder holds."""

    def side_by_side(self, records: Dataset, processor: Processor, accelerator: Accelerator) -> int:
        """How many models on as many records are trained at once here; 1 where that would not be faster."""
        return 1

    def train_side_by_side(
        self,
        records: Sequence[Dataset],
        processor: Processor,
        seeds: Sequence[int],
        folders: Sequence[Path],
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        """What `train` does for each of several models; here, one after another."""
        for some, seed, folder in zip(records, seeds, folders, strict=True):
            self.train(some, processor, seed, folder, accelerator, progress)

    @abstractmethod
    def steps(self, records: Dataset, processor: Processor) -> int:
        """How many optimizer steps `train` takes on the records."""

    @abstractmethod
    def time(self, records: Dataset, processor: Processor, folder: Path, accelerator: Accelerator) -> float:
        """Seconds a step takes here, measured on a few; the folder is for scratch."""

    @abstractmethod
    def load(self, folder: Path) -> Model:
        """The model that `train` saved."""

    def kept(self) -> tuple[int, ...]:
        """The epochs after which a model is kept too, ascending."""
        return ()

    def after(self, folder: Path, epoch: int) -> Path:
        """Where the folder of a trained model holds the model as it was after one of the `kept` epochs."""
        return folder / f"epoch-{epoch:04d}"
