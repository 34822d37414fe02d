"""The audits that the page brings along: small models trained here, on data that is installed anyway.

Each takes under a minute or so on two cores, and is kept in the cache, so that the next start is instant.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import cast

import numpy as np
import yaml

from hf_mia.audits.demo import ENCODER, RIVALS
from hf_mia.audits.experiment import label, mapping
from hf_mia.audits.plan import Experiment, Shadows, Users
from hf_mia.audits.setting import Setting
from hf_mia.core import Pool
from hf_mia.data.images import Images
from hf_mia.data.texts import Texts
from hf_mia.papers import PAPERS
from hf_mia.recipes.contrastive import SimCLR
from hf_mia.recipes.language import Recurrent
from hf_mia.storage.keys import content_key, encoded_content
from hf_mia.units import of_units

EXAMPLES = "examples"

ATTACKS = ("reference", "auditmi-relative", "auditmi", "mean-rank")
NEXT_WORD = Experiment(
    data=Texts(users=164),
    split=Users(members=40),
    target=Recurrent(epochs=12, vocabulary=1000, embedding=32, hidden=64, batch=10),
    shadows=Shadows(count=2),
    attacks={name: PAPERS[name] for name in ATTACKS},
)
DIGITS = Experiment(
    data=Images(),
    split=Users(members=64),
    target=replace(cast(SimCLR, ENCODER.target), epochs=200),
    shadows=Shadows(count=1),
    attacks={label(name, RIVALS[name]): RIVALS[name] for name in ("encodermi-t", "encodermi-v", "encodermi-s")},
)


@dataclass(frozen=True)
class Embedded:
    """An audit that is played on demand: what a visitor calls it, and how it is described."""

    title: str
    experiment: Experiment

    def folder(self, cache: Path) -> Path:
        """Where the run is, or will be: by its config, so that another config is another run."""
        return cache / "app" / content_key([yaml.safe_dump(mapping(self.experiment))])

    def ready(self, cache: Path) -> bool:
        return self.folder(cache).is_dir()

    def build(self, cache: Path) -> Path:
        """Trains, asks and writes what is missing, and puts the folder in place in one rename, with bars."""
        place = self.folder(cache)
        if not place.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(mkdtemp(dir=place.parent, prefix="unfinished-"))
            try:
                _play(self.experiment, unfinished, cache)
                os.replace(unfinished, place)
            except OSError:  # another process put the same run there first
                if not place.is_dir():
                    raise
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        return place


TEXT = Embedded("Docstrings, next-word model", NEXT_WORD)
IMAGE = Embedded("Digits, encoder", DIGITS)


def _play(experiment: Experiment, folder: Path, cache: Path) -> None:
    from hf_mia.audits.folder import write_folder
    from hf_mia.audits.run import play
    from hf_mia.audits.setting import setting
    from hf_mia.queries.calibration import calibrations, write_calibrations
    from hf_mia.queries.keeping import keep
    from hf_mia.runner import Runner

    prepared = setting(experiment)
    played = play(prepared, cache)
    write_folder(folder, experiment, played)
    write_calibrations(folder, calibrations(played, Runner(cache)))
    keep(folder, played.own)
    _write_examples(folder / EXAMPLES, prepared)


def _write_examples(folder: Path, prepared: Setting) -> None:
    """The records of a member, the first that was drawn, and of somebody whom the audit never saw."""
    folder.mkdir()
    inside, outside = prepared.split.members[:1], prepared.split.rest[:1]
    for name, unit in (("member", inside), ("outside", outside)):
        pool = of_units(prepared.corpus, np.asarray(unit))
        if pool.records.column_names[0] == "text":
            (folder / f"{name}.json").write_text(json.dumps(list(pool.records["text"])), encoding="utf-8")
        else:
            (folder / f"{name}.png").write_bytes(_png(pool))


def _png(pool: Pool) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.open(io.BytesIO(encoded_content(pool.records[0]["image"]))).save(file, "PNG")
    return file.getvalue()


def examples(folder: Path) -> Mapping[str, str]:
    """The texts of each example by its name, one a line; none in a folder that another audit wrote."""
    found = sorted((folder / EXAMPLES).glob("*.json"))
    return {path.stem: "\n".join(json.loads(path.read_text(encoding="utf-8"))) for path in found}


def pictures(folder: Path) -> Mapping[str, Path]:
    """The image file of each example by its name."""
    return {path.stem: path for path in sorted((folder / EXAMPLES).glob("*.png"))}
