"""Calls to a service that fails: what is tried again, what ends the run, what is kept, and where the key is."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from serving import Fault, Request, Server, half, hangs, serving, status, text
from worlds import each

from hf_mia.core import Pool
from hf_mia.probes.continuations import Continuations
from hf_mia.probes.tokens import Tokens
from hf_mia.runner import Runner
from hf_mia.services.endpoints import NO_KEY, Chat, Completions, TextGeneration
from hf_mia.services.replies import Lacking
from hf_mia.services.service import Access, Service, service_model
from hf_mia.services.terms import Budget, BudgetSpent, Manners, ServiceError, seconds

KEY = "sk-planted-4f9a1c"
QUICK = Manners(pause=0.01, retries=3, timeout=0.3)
ONE = replace(QUICK, threads=1)
FREE = Budget()


def written(request: Request) -> object:
    """A continuation that names its prompt, and four tokens read and two written."""
    prompt = str(request.body.get("prompt", ""))
    return {"choices": [{"text": f" after {prompt}"}], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}


def echoed(request: Request) -> object:
    words = str(request.body["prompt"]).split()
    told = {"tokens": words, "token_logprobs": [None, *[-1.0] * (len(words) - 1)]}
    return {"choices": [{"text": "", "logprobs": told}], "usage": {"prompt_tokens": len(words)}}


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server(written)) as running:
        yield running


def ask(
    server: Server,
    pool: Pool,
    cache: Path,
    count: int = 12,
    manners: Manners = QUICK,
    budget: Budget = FREE,
    key: str | None = None,
    access: Access = "text",
) -> list[bytes]:
    """What a service says of some texts, as bytes."""
    service = Service(Completions("m", server.url), access=access, key=key, manners=manners, budget=budget)
    probe = Continuations() if access == "text" else Tokens()
    answers = Runner(cache)(service_model(service, cache), probe, pool.records.select(range(count)))
    return [next(iter(row.values())).tobytes() for row in each(answers)]


PASSING: dict[str, Fault] = {
    "500": status(500),
    "503, no JSON": status(503, "<html>busy</html>"),
    "429": status(429, Retry_After="0"),
    "hangs": hangs,
    "half an answer": half,
    "malformed": text('{"choices": [{"text": "w0'),
    "not an object": text("[1, 2]"),
    "no choices": text('{"choices": []}'),
    "another form": text('{"choices": [{"message": 3}]}'),
    "null": text("null"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_failure_that_may_pass_is_tried_again(server: Server, small_pool: Pool, tmp_path: Path, fault: Fault) -> None:
    expected = ask(server, small_pool, tmp_path / "well", 3, ONE)
    server.requests.clear()
    server.faults += [fault, fault]
    assert ask(server, small_pool, tmp_path / "ill", 3, ONE) == expected
    assert len(server.requests) == 5
    assert server.requests[0].body == server.requests[2].body


def test_queries_and_tokens_are_counted(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    """Two refusals, three replies that are paid for, then the same three and one more; a reply that tells no tokens."""
    service = Service(Completions("m", server.url), manners=ONE)

    def tally(count: int) -> dict[str, object]:
        model = service_model(service, tmp_path / "replies")
        runner = Runner(tmp_path / f"{len(server.requests)}")
        list(runner(model, Continuations(), small_pool.records.select(range(count))))
        return model.load().line.tally.to_dict(None)  # type: ignore[operator, return-value, union-attr]

    server.faults += [status(503), half]
    first, second = tally(3), tally(4)
    n = service.queries(Continuations(), small_pool.records["text"][:3])
    more = service.queries(Continuations(), small_pool.records["text"][:4]) - n
    tokens = {"prompt_tokens": 4 * n, "written_tokens": 2 * n}
    assert first == {"sent": n + 2, "refused": 2, "from_cache": 0, **tokens, "cost": None}
    assert (second["sent"], second["from_cache"], second["prompt_tokens"]) == (more, n, 4 * more)
    assert len(server.requests) == n + 2 + more
    server.faults += [text('{"choices": [{"text": "w001"}]}')]
    assert tally(5)["prompt_tokens"] is None


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_failure_that_stays_ends_in_one_line(server: Server, small_pool: Pool, tmp_path: Path, fault: Fault) -> None:
    server.faults += [fault] * 2
    with pytest.raises(ServiceError, match=r"m did not answer 2 times, at last for: .* run again") as caught:
        ask(server, small_pool, tmp_path, 3, replace(ONE, retries=1))
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 2


def prompt(logprobs: list[float | None], tokens: int = 2, **more: object) -> Fault:
    told = {"tokens": ["a", "b"], "token_logprobs": logprobs, **more}
    return text(json.dumps({"choices": [{"text": "", "logprobs": told}], "usage": {"prompt_tokens": tokens}}))


INCOMPLETE = {
    "fewer tokens": prompt([None, -1.0], tokens=9),
    "NaN": prompt([None, float("nan")]),
    "null": prompt([None, None]),
    "fewer lists": prompt([None, -1.0], top_logprobs=[None]),
}


@pytest.mark.parametrize("fault", INCOMPLETE.values(), ids=INCOMPLETE)
def test_an_incomplete_answer_is_asked_for_again(small_pool: Pool, tmp_path: Path, fault: Fault) -> None:
    with serving(Server(echoed, [fault])) as server:
        assert len(ask(server, small_pool, tmp_path, 3, ONE, access="prompt")) == 3
        assert len(server.requests) == 4
        server.faults += [fault] * 4
        with pytest.raises(ServiceError, match="a reply that cannot be read"):
            ask(server, small_pool, tmp_path / "again", 3, ONE, access="prompt")


def test_retry_after_is_waited_for_by_all(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    server.faults.append(status(429, Retry_After="1"))
    ask(server, small_pool, tmp_path, 2, ONE)
    first, second, *_ = (request.at for request in server.requests)
    assert second - first >= 1.0


def test_a_service_that_asks_for_too_much_patience_is_left(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    server.faults.append(status(429, Retry_After="3600"))
    with pytest.raises(ServiceError, match=r"asks to wait for 3600 seconds, and manners.patience is 300"):
        ask(server, small_pool, tmp_path, 2, ONE)
    assert len(server.requests) == 1


def test_retry_after_is_seconds_or_a_date() -> None:
    assert [seconds(said) for said in (None, "7", "-3", "1.5", "soon", "Thu, 01 Jan 1970 00:00:00 GMT")] == [
        None,
        7.0,
        0.0,
        1.5,
        None,
        0.0,
    ]
    later = seconds("Fri, 31 Dec 2999 23:59:59 GMT")
    assert later is not None
    assert later > 1e9


def test_calls_keep_to_the_rate(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    begin = time.monotonic()
    ask(server, small_pool, tmp_path, 9, replace(QUICK, rate=20.0))
    arrivals = sorted(request.at for request in server.requests)
    assert all(at - begin >= i / 20 for i, at in enumerate(arrivals))


@pytest.mark.parametrize("code", [400, 404, 422])
def test_a_refused_question_is_not_asked_again(server: Server, small_pool: Pool, tmp_path: Path, code: int) -> None:
    server.faults.append(status(code, '{"error": "no such model"}'))
    with pytest.raises(ServiceError, match=rf"m refuses the question \({code}\): .*no such model"):
        ask(server, small_pool, tmp_path, 3, ONE)
    assert len(server.requests) == 1


@pytest.mark.parametrize("threads", [1, 4])
def test_a_spent_budget_stops_cleanly_and_keeps_what_was_paid_for(
    server: Server, small_pool: Pool, tmp_path: Path, threads: int
) -> None:
    expected = ask(server, small_pool, tmp_path / "whole")
    server.requests.clear()
    manners = replace(QUICK, threads=threads)
    with pytest.raises(BudgetSpent, match=r"budget.queries = 5 is spent on m, after 5 queries .* run again to go on"):
        ask(server, small_pool, tmp_path / "cut", manners=manners, budget=Budget(queries=5))
    assert len(server.requests) == 5
    assert len(list((tmp_path / "cut" / "replies").rglob("*.json"))) == 5
    assert not list((tmp_path / "cut").rglob("*.tmp"))
    assert ask(server, small_pool, tmp_path / "cut", manners=manners, budget=Budget(queries=7)) == expected
    assert len(server.requests) == 12
    assert ask(server, small_pool, tmp_path / "cut", budget=Budget(queries=0)) == expected  # all is known


def test_a_budget_of_nothing_sends_nothing(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(BudgetSpent, match=r"budget.queries = 0 is spent on m, after 0 queries"):
        ask(server, small_pool, tmp_path, budget=Budget(queries=0))
    with pytest.raises(BudgetSpent, match=r"budget.cost = 0 is spent"):
        ask(server, small_pool, tmp_path, budget=Budget(cost=0.0, prompt_price=1.0))
    assert not server.requests


def test_retries_count_as_queries(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    server.faults += [status(500)] * 2
    with pytest.raises(BudgetSpent):
        ask(server, small_pool, tmp_path, 3, ONE, budget=Budget(queries=4))
    assert len(server.requests) == 4


def test_cost_is_counted_by_prices_for_a_million_tokens(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    """Four tokens read at 1,000 and two written at 500,000: 1.004 a query, so the fourth passes 4."""
    budget = Budget(cost=4.0, prompt_price=1_000.0, written_price=500_000.0)
    with pytest.raises(BudgetSpent, match=r"budget.cost = 4 is spent on m, after 4 queries that cost 4\.016"):
        ask(server, small_pool, tmp_path, manners=ONE, budget=budget)
    assert len(server.requests) == 4


def test_cost_cannot_be_kept_where_no_tokens_are_counted(small_pool: Pool, tmp_path: Path) -> None:
    with serving(Server(lambda request: {"choices": [{"text": "w001"}]})) as server:
        with pytest.raises(ServiceError, match="does not tell how many tokens it counts"):
            ask(server, small_pool, tmp_path, manners=ONE, budget=Budget(cost=1.0, prompt_price=1.0))
        assert len(list((tmp_path / "replies").rglob("*.json"))) == len(server.requests) == 1


def test_a_damaged_reply_is_asked_for_again(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    expected = ask(server, small_pool, tmp_path / "whole")
    server.requests.clear()
    with pytest.raises(BudgetSpent):
        ask(server, small_pool, tmp_path / "cut", manners=ONE, budget=Budget(queries=6))
    kept = sorted((tmp_path / "cut" / "replies").rglob("*.json"))
    kept[0].write_text('{"choices": [{"te')  # as after a crash of the disk
    assert ask(server, small_pool, tmp_path / "cut", manners=ONE) == expected
    assert len(server.requests) == 6 + 1 + 6


def test_equal_questions_are_asked_once(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    records = small_pool.records.select([0, 1, 0, 1, 1])
    model = service_model(Service(Completions("m", server.url), manners=QUICK), tmp_path)
    answers = [row["texts"].tobytes() for row in each(Runner(tmp_path)(model, Continuations(), records))]
    assert len(server.requests) == len(set(answers)) == 2
    assert answers[0] == answers[2] != answers[1] == answers[3] == answers[4]


def test_another_question_service_or_version_is_asked_anew(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    records, service = small_pool.records.select([0]), Service(Completions("m", server.url), manners=QUICK)
    others = [replace(service, endpoint=Completions("n", server.url)), replace(service, version="2026-01")]
    for one in (service, service, *others):
        for probe in (Continuations(), Continuations(share=0.2)):
            list(Runner(tmp_path)(service_model(one, tmp_path), probe, records))
    assert len(server.requests) == 6


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_is_named_and_not_shown(
    server: Server, small_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server.faults += [status(code, f'{{"error": "Bearer {KEY} is unknown"}}')]
    with pytest.raises(ServiceError, match=rf"m refuses the key in MY_KEY \({code}\): .*Bearer \*\*\* is unknown"):
        ask(server, small_pool, tmp_path, 3, ONE, key="MY_KEY")
    assert [request.authorization for request in server.requests] == [f"Bearer {KEY}"]


def test_the_key_is_nowhere(
    small_pool: Pool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With a service that repeats it in every reply and error: not in files, logs, output, errors, reprs or locals."""
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)

    def repeats(request: Request) -> object:
        return {"choices": [{"text": f" {request.authorization}"}], "you": request.authorization}

    said = []
    faults = [
        status(500, f'{{"error": "{KEY}"}}'),
        text(f'{{"choices": "{KEY}"}}'),
        status(404, KEY),
    ]
    with serving(Server(repeats)) as server:
        service = Service(Completions("m", server.url), key="MY_KEY", manners=ONE)
        ask(server, small_pool, tmp_path, 3, ONE, key="MY_KEY")
        assert {request.authorization for request in server.requests} == {f"Bearer {KEY}"}
        for fault in faults:
            server.faults += [fault] * 4
            with pytest.raises(ServiceError) as caught:
                ask(server, small_pool, tmp_path / "other", 3, ONE, key="MY_KEY")
            server.faults.clear()
            said.append(str(caught.value))
            trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            said += [str(frame.locals) for frame in trace.stack if "/hf_mia/" in frame.filename]
    assert any("***" in line for line in said)
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(stored) >= 4
    for path in stored:
        assert KEY.encode() not in path.read_bytes()
        assert KEY not in str(path)
    output = capfd.readouterr()
    for seen in (*said, caplog.text, output.out, output.err, repr(service), repr(service_model(service, tmp_path))):
        assert KEY not in seen


