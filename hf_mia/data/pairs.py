"""Sources and their targets: sentences and their translations, turns of a dialogue and the replies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hf_mia.core import Model
from hf_mia.data.messages import django_messages
from hf_mia.data.texts import Written
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.models.pairs import check_prompt, pair_model

if TYPE_CHECKING:
    from datasets import Dataset

MESSAGES = "django-messages"
LANGUAGE = "fr"


@dataclass(frozen=True, kw_only=True)
class Pairs(Written):
    """Where pairs come from: a Hub id, a local folder or file, or `django-messages`, those of an installed Django.

    A model is asked about the target, given the source. Of Django's, `name` is the language, French where there is
    none, and `user` must be `block` (`hf_mia.data.messages`).

    `user` names the column of whoever is in or out as a whole: the document, the translator, the speaker. A pair
    without source and target is left out; one with only one of them is refused. For a checkpoint, `prompt` is what it
    is shown, `{source}` in it the source, and the languages are the codes that multilingual tokenizers take
    (`hf_mia.models.pairs.pair_model`); recipes have fields of their own.
    """

    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    recipe: ClassVar[str] = "seq2seq-lstm"
    path: str = ""
    source: str = "source"
    target: str = "target"
    prompt: str | None = None
    source_language: str | None = None
    target_language: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)

    @property
    def unit(self) -> str:  # type: ignore[override]
        return (self.user or "user").rpartition(".")[2]

    @property
    def record(self) -> str:
        return "pair"

    def opened(self) -> Dataset:
        if not self.path:
            raise ValueError("data.path must name the pairs, a Hub id, a folder or a file, but is empty.")
        return django_messages(self.name or LANGUAGE) if self.path == MESSAGES else super().opened()

    def model(
        self, source: str | Path, revision: str | None, records: Dataset | None = None, loading: Loading = WHOLE
    ) -> Model:
        return pair_model(source, revision, self.prompt, self.source_language, self.target_language, loading)
