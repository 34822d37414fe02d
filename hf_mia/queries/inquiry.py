"""Asking one model about texts or images at hand: by an attack of a run, or by one that needs no shadows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.config import check_name
from hf_mia.core import Attack, Booleans, Floats, Pool
from hf_mia.data import Data
from hf_mia.papers import PAPERS
from hf_mia.queries.refit import Fitted, alone, fitted, refitted
from hf_mia.reports.membership import FPRS, LABELS, Numbers, flat, members, numbers
from hf_mia.reports.report import Report
from hf_mia.runner import Runner
from hf_mia.storage.keys import cache_folder

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Inquiry:
    """Which model is asked about which kind of data, by which attack, and what is reported.

    `model` is a folder or a Hub id. With `run`, a folder that `hf-mia audit` wrote, `attack` names an attack of it, by
    default its headline; without, an entry of PAPERS that needs no shadows, by default `free`. Answers are kept in
    `cache`, as an audit keeps them; `fpr` and `confidence` as `membership_inference` takes them.
    """

    data: Data
    free: str
    model: str
    revision: str | None = None
    run: str | Path | None = None
    attack: str | None = None
    cache: str | Path | None = None
    fpr: Sequence[float] = FPRS
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model_id: there is none. Name a folder or a Hub id of the model to ask.")

    def fitted(self) -> Fitted:
        """The attack, ready to score; ValueError where there is none of this name, or it asks for more."""
        if self.run is not None:
            return refitted(self.run, self.data, self.attack)
        free = {name: attack for name, attack in PAPERS.items() if self._free(attack)}
        name = self.free if self.attack is None else self.attack
        check_name(name, free, "attack that needs no run")
        return fitted(name, free[name], [], {})

    def scores(self, pool: Pool) -> dict[str, float]:
        """Each unit's score by its name."""
        return dict(zip(pool.names, self._asked(self.fitted(), pool).tolist(), strict=True))

    def answer(self, pool: Pool, member: Booleans | None = None) -> dict[str, object]:
        """`names` and `scores` of the units, the shadows' `threshold` if there is one and, where membership (units,) is
        given, what `hf_mia.reports.membership.flat` tells. ValueError from the model, the attack, or the report."""
        fitted = self.fitted()
        scores, threshold = self._asked(fitted, pool), fitted.scorer.threshold
        found: dict[str, object] = {"attack": fitted.name, "names": list(pool.names), "scores": scores.tolist()}
        if threshold is not None:
            found["threshold"] = threshold
        if member is None:
            return found
        report = Report(fitted.name, scores, member, pool.names, threshold, tuple(self.fpr), self.confidence)
        return found | flat(report)

    def _asked(self, fitted: Fitted, pool: Pool) -> Floats:
        runner = Runner(cache_folder(None if self.cache is None else Path(self.cache)))
        return fitted.scores(self.data.model(self.model, self.revision), pool, runner)

    def _free(self, attack: Attack) -> bool:
        return attack.least == 0 and alone(attack) and self.data.takes(attack.signal.probe)


def texts_of(texts: Sequence[object], users: Sequence[str] | None = None) -> Pool:
    """Texts as a pool, each user a unit, sorted by name; without users, each text is a unit of its own.

    ValueError for no texts, a text or a user that is no string, and where only some texts have a user.
    """
    from datasets import Dataset

    if len(texts) == 0:
        raise ValueError("predictions: there are no texts. Give at least one.")
    for name, column in (("predictions", texts), ("users", users or [])):
        if strange := next(((i, value) for i, value in enumerate(column) if not isinstance(value, str)), None):
            raise ValueError(f"{name}: must be strings, but position {strange[0]} holds {strange[1]!r}.")
    if users and len(users) != len(texts):
        raise ValueError(f"users: must be one a text, but there are {len(users)} for {len(texts)} texts.")
    if users and "" in users and set(users) != {""}:
        raise ValueError(f"users: position {list(users).index('')} has none, and others have: name every text's user.")
    given = users if users and users[0] else _numbered("text", len(texts))
    names, unit = np.unique(given, return_inverse=True)
    return Pool(Dataset.from_dict({"text": list(texts)}), unit.astype(np.int64), tuple(map(str, names)))


