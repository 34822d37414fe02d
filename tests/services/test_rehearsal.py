"""What is said of a service before it is asked is what happens when it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import Formats, Server, game, memoriser, serving

from hf_mia.core import Attack, Model, Pool
from hf_mia.models.language import TextCollate, language_model
from hf_mia.papers import PAPERS
from hf_mia.probes.continuations import Continuations
from hf_mia.probes.tokens import Tokens
from hf_mia.runner import Runner
from hf_mia.services.endpoints import Chat, Completions, Endpoint, TextGeneration
from hf_mia.services.rehearsal import lacking, rehearse, stand_in
from hf_mia.services.service import Service, service_model
from hf_mia.services.spoken import as_asked
from hf_mia.services.terms import Access
from hf_mia.units import of_units

ASKED = {name: a for name, a in PAPERS.items() if isinstance(a.signal.probe, Tokens | Continuations)}
KINDS: list[tuple[str, Access]] = [
    ("completions", "prompt"), ("text-generation", "prompt"), ("chat", "top-k"), ("completions", "text"),
]  # fmt: skip


@pytest.fixture(scope="module")
def few() -> Pool:
    return of_units(game()[0], np.arange(2))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return language_model(memoriser(tmp_path_factory.mktemp("rehearsal"), *game(), steps=1))


@pytest.fixture(scope="module")
def server(local: Model) -> Iterator[Server]:
    assert isinstance(local.collate, TextCollate)
    with serving(Server(Formats(local.load(), local.collate.tokenizer))) as running:
        yield running


def happens(service: Service, attack: Attack, few: Pool, local: Model, cache: Path) -> str:
    """What is said when a signal that learnt from a local model reads the service's answers."""
    ask, probe = Runner(cache), attack.signal.probe
    signal = attack.signal.learn([ask(as_asked(local, probe), probe, few.records)])
    try:
        signal.read(ask(service_model(service, cache), probe, few.records), few)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("kind", "access"), KINDS)
def test_what_is_said_beforehand_is_what_happens(
    server: Server, few: Pool, local: Model, tmp_path: Path, kind: str, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    endpoints: dict[str, Endpoint] = {
        "completions": Completions("m", server.url),
        "chat": Chat("m", server.url),
        "text-generation": TextGeneration("m", server.url.removesuffix("/v1")),
    }
    service = Service(endpoints[kind], access)
    module, said = stand_in(service), {}
    for name, attack in ASKED.items():
        said[name] = lacking(module, attack, shadows=1)
        assert said[name] == happens(service, attack, few, local, tmp_path), name
    assert "" in said.values()
    assert any(said.values())


def test_the_first_attack_that_cannot_be_played_is_named_with_those_that_can() -> None:
    service = Service(Completions("m", "http://127.0.0.1:9/v1"), "prompt")
    rehearse(service, {"mean-loss": PAPERS["mean-loss"]}, shadows=0)
    with pytest.raises(ValueError, match=r"attack 'mine' cannot.*'mean'.*shadows.count = 0 .*'mean-loss'") as caught:
        rehearse(service, {"one": PAPERS["mean-loss"], "mine": PAPERS["min-k++"]}, shadows=0)
    assert "'auditmi-sampled'" not in str(caught.value)  # it takes a shadow
