"""Saved models, by folder or Hub id: found, downloaded, and refused where loading them would run somebody's code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WEIGHTS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")

CARD = "README.md"
LARGEST_CARD = 1 << 24  # bytes


def folder_of(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a saved model, downloaded first if need be. ValueError, with the way out, where there is none."""
    return Path(source) if Path(source).is_dir() else _download(str(source), revision)


def name_of(source: str | Path, revision: str | None = None) -> str:
    """What a model is called in reports: `source`, or `source@revision`."""
    return str(source) if revision is None else f"{source}@{revision}"


def configuration(folder: Path, source: str) -> PretrainedConfig:
    """A saved model's configuration. ValueError where it is missing, unknown, or wants code from its repository."""
    from transformers import AutoConfig

    if not (folder / "config.json").exists():
        raise ValueError(f"model {source!r} has no config.json: name a folder that `save_pretrained` wrote.")
    try:
        return cast("PretrainedConfig", AutoConfig.from_pretrained(folder, trust_remote_code=False))
    except ValueError as error:
        raise ValueError(
            f"model {source!r} cannot be loaded by transformers alone: {error} If it wants code from its "
            "repository, that code is not run here: name a model whose architecture is in transformers."
        ) from error


def check_weights(folder: Path, source: str) -> None:
    """ValueError where a folder holds no safetensors."""
    if not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"model {source!r} has no safetensors weights, and pickled weights can run code. Convert "
            "it where you trust it: `model.save_pretrained(folder)` writes safetensors."
        )


def base_model(folder: Path, source: str) -> str:
    """What a saved model's card names as its `base_model`, the one that it was tuned from.

    ValueError, with the way out, where there is no card, or it names none, several (a merge), or no plain id.
    """
    import yaml
    from huggingface_hub.repocard import metadata_load

    card, way = folder / CARD, "set target.reference to the id or folder of the model that it was tuned from."
    if not card.is_file():
        raise ValueError(f"model {source!r} has no {CARD}, whose base_model would be its reference: {way}")
    try:
        if card.stat().st_size > LARGEST_CARD:
            raise ValueError(f"it is larger than {LARGEST_CARD} bytes")
        given = (metadata_load(card) or {}).get("base_model")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(
            f"the {CARD} of model {source!r} cannot be read ({' '.join(str(error).split())}): {way}"
        ) from error
    named = given if isinstance(given, list) else [given]
    if given is None or not named:
        raise ValueError(f"the {CARD} of model {source!r} names no base_model: {way}")
    if not all(isinstance(name, str) and name.strip() for name in named):
        raise ValueError(f"the base_model in the {CARD} of model {source!r} is no model's id: {way}")
    if len(named) > 1:
        raise ValueError(f"the {CARD} of model {source!r} names {len(named)} models as base_model, {named[:5]}: {way}")
    return cast(str, named[0]).strip()


def _download(source: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=[*WEIGHTS, CARD]))
    except GatedRepoError as error:
        raise ValueError(f"model {source!r} is gated: accept its terms on the Hub, then `hf auth login`.") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"model {source!r} has no revision {revision!r}: name a branch, tag or commit.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ValueError(
            f"model {source!r} is neither a local folder nor a Hub id that you can see. Check the "
            "spelling; for a private one, `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(f"model {source!r} is no local folder, and the Hub could not be reached: {error}") from error
