"""Records and their classes, for classifiers: images, texts and sounds, each a unit in the group of its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from hf_mia.controls.dates import DATE, days, unit_days
from hf_mia.core import Ask, Booleans, Floats, Game, Integers, Model, Pool, Probe
from hf_mia.data import Data, Portrait
from hf_mia.data.classes import classes_of, frequent, once, refuse_shared, with_classes
from hf_mia.data.images import DIGITS, Images, digits, first, images_of
from hf_mia.data.sources import check_column, marked_rows
from hf_mia.data.texts import DOCSTRINGS
from hf_mia.models.loading import WHOLE, Loading

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_mia.controls.overlap import Overlap
    from hf_mia.controls.twins import Twins

JUDGED = 2000  # records outside of the game by which a classifier is judged


class Classified:
    """What any kind of data becomes where its records have classes, as the column `label` tells.

    Each record is a unit, named by its row in the split, "000123", in the group of its class. Records that repeat an
    earlier one are left out, so that no member is a non-member too, and so are records without a class.
    """

    beside: ClassVar[tuple[str, ...]] = ("rmia", "lira", "relative-loss", "loss", "modified-entropy", "correctness")
    shadows: ClassVar[int] = 16
    controls: ClassVar[tuple[Literal["untrained", "swapped"], ...]] = ("untrained", "swapped")
    useful: ClassVar[str] = "test_accuracy"

    def takes(self, probe: Probe) -> bool:
        from hf_mia.probes.gradients import Gradients
        from hf_mia.probes.posteriors import Posteriors

        return isinstance(probe, Gradients) or (isinstance(probe, Posteriors) and probe.queries.n == 1)

    def portrait(self, target: Game, ask: Ask, probe: Probe) -> Portrait:
        from hf_mia.data.portraits import classifier_portrait

        return classifier_portrait(target, ask)

    def judged(self, rest: Pool) -> Integers:
        return np.sort(np.random.default_rng(0).permutation(len(rest.records))[:JUDGED])

    def utility(self, model: Model, rest: Pool, ask: Ask) -> float | None:
        from hf_mia.data.portraits import accuracy

        rows = self.judged(rest)
        return accuracy(model, rest.records.select(rows), ask) if len(rows) else None


@dataclass(frozen=True, kw_only=True)
class ClassifiedImages(Classified, Images):
    """Images with classes; without a `path`, the digits of scikit-learn. `labels` keeps some classes, by number."""

    columns: ClassVar[tuple[str, ...]] = ("image", "label")
    recipe: ClassVar[str] = "image-classifier"

    def load(self) -> Pool:
        records = digits(self) if self.path == DIGITS else self.rows()
        labels, names = classes_of(records, self.label or "label")
        records = images_of(self, records)
        wanted = (labels >= 0) & (np.isin(labels, self.labels) if self.labels else True)
        return unit_pool(with_classes(records, labels, names), first(records, wanted), self)

    def model(
        self, source: str | Path, revision: str | None, records: Dataset | None = None, loading: Loading = WHOLE
    ) -> Model:
        from hf_mia.models.classifiers import image_classifier

        return image_classifier(source, revision, names_of(records), loading)

    def takes(self, probe: Probe) -> bool:
        from hf_mia.probes.gradients import Gradients
        from hf_mia.probes.posteriors import Posteriors

        return isinstance(probe, (Gradients, Posteriors))


@dataclass(frozen=True, kw_only=True)
class ClassifiedTexts(Classified, Data):
    """Texts with classes; without a `path`, sentences of docstrings and the packages that they are from.

    `classes` keeps only the texts of so many classes, the most frequent. `date` names a column of dates;
    where there is one, an attack must beat what the date alone tells.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    unit: ClassVar[str] = "text"
    recipe: ClassVar[str] = "text-classifier"
    path: str = DOCSTRINGS
    text: str = "text"
    label: str = "label"
    classes: int | None = None
    date: str | None = None

    def load(self) -> Pool:
        records = self._records()
        check_column("data.text", self.text, records)
        labels, names = classes_of(records, self.label)
        wanted = (labels >= 0) & (frequent(labels, self.classes) if self.classes else True)
        kept = np.unique(labels[wanted])
        place = np.full(len(names) + 1, -1, dtype=np.int64)
        place[kept] = np.arange(len(kept))
        texts = records.select_columns([self.text])
        texts = texts if self.text == "text" else texts.rename_column(self.text, "text")
        rows = once(_contents(texts), wanted, "text")
        pool = unit_pool(with_classes(texts, place[labels], [names[label] for label in kept]), rows, self)
        if self.date is None:
            return pool
        check_column("data.date", self.date, records)
        found = days(records.select_columns([self.date]).select(rows)[self.date], self.date)
        return replace(pool, records=pool.records.add_column(DATE, found))

    def _records(self) -> Dataset:
        if self.path != DOCSTRINGS:
            return self.rows()
        from hf_mia.data.docstrings import docstring_sentences

        found = docstring_sentences(300, 12)  # of so many modules; the package is the class
        packages = [str(module).split(".")[0] for module in found["user"]]
        return found.remove_columns("user").add_column(self.label, packages)

    def marked(self, column: str) -> list[str]:
        return marked_rows(self.rows(), column)

    def model(
        self, source: str | Path, revision: str | None, records: Dataset | None = None, loading: Loading = WHOLE
    ) -> Model:
        from hf_mia.models.classifiers import text_classifier

        return text_classifier(source, revision, names_of(records), loading)

    def check(self, target: Pool, attackers: Pool | None, rest: Pool) -> None:
        known = set(() if attackers is None else _contents(attackers.records))
        refuse_shared(sum(content in known for content in _contents(target.records)), self.unit)

    def blind(self, pool: Pool, member: Booleans) -> Floats:
        from hf_mia.controls.blind import blind_scores

        return blind_scores(([text] for text in pool.records["text"]), member)

    def twins(self, pool: Pool, member: Booleans) -> Twins | None:
        from hf_mia.controls.twins import text_twins

        return text_twins(pool.records["text"][:], member, pool.names)

    def overlap(self, pool: Pool, member: Booleans) -> Overlap | None:
        from hf_mia.controls.overlap import text_overlap

        return text_overlap(pool, member, ("text",))

    def dates(self, pool: Pool) -> Floats | None:
        return None if self.date is None else unit_days(pool)


def names_of(records: Dataset | None) -> list[str] | None:
    """The classes of records, in the order of their labels; None where there are no records to ask."""
    return None if records is None else list(records.features["label"].names)


def unit_pool(records: Dataset, rows: Integers, data: Data) -> Pool:
    """Some rows of labelled records as units of their own; ValueError where none is left."""
    if len(rows) == 0:
        raise ValueError(f"data.path = {data.path!r} has no {data.unit} with a class in data.split = {data.split!r}.")
    kept = records.select(rows)
    group = np.array(kept["label"], dtype=np.int64)
    return Pool(kept, np.arange(len(rows)), tuple(f"{row:06d}" for row in rows), group)


def _contents(records: Dataset) -> Iterator[bytes | None]:
    """Each text as bytes; None for one that is missing or whitespace."""
    for rows in records.select_columns(["text"]).iter(batch_size=4096):
        for text in rows["text"]:
            yield str(text).encode("utf-8", "surrogatepass") if text and str(text).strip() else None
