"""Services against the same model asked here: real servers, documented formats, and members found over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from serving import Formats, Server, game, memoriser, mlx_serve, serving, transformers_serve
from worlds import each

from hf_mia.attacks.threshold import Threshold
from hf_mia.config import change
from hf_mia.core import Attack, Floats, Game, Model, Pool, audit
from hf_mia.models.language import TextCollate, language_model
from hf_mia.papers import PAPERS
from hf_mia.probes.continuations import Continuations
from hf_mia.probes.tokens import Tokens
from hf_mia.reports.report import Report
from hf_mia.runner import Runner
from hf_mia.services.endpoints import Chat, Completions, Endpoint, TextGeneration
from hf_mia.services.replies import Lacking, Scored
from hf_mia.services.service import Service, cuts, place, service_model, told
from hf_mia.services.spoken import in_text
from hf_mia.services.terms import Manners
from hf_mia.signals.language import MeanLogRank, MeanLoss, MeanRank, RankHistogram

K = 7
QUICK = Manners(pause=0.01, retries=2)


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' offline mode holds huggingface_hub back from 127.0.0.1 as well."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def known() -> tuple[Pool, Floats]:
    return game()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, known: tuple[Pool, Floats]) -> Path:
    return memoriser(tmp_path_factory.mktemp("memoriser"), *known)


@pytest.fixture(scope="module")
def local(folder: Path) -> Model:
    return language_model(folder)


@pytest.fixture(scope="module")
def formats(local: Model) -> Iterator[Server]:
    assert isinstance(local.collate, TextCollate)
    with serving(Server(Formats(local.load(), local.collate.tokenizer))) as server:
        yield server


@pytest.fixture(scope="module")
def real(folder: Path) -> Iterator[str]:
    with transformers_serve(folder) as url:
        yield url


@pytest.fixture(scope="module")
def listing(folder: Path) -> Iterator[str]:
    if find_spec("mlx_lm") is None:
        pytest.skip("mlx-lm, a server that lists likeliest tokens, is not installed")
    with mlx_serve(folder) as url:
        yield url


def asked(service: Service, cache: Path) -> Model:
    return service_model(replace(service, manners=QUICK), cache)


def audited(model: Model, attack: Attack, known: tuple[Pool, Floats], cache: Path) -> Report:
    return audit(attack, Game(model, *known), [], Runner(cache))


def auc(report: Report) -> float:
    assert report.auc.value is not None
    return report.auc.value


def test_prompt_log_probabilities_are_the_local_models(
    formats: Server, local: Model, known: tuple[Pool, Floats], tmp_path: Path
) -> None:
    service = Service(Completions("m", formats.url), access="prompt", k=K)
    there = list(each(Runner(tmp_path)(asked(service, tmp_path), Tokens(), known[0].records)))
    here = list(each(Runner(tmp_path)(local, Tokens(), known[0].records)))
    assert len(there) == len(known[0].records)
    for one, other in zip(there, here, strict=True):
        np.testing.assert_allclose(one["logprob"], other["logprob"], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(one["rank"], np.minimum(other["rank"], K))
        np.testing.assert_array_equal(one["start"], other["start"])
        np.testing.assert_array_equal(one["shown"], [K])


@pytest.mark.parametrize("signal", [MeanLoss(), MeanRank(top=K), MeanLogRank(top=3), RankHistogram(top=K)])
def test_signals_read_a_service_as_they_read_the_model(
    formats: Server, local: Model, known: tuple[Pool, Floats], tmp_path: Path, signal: MeanLoss
) -> None:
    service = asked(Service(Completions("m", formats.url), access="prompt", k=K), tmp_path)
    ask, pool = Runner(tmp_path), known[0]
    there, here = (signal.read(ask(model, signal.probe, pool.records), pool) for model in (service, local))
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-4)


def test_text_generation_tells_log_probabilities_and_no_ranks(
    formats: Server, local: Model, known: tuple[Pool, Floats], tmp_path: Path
) -> None:
    url = formats.url.removesuffix("/v1")
    service = asked(Service(TextGeneration("m", url), access="prompt"), tmp_path)
    ask, pool = Runner(tmp_path), known[0]
    there, here = (MeanLoss().read(ask(model, Tokens(), pool.records), pool) for model in (service, local))
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"shows \['logprob', 'start'\], and not 'rank'"):
        MeanRank().read(ask(service, Tokens(), pool.records), pool)


def test_members_are_found_by_their_loss_over_http(
    formats: Server, local: Model, known: tuple[Pool, Floats], tmp_path: Path
) -> None:
    service = asked(Service(Completions("m", formats.url), access="prompt"), tmp_path)
    report = audited(service, PAPERS["mean-loss"], known, tmp_path)
    assert auc(report) > 0.95
    expected = audited(local, PAPERS["mean-loss"], known, tmp_path)
    np.testing.assert_allclose(report.scores, expected.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["completions", "chat", "text generation"])
def test_ranks_come_position_by_position_from_the_likeliest_tokens(
    formats: Server, local: Model, known: tuple[Pool, Floats], tmp_path: Path, kind: str
) -> None:
    """Against the local model's ranks of the same words: all but the first, which nothing of a prompt is before."""
    endpoints: dict[str, Endpoint] = {
        "completions": Completions("m", formats.url),
        "chat": Chat("m", formats.url),
        "text generation": TextGeneration("m", formats.url.removesuffix("/v1")),
    }
    records = known[0].records.select(range(10))
    service = Service(endpoints[kind], access="top-k", k=K, positions=20)
    there = list(each(Runner(tmp_path)(asked(service, tmp_path), Tokens(), records)))
    here = list(each(Runner(tmp_path)(local, Tokens(), records)))
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one["rank"], np.minimum(other["rank"], K)[1:])
        assert "logprob" not in one


