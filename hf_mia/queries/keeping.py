"""The models that a run folder keeps, so that it can be asked about new texts and images where there is no cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from hf_mia.audits.games import Trained, opponents
from hf_mia.audits.played import write_json
from hf_mia.audits.targets import Hosted
from hf_mia.models.checkpoints import WEIGHTS, folder_of

MANIFEST, MODELS, REFERENCE = "query.json", "models", "reference"
LIMIT = 64  # megabytes
NONE = -1  # room in which not even an empty model fits


def shadow_name(number: int) -> str:
    """What the folder of a shadow is called, from 1."""
    return f"shadow-{number:03d}"


def keep(folder: Path, own: Trained, limit: int = LIMIT) -> list[str]:
    """Copy the target, then all shadows where an attack compares with them, as far as `limit` megabytes go; then, if
    it was asked, the model that the target was tuned from, as `models/reference`.

    Writes `models/target`, `models/shadow-001` ... (safetensors, configuration, processor) and `query.json`, which says
    by which key of the cache each model can be found otherwise. A target that was trained elsewhere is not copied: it
    is loaded from where the config says. Returns what a reader should know, a sentence each. Whoever has the folder has
    the models in it, and can attack them.
    """
    folders = {job.name: place for job, place in zip(own.jobs, own.folders, strict=True)}
    target, shadows = own.games()
    names = ["target", *(f"shadow {i}" for i in range(1, len(shadows) + 1))]
    keys = dict(zip(names, (game.model.key for game in (target, *shadows)), strict=True))
    told = {n: {"key": keys[n], "cached": folders[n].name if n in folders else None} for n in names}
    write_json({"target": told["target"], "shadows": [told[name] for name in names[1:]]}, folder / MANIFEST)
    notes, left = [], limit * 10**6
    if "target" in folders:
        left -= _copy(folder / MODELS / "target", folders["target"], left)
        if left == limit * 10**6:
            notes.append(f"The target's weights do not fit in --keep {limit} megabytes and stay in the cache alone: "
                         "elsewhere `hf-mia query` needs --model.")  # fmt: skip
    attacks = own.setting.experiment.attacks
    wanted = [name for name, a in attacks.items() if a.compares and opponents(a, shadows, own.base) is shadows]
    size = sum(_size(folders[name]) for name in names[1:]) if wanted else 0
    fits = size <= left
    for number, name in enumerate(names[1:] if wanted else (), 1):
        _copy(folder / MODELS / shadow_name(number), folders[name], left if fits else NONE)
    if not fits:
        notes.append(f"The shadows take {size / 10**6:.1f} megabytes, more than --keep {limit} leaves: without the "
                     f"cache, {', '.join(wanted)} cannot be queried.")  # fmt: skip
    return notes + _keep_base(folder, own, left - size if fits else left)


def _keep_base(folder: Path, own: Trained, room: int) -> list[str]:
    """Copy the model that the target was tuned from, if it was asked and is whole; a sentence where it is not kept."""
    if own.base is None or isinstance(own.setting.experiment.target, Hosted):  # a service's run is not asked
        return []
    source = folder_of(own.base.model.name)
    whole = (source / "config.json").exists() and not (source / "adapter_config.json").exists()
    if _copy(folder / MODELS / REFERENCE, source, room if whole else NONE):
        return []
    return [f"The model that the target was tuned from is not kept: `hf-mia query` loads it from "
            f"{own.base.model.name!r}."]  # fmt: skip


def files(folder: Path) -> list[Path]:
    """The files that a saved model consists of."""
    return sorted(
        path for path in folder.glob("*") if path.is_file() and any(path.match(kind) for kind in WEIGHTS)
        and path.name != "training.json"
    )  # fmt: skip


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def _copy(place: Path, model: Path, room: int) -> int:
    """Copy a model's files in place of an earlier one's, if there is room for them; the bytes copied."""
    for stale in files(place):
        stale.unlink()
    if (size := _size(model)) > room:
        return 0
    place.mkdir(parents=True, exist_ok=True)
    for path in files(model):
        shutil.copyfile(path, place / path.name)
    return size