def images_of(images: Sequence[Mapping[str, object]]) -> Pool:
    """Encoded images, each as `encoded` gives it, as a pool, each image a unit. ValueError for no images."""
    from datasets import Dataset, Features, Image

    if len(images) == 0:
        raise ValueError("predictions: there are no images. Give at least one.")
    records = Dataset.from_dict({"image": list(images)}, Features({"image": Image(decode=False)}))
    return Pool(records, np.arange(len(images)), tuple(_numbered("image", len(images))))


def encoded(image: object, place: int) -> dict[str, bytes | str | None]:
    """An image as records hold it, {"bytes", "path"}, from a Pillow image (as PNG, so that no pixel changes), the path
    or the bytes of a file, or such a mapping. ValueError, which names the place, for all else and a missing file."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return {"bytes": _png(image, place), "path": None}
    if isinstance(image, (bytes, bytearray)):
        return {"bytes": bytes(image), "path": None}
    if isinstance(image, (str, Path)):
        if not Path(image).is_file():
            raise ValueError(f"predictions: position {place} names {str(image)!r}, and there is no such file.")
        return {"bytes": None, "path": str(Path(image).absolute())}
    if isinstance(image, Mapping) and isinstance(content := image.get("bytes"), bytes):
        return {"bytes": content, "path": None}
    if isinstance(image, Mapping) and isinstance(path := image.get("path"), str):
        return encoded(path, place)
    raise ValueError(
        f"predictions: must be Pillow images, or paths or bytes of image files, but position {place} holds "
        f"{type(image).__name__}."
    )


def sequence(name: str, given: Sequence[object] | None) -> Sequence[object]:
    """What is given, if it is a list or the like; ValueError for None and for a single text or image."""
    if given is None or isinstance(given, (str, bytes)) or not isinstance(given, Sized):
        shown = type(given).__name__
        raise ValueError(f"{name}: must be a list, but is {shown}: write [{name[:-1]}] for one of them.")
    return given


def labels(references: Sequence[float | None] | Numbers | None, count: int) -> Floats:
    """Membership as numbers (count,): 1, 0, or NaN for unknown, which None says too. ValueError for anything else, and
    where it is known of some and not of others."""
    if references is None:
        return np.full(count, np.nan)
    plain = [np.nan if label is None else label for label in references] if isinstance(references, list) else references
    given = numbers("references", plain, LABELS).astype(np.float64)
    if given.shape != (count,):
        raise ValueError(f"references: must be one a prediction, but are of shape {given.shape} for {count}.")
    unknown = np.isnan(given)
    if unknown.any() and not unknown.all():
        place = int(np.flatnonzero(unknown)[0])
        raise ValueError(f"references: position {place} is unknown, and others are known. {LABELS}")
    members("references", given[~unknown])
    return given


def member_of(given: Floats, pool: Pool) -> Booleans | None:
    """Membership of the units (units,) from that of each record (n,); None where it is unknown.

    ValueError for a unit with records in and out.
    """
    if np.isnan(given).all():
        return None
    inside = np.bincount(pool.unit, given, len(pool.names))
    mixed = (inside > 0) & (inside < np.bincount(pool.unit, minlength=len(pool.names)))
    if mixed.any():
        names = [pool.names[i] for i in np.flatnonzero(mixed)[:3]]
        raise ValueError(f"references: some texts of {names} are members and others are not: a user is in as a whole.")
    return np.asarray(inside > 0, dtype=np.bool_)


def _png(image: Image.Image, place: int) -> bytes:
    """The pixels as they are shown, without loss."""
    from PIL import ImageOps

    file = io.BytesIO()
    try:
        ImageOps.exif_transpose(image if image.mode != "CMYK" else image.convert("RGB")).save(file, "PNG")
    except OSError as error:
        raise ValueError(f"predictions: the image at position {place} cannot be used: {error}.") from error
    return file.getvalue()


def _numbered(what: str, count: int) -> list[str]:
    return [f"{what} {i:06d}" for i in range(count)]
