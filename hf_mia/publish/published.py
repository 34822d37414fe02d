"""What leaves this machine with a run or a card: no place on its disk, no credentials of a URL, no token."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit, urlunsplit

import yaml

from hf_mia.config import read_yaml

HIDDEN = "***"
TOKENS = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}|\bsk-[\w-]{16,}")  # of the Hub, of services
URL = re.compile(r"https?://\S+")
KEPT = {"members", "attacks", "trials", "sweeps", "scenes", "control", "date_shift", "near_duplicates"}  # name units


def reduced(text: str) -> str:
    """A text without what is of this machine or secret.

    Of a path from the root or from a home only the last part is left; a URL loses its user and what stands behind `?`;
    tokens, known by their form or because they are this machine's own, become `***`, and its home folder `~`.
    """
    for one in _own():
        text = text.replace(one, HIDDEN)
    text = URL.sub(lambda found: _url(found[0]), TOKENS.sub(HIDDEN, text))
    kind = PurePosixPath if text.startswith(("/", "~")) else PureWindowsPath
    if (text.startswith("~") and "/" in text) or (kind(text).is_absolute() and "\n" not in text):
        return kind(text).name or HIDDEN
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def without_places(value: object) -> object:
    """Nested mappings and lists in which every text is `reduced`, but for what tells of units and their scores."""
    if isinstance(value, Mapping):
        return {name: inner if name in KEPT else without_places(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(inner) for inner in value]
    return reduced(value) if isinstance(value, str) else value


def changed(value: object, where: str = "") -> Iterator[str]:
    """The dotted names of the fields that `without_places` changes."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in KEPT:
                yield from changed(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from changed(inner, where)
    elif isinstance(value, str) and reduced(value) != value:
        yield where


@dataclass(frozen=True)
class Published:
    """The files of a run folder that are not pushed as they are, by name, and sentences on what is told of it."""

    files: Mapping[str, bytes]
    notes: tuple[str, ...]


def published(folder: Path) -> Published:
    """What config.yaml and report.json become before all may read them; `read_outcome` has checked both before."""
    config = read_yaml(folder / "config.yaml")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    found = {"config.yaml": config, "report.json": report}
    fields = {name: sorted(set(changed(content))) for name, content in found.items()}
    notes = [f"{name} is pushed without places and secrets of this machine, in {', '.join(own)}."
             for name, own in fields.items() if own]  # fmt: skip
    target = config.get("target")
    if isinstance(target, Mapping) and isinstance(url := target.get("url"), str):
        notes.append(f"config.yaml and report.json name the service that was asked, {reduced(url)}.")
    made = {
        "config.yaml": lambda: yaml.safe_dump(without_places(config), sort_keys=False).encode(),
        "report.json": lambda: json.dumps(without_places(report), indent=1, allow_nan=False).encode(),
    }
    return Published({name: made[name]() for name, own in fields.items() if own}, tuple(notes))


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        return HIDDEN
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _own() -> list[str]:
    """The tokens of this machine: the Hub's, and what the environment calls a key, a token or a secret."""
    from huggingface_hub import get_token

    named = [value for name, value in os.environ.items() if re.search(r"(?i)(key|token|secret|password)$", name)]
    return [one for one in (get_token() or "", *named) if len(one) >= 12]
