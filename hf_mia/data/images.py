"""Images as records, from anything that `datasets.load_dataset` opens. They stay encoded until they are looked at."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import numpy as np

from hf_mia.core import Ask, Booleans, Floats, Game, Integers, Model, Pool, Probe
from hf_mia.data import Data, Portrait
from hf_mia.data.classes import once, refuse_shared
from hf_mia.data.sources import check_column, marked_rows
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.models.pixels import decode as decode
from hf_mia.models.pixels import encoded, looks
from hf_mia.models.pixels import overlap as overlap
from hf_mia.models.pixels import pixel_digests as pixel_digests
from hf_mia.storage.keys import encoded_content

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_mia.controls.twins import Twins

DIGITS = "digits"


@dataclass(frozen=True, kw_only=True)
class Images(Data):
    """Where images come from: a Hub id, a local folder or file, or `digits`, the embedded default: scikit-learn's 1,797
    gray images of 8x8 pixels.

    `image` and `label` name the columns; `labels` keeps only the images of some classes: another distribution.
    """

    columns: ClassVar[tuple[str, ...]] = ("image",)
    unit: ClassVar[str] = "image"
    beside: ClassVar[tuple[str, ...]] = (
        "encodermi-v",
        "encodermi-s",
        "encodermi-t",
        "encoder-feature",
        "encoder-similarity",
    )
    recipe: ClassVar[str] = "moco"
    controls: ClassVar[tuple[Literal["untrained", "swapped"], ...]] = ("untrained", "swapped")
    useful: ClassVar[str] = "knn_accuracy"
    path: str = DIGITS
    image: str = "image"
    label: str | None = "label"
    labels: tuple[int, ...] | None = None

    def load(self) -> Pool:
        return load_images(self)

    def marked(self, column: str) -> list[str]:
        return marked_rows(self.rows(), column)

    def model(
        self, source: str | Path, revision: str | None, records: Dataset | None = None, loading: Loading = WHOLE
    ) -> Model:
        from hf_mia.models.vision import encoder

        return encoder(source, revision, loading)

    def takes(self, probe: Probe) -> bool:
        from hf_mia.probes.views import Drawn, Plain

        return isinstance(probe, (Drawn, Plain))

    def check(self, target: Pool, attackers: Pool | None, rest: Pool) -> None:
        rows = self.judged(rest)
        names = tuple(rest.names[unit] for unit in rest.unit[rows])
        pixel_digests(Pool(rest.records.select(rows), np.arange(len(rows)), names))
        if attackers is None:
            pixel_digests(target)
        else:
            refuse_shared(overlap(target, attackers), self.unit)

    def blind(self, pool: Pool, member: Booleans) -> Floats:
        from hf_mia.controls.blind import blind_looks

        numbers, content = looks(pool)
        return blind_looks(numbers, content, member)

    def portrait(self, target: Game, ask: Ask, probe: Probe) -> Portrait:
        from hf_mia.data.portraits import image_portrait

        return image_portrait(target, ask, probe)

    def twins(self, pool: Pool, member: Booleans) -> Twins | None:
        from hf_mia.controls.twins import image_twins

        digests = pixel_digests(pool)
        shown = [digests[row] for row in np.argsort(pool.unit)]  # one image a unit
        return image_twins(looks(pool)[0], shown, member, pool.names)

    def judged(self, rest: Pool) -> Integers:
        from hf_mia.data.knn import judged

        return judged(rest)

    def utility(self, model: Model, rest: Pool, ask: Ask) -> float | None:
        from hf_mia.data.knn import knn_accuracy

        return knn_accuracy(model, rest, ask)


def load_images(data: Images) -> Pool:
    """All images, each a unit named by its row in the split, "000123". Nothing is decoded.

    The records have a column `image`, {"bytes", "path"} as `datasets.Image(decode=False)` gives it, and `label` (int64,
    -1 for none) if there are labels. An image that repeats an earlier one byte for byte is left out, so that no member
    is a non-member too, and so is a row without an image; both are said. Raises ValueError where a column is missing or
    of another kind, a file is missing, or nothing is left.
    """
    records = digits(data) if data.path == DIGITS else data.rows()
    labels = _labels(data, records)
    records = images_of(data, records)
    every = np.ones(len(records), dtype=np.bool_)
    rows = first(records, every if data.labels is None or labels is None else np.isin(labels, data.labels))
    if len(rows) == 0:
        which = "" if data.labels is None else f" of data.labels = {list(data.labels)}"
        raise ValueError(f"data.path = {data.path!r} has no image{which} in data.split = {data.split!r}.")
    records = records if labels is None else records.add_column("label", labels)
    return Pool(records.select(rows), np.arange(len(rows)), tuple(f"{row:06d}" for row in rows))


def digits(data: Images) -> Dataset:
    """scikit-learn's digits as PNGs, and their classes."""
    from datasets import Dataset
    from PIL import Image
    from sklearn.datasets import load_digits

    if data.split != "train":
        raise ValueError(f"data.split = {data.split!r}, but data.path = {DIGITS!r} has only the split 'train'.")
    drawn = load_digits()
    encoded = []
    for gray in np.rint(drawn.images * 255 / 16).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(gray).save(file, "PNG")
        encoded.append(file.getvalue())
    return Dataset.from_dict({"image": encoded, "label": drawn.target.astype(np.int64)})


