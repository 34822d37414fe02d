"""Sounds and their classes, from anything that `datasets.load_dataset` opens; encoded until they are heard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_mia.core import Booleans, Floats, Model, Pool
from hf_mia.data import Data
from hf_mia.data.classes import classes_of, once, refuse_shared, with_classes
from hf_mia.data.classified import Classified, names_of, unit_pool
from hf_mia.data.sources import check_column, marked_rows
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.storage.keys import encoded_content

if TYPE_CHECKING:
    from datasets import Dataset

FEW = 32  # encoded sounds in memory at once


@dataclass(frozen=True, kw_only=True)
class ClassifiedSounds(Classified, Data):
    """Sounds with classes: a Hub id, or a Parquet file with an audio column.

    `audio` and `label` name the columns. Takes the extra `audio`, which reads sound files; for a bare folder of them
    `datasets` also wants torchcodec.
    """

    columns: ClassVar[tuple[str, ...]] = ("audio", "label")
    unit: ClassVar[str] = "sound"
    recipe: ClassVar[str] = "fine-tune-audio-classifier"
    path: str = ""
    audio: str = "audio"
    label: str = "label"

    def load(self) -> Pool:
        if not self.path:
            raise ValueError("data.path must name the sounds, for there is no embedded default: a Hub id or a folder.")
        records = self.rows()
        labels, names = classes_of(records, self.label)
        sounds = self._encoded(records)
        rows = once(digests(sounds), labels >= 0, "sound")
        return unit_pool(with_classes(sounds, labels, names), rows, self)

    def _encoded(self, records: Dataset) -> Dataset:
        """The column of sounds alone, as `audio`, encoded."""
        from datasets import Audio

        check_column("data.audio", self.audio, records)
        feature = records.features[self.audio]
        if not isinstance(feature, Audio):
            raise ValueError(
                f"data.audio = {self.audio!r} is no audio column: it holds {feature}. "
                f"`dataset.cast_column({self.audio!r}, datasets.Audio())` makes one of paths."
            )
        sounds = records.select_columns([self.audio]).cast_column(self.audio, Audio(decode=False))
        return sounds if self.audio == "audio" else sounds.rename_column(self.audio, "audio")

    def marked(self, column: str) -> list[str]:
        return marked_rows(self.rows(), column)

    def model(
        self, source: str | Path, revision: str | None, records: Dataset | None = None, loading: Loading = WHOLE
    ) -> Model:
        from hf_mia.models.classifiers import audio_classifier

        return audio_classifier(source, revision, names_of(records), loading)

    def check(self, target: Pool, attackers: Pool | None, rest: Pool) -> None:
        known = set(() if attackers is None else digests(attackers.records))
        refuse_shared(sum(digest in known for digest in digests(target.records)), self.unit)

    def blind(self, pool: Pool, member: Booleans) -> Floats:
        from hf_mia.controls.blind import SOUND_LOOKS, blind_looks, sound_looks
        from hf_mia.models.sounds import decode

        looks = np.empty((len(pool.names), SOUND_LOOKS))
        for value, unit in zip(encoded(pool.records), pool.unit, strict=True):  # one sound a unit
            samples, rate = decode(value, pool.names[unit])
            looks[unit] = sound_looks(samples.astype(np.float64), rate)
        return blind_looks(looks, [blake2b(row.tobytes(), digest_size=16).digest() for row in looks], member)


def encoded(records: Dataset) -> Iterator[Mapping[str, object]]:
    """The encoded sounds one after the other, few in memory."""
    for rows in records.select_columns(["audio"]).iter(batch_size=FEW):
        yield from rows["audio"]


def digests(records: Dataset) -> Iterator[bytes | None]:
    """A digest of each encoded sound; None where there is none. ValueError where a file cannot be read."""
    for row, value in enumerate(encoded(records)):
        if value is None or (value["bytes"] is None and value["path"] is None):
            yield None
            continue
        try:
            yield blake2b(encoded_content(value), digest_size=16).digest()
        except OSError as error:
            raise ValueError(f"sound {row:06d} cannot be read: {error}. Restore the file, or leave it out.") from error
