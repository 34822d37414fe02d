"""What a model on the Hub says of each word of somebody's texts: ranks, and no verdict, for no audit of it is here."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

from hf_mia.app.deadline import watched
from hf_mia.core import Model
from hf_mia.models.checkpoints import WEIGHTS
from hf_mia.models.language import language_model
from hf_mia.probes.tokens import Tokens
from hf_mia.progress import Check, on
from hf_mia.queries.query import Answer
from hf_mia.queries.words import words
from hf_mia.runner import answers_of

ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
LARGEST = 1 << 30  # bytes of a model's files
KEPT = 2  # models in memory
WHY = "No audit of this model is here, so there are no non-members to compare with: ranks alone are no verdict."


def checked_id(name: str) -> str:
    """A Hub id; ValueError for anything else, such as a path or a URL."""
    name = name.strip()
    if not ID.fullmatch(name) or ".." in name or Path(name).exists():
        raise ValueError(f"the model must be a Hub id of the form org/name, but is {name[:100]!r}.")
    return name


class Fetched:
    """Language models of the Hub, fetched when they are asked first; the last few stay in memory, none on the disk."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._lock = Lock()

    def said(self, name: str, texts: Sequence[str], check: Check = on) -> list[Answer]:
        """Each text's words with their ranks; `check` is asked while the model is fetched and before every batch.

        ValueError for no Hub id, and as `language_model`.
        """
        from datasets import Dataset

        model = self._model(checked_id(name), check)
        table = Dataset.from_dict({"text": list(texts)})
        answers = list(answers_of(model.load(), model.collate, Tokens(), table, check=check))
        spoken = words(model, texts, answers)
        return [Answer(f"you [{i}]", "n/a", WHY, 1, words=one) for i, one in enumerate(spoken, 1)]

    def _model(self, name: str, check: Check) -> Model:
        with self._lock:
            check()
            if name not in self._models:
                self._models[name] = _fetched(name, check)
                if len(self._models) > KEPT:
                    self._models.popitem(last=False)
            self._models.move_to_end(name)
            return self._models[name]


def _fetched(name: str, check: Check) -> Model:
    """A model in memory, whose files were on the disk for as long as it was loaded."""
    from huggingface_hub import HfApi, RepoFile, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    with TemporaryDirectory(prefix="hf_mia-model-") as folder:
        try:
            listed = [one for one in HfApi().list_repo_tree(name) if isinstance(one, RepoFile)]
            size = sum(one.size for one in listed if any(Path(one.path).match(kind) for kind in WEIGHTS))
            if size > LARGEST:
                raise ValueError(
                    f"model {name!r} has {size:,} bytes, and at most {LARGEST:,} are read: name a smaller."
                )
            snapshot_download(name, local_dir=folder, allow_patterns=list(WEIGHTS), tqdm_class=watched(check))
        except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
            told = type(error).__name__
            raise ValueError(
                f"model {name!r} could not be fetched from the Hub ({told}): check the spelling."
            ) from error
        made = language_model(folder)
        module = made.load().eval()
        return replace(made, name=name, load=lambda: module)