def test_members_are_found_by_a_real_servers_likeliest_tokens(
    listing: str, folder: Path, known: tuple[Pool, Floats], tmp_path: Path
) -> None:
    service = Service(Chat(str(folder), listing, instruction=""), access="top-k", k=5, positions=4)
    model = asked(service, tmp_path)
    report = audited(model, Threshold(MeanRank(top=5)), known, tmp_path)
    assert auc(report) > 0.9
    with pytest.raises(ValueError, match="top must be 1 to 5, for the model lists 5 words, but is None"):
        audited(model, PAPERS["mean-rank"], known, tmp_path)
    with pytest.raises(ValueError, match="not 'logprob'"):
        audited(model, PAPERS["mean-loss"], known, tmp_path)


@pytest.mark.parametrize("name", ["generation-chrf", "generation-bleu", "generation-rouge", "generation-edit"])
def test_members_are_found_by_a_real_servers_text(
    real: str, folder: Path, known: tuple[Pool, Floats], tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    cache = tmp_path_factory.getbasetemp() / "text-only"  # shared: four attacks pay for one set of answers
    model = asked(Service(Completions(str(folder), real)), cache)
    assert auc(audited(model, PAPERS[name], known, cache)) > 0.85


def test_a_real_servers_text_is_the_local_models(
    real: str, folder: Path, local: Model, known: tuple[Pool, Floats], tmp_path: Path
) -> None:
    records = known[0].records.select(range(30))
    there, here = (
        list(each(Runner(tmp_path)(model, Continuations(), records)))
        for model in (asked(Service(Completions(str(folder), real)), tmp_path), in_text(local))
    )
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one["texts"], other["texts"])


def test_a_real_server_draws_samples_that_differ(
    real: str, folder: Path, known: tuple[Pool, Floats], tmp_path: Path
) -> None:
    model = asked(Service(Completions(str(folder), real)), tmp_path)
    records = known[0].records.select(range(4))
    answers = each(Runner(tmp_path)(model, Continuations(samples=6, temperature=3.0), records))
    written = [bytes(np.maximum(row["texts"], 0).astype(np.uint8)).split(b"\0")[1:-1] for row in answers]
    assert all(len(samples) == 6 for samples in written)
    assert all(len(set(samples)) > 1 for samples in written)


def test_a_real_server_also_chats(real: str, folder: Path, known: tuple[Pool, Floats], tmp_path: Path) -> None:
    records = known[0].records.select(range(5))
    models = [
        asked(Service(e), tmp_path) for e in (Chat(str(folder), real, instruction=""), Completions(str(folder), real))
    ]
    chatted, completed = (list(each(Runner(tmp_path)(model, Continuations(), records))) for model in models)
    for one, other in zip(chatted, completed, strict=True):
        np.testing.assert_array_equal(one["texts"], other["texts"])