def test_a_key_that_is_not_set_is_said_before_anything_is_sent(
    server: Server, small_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(
        ServiceError, match="the environment variable MY_KEY should hold the service's key, but is empty"
    ):
        ask(server, small_pool, tmp_path, key="MY_KEY")
    assert not server.requests


def test_the_users_own_token_goes_to_no_stranger(
    server: Server, small_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub sends the token that a user is logged in with to any address, unless it is given another."""
    monkeypatch.setenv("HF_TOKEN", "hf_own")
    for endpoint in (Completions("m", server.url), Chat("m", server.url), TextGeneration("m", server.url)):
        model = service_model(Service(endpoint, manners=replace(ONE, retries=0)), tmp_path)
        with suppress(ServiceError):  # completions are no answer to the others
            list(Runner(tmp_path)(model, Continuations(), small_pool.records.select([0])))
    assert len(server.requests) == 3
    assert {request.authorization for request in server.requests} <= {None, f"Bearer {NO_KEY}"}


def test_offline_mode_is_said(
    small_pool: Pool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ServiceError, match=r"m cannot be asked: .*offline mode"):
        ask(server, small_pool, tmp_path, 1, ONE)
    assert not server.requests


def test_a_service_that_is_not_there_is_said(small_pool: Pool, server: Server, tmp_path: Path) -> None:
    away = replace(server, url="http://127.0.0.1:9/v1")
    with pytest.raises(ServiceError, match="m did not answer 4 times, at last for: ConnectError"):
        ask(away, small_pool, tmp_path, 1, ONE)


def test_lacking_is_not_asked_again(server: Server, small_pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(Lacking, match="m: completions come without the prompt's log-probabilities"):
        ask(server, small_pool, tmp_path, 3, ONE, access="prompt")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Budget(queries=-1), "budget.queries must be 0 or more, but is -1"),
        (lambda: Budget(cost=1.0), "budget.cost is counted by prices .* set budget.prompt_price"),
        (lambda: Manners(threads=0), "manners.threads must be at least 1, but is 0"),
        (lambda: Manners(rate=0.0), "manners.rate must be above 0, but is 0.0"),
        (lambda: Manners(timeout=-1.0), "manners.timeout must be above 0, but is -1.0"),
    ],
)
def test_terms_say_what_is_wrong_with_them(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()  # type: ignore[operator]
