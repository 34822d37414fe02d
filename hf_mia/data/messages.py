"""Real pairs that an installed Django has: the messages of its interface in English, and their translations.

Read from the compiled gettext catalogues (`.mo`) of Django and its contributed apps; nothing is imported or executed.
Who translated a message is not recorded, so a unit is a block: consecutive messages of one catalogue, which lists its
messages by the alphabet, so that near-equal ones mostly fall into one block. Another release of Django has other
messages: a corpus can be repeated with one release only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from gettext import GNUTranslations
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

MISSING = (
    "data.path = 'django-messages' reads the catalogues of Django, which is not installed: "
    "pip install 'hf_mia[demo-translation]'."
)


def django_messages(language: str = "fr", block: int = 7) -> Dataset:
    """Messages and their translations, for games whose unit is a block of `block` consecutive messages.

    `language` is a folder's name in Django's `locale`, such as `fr` or `pt_BR`. Left out are messages that stay as
    they are or have no translation, those that an earlier catalogue has (up to case), plurals but for their first form,
    and a catalogue's last messages where they do not fill a block. Returns rows of `block` (string, the catalogue and
    a number), `source` (string, English) and `target` (string), a block's rows together. ValueError where Django is
    not installed, for an unknown language, and for a block below 1 or larger than every catalogue.
    """
    from datasets import Dataset

    if block < 1:
        raise ValueError(f"block must be at least 1 message, but is {block}: ask for more.")
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for name, path in _catalogues(language):
        new = {source.casefold(): (source, target) for source, target in _pairs(path)}
        own = [pair for key, pair in new.items() if key not in seen]
        seen |= set(new)
        for i, (source, target) in enumerate(own[: len(own) - len(own) % block]):
            rows.append({"block": f"{name} {i // block:03d}", "source": source, "target": target})
    if not rows:
        raise ValueError(f"block must be at most the largest catalogue, but {block} messages fill none: ask for fewer.")
    return Dataset.from_list(rows)


def _catalogues(language: str) -> list[tuple[str, Path]]:
    """(dotted name, path) of every catalogue of a language, by name."""
    spec = importlib.util.find_spec("django")
    roots = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    if not roots:
        raise ValueError(MISSING)
    every = [path for root in roots for path in root.rglob("locale/*/LC_MESSAGES/*.mo")]
    found = [path for path in every if path.parts[-3] == language]
    if not found:
        known = sorted({path.parts[-3] for path in every})
        raise ValueError(f"data.name = {language!r} is no language of the installed Django: it has {known}.")
    return sorted((".".join((*path.parts[-6:-4], path.stem)), path) for path in found)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """The messages of one catalogue that were translated, in its order, with single spaces."""
    with path.open("rb") as file:
        catalogue: dict[str | tuple[str, int], str] = vars(GNUTranslations(file))["_catalog"]
    for key, translation in catalogue.items():
        message, form = key if isinstance(key, tuple) else (key, 0)
        source = " ".join(message.rpartition("\x04")[2].split())  # "context\x04message"
        target = " ".join(translation.split())
        if form == 0 and source and target and source.casefold() != target.casefold():
            yield source, target