def test_what_a_real_server_lacks_is_said(real: str, folder: Path, known: tuple[Pool, Floats], tmp_path: Path) -> None:
    """`transformers serve` takes `echo` and `logprobs`, and leaves them unheeded."""
    for access, lacking in (("prompt", "without the prompt's log-prob"), ("top-k", "without the likeliest tokens")):
        model = asked(Service(Completions(str(folder), real), access=access), tmp_path)  # type: ignore[arg-type]
        with pytest.raises(Lacking, match=lacking):
            audited(model, PAPERS["mean-loss"], known, tmp_path)
    with pytest.raises(ValueError, match="shows text alone, and no log-probability"):
        audited(asked(Service(Completions(str(folder), real)), tmp_path), PAPERS["mean-loss"], known, tmp_path)
    with pytest.raises(Lacking, match="chat tells nothing of a prompt's tokens: set access"):
        Service(Chat("m", real), access="prompt")


def test_a_local_model_beside_a_service_shares_its_probe(
    formats: Server, local: Model, known: tuple[Pool, Floats], tmp_path: Path
) -> None:
    """AuditMI on samples: the target behind HTTP, the shadow here, which knows the other half of the users."""
    pool, member = known
    folder = memoriser(tmp_path / "shadow", pool, 1 - member)
    shadow = Game(in_text(language_model(folder)), pool, 1 - member, known=True)
    target = Game(asked(Service(Completions("m", formats.url)), tmp_path), pool, member)
    attack = change(PAPERS["auditmi-sampled"], {"signal": {"probe": {"samples": 4}, "signal": {"top": 4}}}, "attack")
    assert auc(audit(attack, target, [shadow], Runner(tmp_path))) > 0.85


def test_a_first_token_without_a_number_is_left_out() -> None:
    others = ((), (-1.0, -5.0), (-1.5, -2.0), (-1.0, -2.0))
    for opening in ("", "<s>"):
        found = told("abc d", Scored((opening, "ab", "c", " d"), (np.nan, -1.0, -2.0, -3.0), others), k=2)
        assert found.whole == {"shown": 2}
        assert [found.tokens[name].tolist() for name in ("start", "rank", "logprob")] == [
            [1, 0, 1],
            [0, 1, 2],
            [-1, -2, -3],
        ]
    found = told("abc d", Scored(("ab", "c", " d"), (np.nan, -2.0, -3.0), others[1:]), k=2)
    assert [found.tokens[name].tolist() for name in ("start", "rank")] == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("rest", "rank"),
    [("the cat", 1), ("then", 1), ("a", 2), ("dog", 3), ("x", 4), ("  ", 4)],
)
def test_the_true_token_is_the_longest_that_the_rest_begins_with(rest: str, rank: int) -> None:
    assert place(rest, {"Ġt": -5.0, " the": -2.0, "▁a": -3.0, "d": -4.0, "": -0.5, "\n": -9.0}, 4) == rank


def test_cuts_are_spread_evenly() -> None:
    assert cuts("one  two three", 9) == [("one", "two three"), ("one  two", "three")]
    assert [rest[0] for _, rest in cuts(" a b c d e f g h ", 3)] == ["b", "e", "h"]
    assert cuts("word", 3) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"access": "promt"}, r"access must be one of .* but is 'promt': did you mean 'prompt'"),
        ({"k": 0}, "k must be at least 1"),
        ({"positions": 0}, "positions must be at least 1"),
        ({"key": "sk-12345 secret"}, "name of an environment variable"),
    ],
)
def test_a_service_says_what_is_wrong_with_it(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(Service(Completions("m", "http://127.0.0.1:9/v1")), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", ["127.0.0.1/v1", "ftp://host/v1", "http://me:secret@host/v1", "https://host/v1?key=secret"]
)
def test_an_address_is_one_and_carries_no_secret(url: str) -> None:
    for kind in (Completions, Chat, TextGeneration):
        with pytest.raises(ValueError, match="url must") as caught:
            kind("m", url)
        assert "me:secret" not in str(caught.value) or "ftp" in url