def images_of(data: Images, records: Dataset) -> Dataset:
    """The column of images alone, as `image`, encoded."""
    from datasets import Image, Value

    others = [name for name, feature in records.features.items() if isinstance(feature, Image)]
    hint = f" Set data.image={others[0]}." if others else ""
    if data.image not in records.column_names:
        raise ValueError(f"data.image = {data.image!r} is no column of the data: it has {records.column_names}.{hint}")
    feature = records.features[data.image]
    fields = set(feature) if isinstance(feature, dict) else set()
    raw = isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")
    if not (isinstance(feature, Image) or raw or {"bytes"} <= fields <= {"bytes", "path"}):
        raise ValueError(
            f"data.image = {data.image!r} is no image column: it holds {feature}.{hint} Images must be an Image "
            f"feature, or bytes of files; `dataset.cast_column({data.image!r}, datasets.Image())` makes one of paths."
        )
    records = records.select_columns([data.image]).cast_column(data.image, Image(decode=False))
    return records if data.image == "image" else records.rename_column(data.image, "image")


def _labels(data: Images, records: Dataset) -> Integers | None:
    """The class of each image (n,), -1 for none; None where there are no labels."""
    import pyarrow.types as kinds

    if data.label is None or (data.label == "label" and "label" not in records.column_names and data.labels is None):
        if data.labels is None:
            return None
        raise ValueError("data.labels keeps some classes, so data.label must name the column of classes.")
    check_column("data.label", data.label, records)
    column = records.select_columns([data.label]).with_format("arrow")[:][data.label]
    if not (kinds.is_integer(column.type) or kinds.is_boolean(column.type)):
        raise ValueError(
            f"data.label = {data.label!r} holds {column.type}, and classes must be whole numbers: name another column, "
            "or set data.label=null."
        )
    return cast("Integers", column.cast("int64").fill_null(-1).to_numpy())


def first(records: Dataset, wanted: Booleans) -> Integers:
    """The rows that are wanted, have an image, and repeat no earlier one."""
    return once(_digests(records, wanted), wanted, "image")


def _digests(records: Dataset, wanted: Booleans) -> Iterator[bytes | None]:
    """A digest of each encoded image that is wanted; None where there is none."""
    for row, value in enumerate(encoded(records)):
        if not wanted[row] or value is None or (value["bytes"] is None and value["path"] is None):
            yield None
            continue
        try:
            yield blake2b(encoded_content(value), digest_size=16).digest()
        except OSError as error:
            raise ValueError(f"image {row:06d} cannot be read: {error}. Restore the file, or leave it out.") from error
