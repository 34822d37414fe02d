"""Saved models, by folder or Hub id: found, downloaded, and refused where loading them would run somebody's code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WEIGHTS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


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
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(WEIGHTS)))
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
