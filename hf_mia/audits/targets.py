"""Targets that were trained elsewhere: a saved model, or one behind an API, and who its members are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from hf_mia.core import Model
from hf_mia.data import Data
from hf_mia.models.checkpoints import base_model, folder_of
from hf_mia.models.loading import Dtype, Loading, Quantization
from hf_mia.services.endpoints import CONTINUE, Chat, Completions, Endpoint, TextGeneration
from hf_mia.services.terms import Access, Budget, Manners

if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub.inference._providers import PROVIDER_OR_POLICY_T as Provider

    from hf_mia.services.service import Service

Provenance = Literal["random_split", "coin", "canary", "post_hoc", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Elsewhere(ABC):
    """A target that was trained elsewhere, and who its members are: by name, in a file, or by a column of the data.

    `provenance` says how membership came about: `random_split`, `canary`, `post_hoc` (members and non-members
    were collected apart: a difference between them can look like a leak) or `unknown`. `reference` is the model that
    the target was tuned from, by folder or Hub id, for attacks that set it against that one, as `base-reference` does;
    it is loaded if there is such an attack. With null the shadows stand in its place.
    """

    members: tuple[str, ...] = ()
    members_file: str | None = None
    members_column: str | None = None
    provenance: Provenance = "unknown"
    reference: str | None = None

    @abstractmethod
    def load(self, data: Data, records: Dataset, cache: Path) -> Model:
        """The model, as the data's records are put to it; ValueError where there is none."""

    def opened(self, data: Data, source: str | Path, revision: str | None, records: Dataset | None = None) -> Model:
        """A saved model, of a folder or Hub id, in the way in which the target is loaded."""
        return data.model(source, revision, records)

    def tuned_from(self) -> str | None:
        """Where the reference is; ValueError where that cannot be told."""
        if self.reference == "auto":
            raise ValueError(
                "target.reference = auto reads a model's card, and a service has none: set it to the id or folder of "
                "the model that the target was tuned from."
            )
        return self.reference

    def base(self, data: Data, records: Dataset, own: Model) -> Model | None:
        """The reference; ValueError where it is the target's `own` model."""
        source = self.tuned_from()
        if source is None:
            return None
        found = self.opened(data, source, None, records)
        if found.key == own.key:
            raise ValueError(
                f"target.reference is {source!r}, which has the target's own weights, so nothing would tell them "
                "apart: set it to the model that the target was tuned from."
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Elsewhere):
    """A saved model, by folder or Hub id; its `reference` is `auto`, what the model's card names as `base_model`.

    `device_map`, `quantization` and `dtype` are for large models, as `models.loading.Loading` says, and hold for the
    reference too.
    """

    model: str = ""
    revision: str | None = None
    reference: str | None = "auto"
    device_map: str | None = None
    quantization: Quantization | None = None
    dtype: Dtype | None = None

    def load(self, data: Data, records: Dataset, cache: Path) -> Model:
        return self.opened(data, self.model, self.revision, records)

    def opened(self, data: Data, source: str | Path, revision: str | None, records: Dataset | None = None) -> Model:
        return data.model(source, revision, records, Loading(self.device_map, self.quantization, self.dtype))

    def tuned_from(self) -> str | None:
        if self.reference != "auto":
            return self.reference
        return base_model(folder_of(self.model, self.revision), self.model)


@dataclass(frozen=True, kw_only=True)
class Hosted(Elsewhere):
    """A language model behind an API: `model` is what the service at `url` (or huggingface_hub's `provider`) calls it.

    `endpoint` says in which words it is asked, and `access` what it shows (`hf_mia.services.service.Service`). `key` is
    the NAME of the environment variable that holds the service's key. The `budget` and the `manners` hold for one run;
    run again, it goes on, and nothing that was answered is paid for twice. `instruction` stands before every text in a
    chat. ValueError from `service` for what does not fit.
    """

    model: str = ""
    url: str | None = None
    provider: str | None = None
    endpoint: Literal["completions", "chat", "text-generation"] = "completions"
    access: Access = "text"
    key: str | None = None
    k: int = 5
    positions: int = 8
    version: str = ""
    instruction: str = CONTINUE
    budget: Budget = Budget()
    manners: Manners = Manners()

    def load(self, data: Data, records: Dataset, cache: Path) -> Model:
        from hf_mia.services.service import service_model

        return service_model(self.service(), cache)

    def service(self) -> Service:
        """The service as it is asked."""
        from hf_mia.services.service import Service

        shown = {"k": self.k, "positions": self.positions}
        terms = {"budget": self.budget, "manners": self.manners}
        return Service(self._endpoint(), self.access, self.key, version=self.version, **shown, **terms)  # type: ignore[arg-type]

    def _endpoint(self) -> Endpoint:
        if not self.model:
            raise ValueError("model must be the name by which the service knows its model, but is empty.")
        if self.endpoint == "completions":
            if self.url is None or self.provider is not None:
                raise ValueError(
                    "endpoint = completions takes a url, such as https://host/v1, and no provider: set url, or set "
                    "endpoint to chat or text-generation."
                )
            return Completions(self.model, self.url)
        if (self.url is None) == (self.provider is None):
            raise ValueError(
                f"exactly one of url and provider says where {self.model!r} is asked, but "
                f"{'none' if self.url is None else 'both'} is set."
            )
        provider = cast("Provider | None", self.provider)
        if self.endpoint == "chat":
            return Chat(self.model, self.url, provider, self.instruction)
        return TextGeneration(self.model, self.url, provider)
