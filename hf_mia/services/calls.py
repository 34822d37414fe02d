"""Putting questions to a service: retries, rate, budget, and every reply kept the moment it is paid for."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr

from hf_mia.progress import bar
from hf_mia.services.endpoints import Endpoint, Question
from hf_mia.services.replies import Lacking, Reply, usage
from hf_mia.services.tally import Tally
from hf_mia.services.terms import Budget, BudgetSpent, Manners, ServiceError, seconds
from hf_mia.storage.keys import WAY_OUT, content_key
from hf_mia.storage.leftovers import writing

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)
T = TypeVar("T")
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # statuses that may be gone when asked again
SHOWN = 400  # characters of a service's message that an error shows


class _Again(Exception):
    """A failure that may be gone when asked again, `after` so many seconds if the service says so."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Line:
    """A line to one endpoint, for all who ask it in this process: they share its rate, its budget and its replies.

    Replies lie in the cache under `name`, one file a question, written whole or not at all; the key of the service is
    read from the environment variable `key` when it is needed, and is struck out of whatever the service says.
    """

    def __init__(
        self, endpoint: Endpoint, key: str | None, budget: Budget, manners: Manners, cache: Path, name: str
    ) -> None:
        self.endpoint, self.key, self.budget, self.manners = endpoint, key, budget, manners
        self.cache, self.folder = cache, cache / "replies" / name
        self.cost, self.tally = 0.0, Tally()
        self._next, self._lock, self._stop = 0.0, Lock(), Event()
        self._cause: BaseException | None = None

    def ask(self, questions: Sequence[Question[T]]) -> list[T]:
        """The answers to questions, in their order; equal questions are asked once.

        Raises `BudgetSpent`, `ServiceError` or `Lacking`, after all calls under way have ended and are kept.
        """
        keys = [content_key([json.dumps(question.parameters, sort_keys=True)]) for question in questions]
        unique = dict(zip(keys, questions, strict=True))
        found: dict[str, T] = {}
        self._stop, self._cause = Event(), None
        with (
            writing(self.cache) as writer,
            ThreadPoolExecutor(self.manners.threads) as pool,
            bar(f"asking {self.endpoint.model}", 1) as progress,
        ):
            asked = {pool.submit(self._answer, key, question, writer): key for key, question in unique.items()}
            try:
                for done, future in enumerate(as_completed(asked), 1):
                    found[asked[future]] = future.result()
                    progress(done, len(asked), f"{self.tally.sent} queries")
            except BaseException as error:
                self._fail(error)
                pool.shutdown(cancel_futures=True)
                raise self._cause or error from None
        return [found[key] for key in keys]

    def _answer(self, key: str, question: Question[T], writer: str) -> T:
        path = self.folder / key[:2] / f"{key}.json"
        if path.exists():
            try:
                return self.tally.found(question.read(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError) as error:
                logger.warning("reply %s is damaged, and is asked for again: %s", path.name, error)
        try:
            return self._called(question, path, writer)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """What failed first is the cause, and from then on nothing is sent."""
        with self._lock:
            self._cause = self._cause or error
        self._stop.set()

    def _called(self, question: Question[T], path: Path, writer: str) -> T:
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
        from tenacity.nap import sleep_using_event

        growing = wait_exponential_jitter(self.manners.pause, 60.0, jitter=self.manners.pause / 2)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            after = error.after if isinstance(error, _Again) else None
            return growing(state) if after is None else after

        retrying = Retrying(
            stop=stop_after_attempt(1 + self.manners.retries),
            wait=wait,
            retry=retry_if_exception_type(_Again),
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )
        try:
            answer: T = retrying(self._once, question, path, writer)
            return answer
        except _Again as error:
            raise ServiceError(
                f"{self.endpoint.model} did not answer {1 + self.manners.retries} times, at last for: {error}. What "
                "was answered is kept: run again, later or with more manners.retries."
            ) from None

    def _once(self, question: Question[T], path: Path, writer: str) -> T:
        """One call, its reply read and kept."""
        self._wait()
        self._spend()
        secret = self._secret()
        reply = self._sent(question, secret)
        try:
            answer = question.read(reply)
        except Lacking as error:
            raise Lacking(f"{self.endpoint.model}: {_clean(error, secret)}") from None
        except ValueError as error:
            raise _Again(f"a reply that cannot be read ({_clean(error, secret)})") from None
        _write(json.dumps(reply), path, writer)
        self.tally.paid(reply)
        self._pay(reply)
        return answer

    def _sent(self, question: Question[T], secret: SecretStr | None) -> Reply:
        """A reply without the key, wherever the service repeats it; failures as `_Again` or `ServiceError`."""
        from huggingface_hub.errors import (  # type: ignore[attr-defined, unused-ignore]
            HTTPError,  # httpx's or httpx2's, as the installed version has it
            OfflineModeIsEnabled,
        )

        try:
            reply = self.endpoint.send(question.parameters, secret, self.manners.timeout)
        except OfflineModeIsEnabled as error:
            raise ServiceError(f"{self.endpoint.model} cannot be asked: {error}") from None
        except HTTPError as error:
            raise self._failure(error, secret) from None
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:  # what parsing may raise
            raise _Again(f"a reply that cannot be read ({type(error).__name__} {_clean(error, secret)})") from None
        return json.loads(_clean(json.dumps(reply), secret, None))  # type: ignore[no-any-return]

    def _failure(self, error: Exception, secret: SecretStr | None) -> Exception:
        """What a failure of the transport is to who asked; nothing that could hold the key is left in its frames."""
        from huggingface_hub.errors import HfHubHTTPError

        cause = error if isinstance(error, HfHubHTTPError) else error.__cause__
        if isinstance(cause, HfHubHTTPError):
            return self._refused(cause, secret)
        return _Again(f"{type(error).__name__} {_clean(error, secret)}".strip())

    def _refused(self, error: HfHubHTTPError, secret: SecretStr | None) -> Exception:
        status, said = error.response.status_code, _clean(error, secret)
        if status in (401, 403):
            source = f"the key in {self.key}" if self.key else "a call without a key (name its variable as `key`)"
            return ServiceError(f"{self.endpoint.model} refuses {source} ({status}): {said}")
        after = seconds(error.response.headers.get("retry-after"))
        if status not in PASSING:
            return ServiceError(f"{self.endpoint.model} refuses the question ({status}): {said}")
        if after is not None and after > self.manners.patience:
            return ServiceError(
                f"{self.endpoint.model} asks to wait for {after:.0f} seconds, and manners.patience is "
                f"{self.manners.patience:.0f}. What was answered is kept: run again later."
            )
        with self._lock:
            self._next = max(self._next, monotonic() + (after or 0.0))  # for all who call
        return _Again(f"status {status}: {said}", after)

    def _secret(self) -> SecretStr | None:
        if self.key is None:
            return None
        value = os.environ.get(self.key, "").strip()
        if not value:
            raise ServiceError(
                f"the environment variable {self.key} should hold the service's key, but is empty: set it."
            )
        return SecretStr(value)

    def _wait(self) -> None:
        """Until this call's turn; nothing is sent any more once another call has failed for good."""
        with self._lock:
            turn = max(monotonic(), self._next)
            self._next = turn + (1 / self.manners.rate if self.manners.rate is not None else 0.0)
        if self._stop.wait(max(0.0, turn - monotonic())):
            raise ServiceError("stopped, for another call failed.")

    def _spend(self) -> None:
        most = self.budget.queries, self.budget.cost
        with self._lock:
            if most[0] is not None and self.tally.sent >= most[0]:
                raise BudgetSpent(self._told(f"budget.queries = {most[0]}"))
            if most[1] is not None and self.cost >= most[1]:
                raise BudgetSpent(self._told(f"budget.cost = {most[1]:g}"))
            self.tally.sent += 1

    def _told(self, limit: str) -> str:
        return (
            f"{limit} is spent on {self.endpoint.model}, after {self.tally.sent} queries that cost {self.cost:g} in "
            f"this run. What was answered is kept in {self.folder}, and is not asked again: run again to go on, or "
            "raise the budget first."
        )

    def _pay(self, reply: Reply) -> None:
        if self.budget.cost is None:
            return
        counted = usage(reply)
        if counted is None:
            raise ServiceError(
                f"{self.endpoint.model} does not tell how many tokens it counts, so budget.cost cannot be kept: set "
                "budget.queries in its place."
            )
        prices = self.budget.prompt_price, self.budget.written_price
        with self._lock:
            self.cost += (counted.prompt_tokens * prices[0] + counted.completion_tokens * prices[1]) / 1e6


def _clean(said: object, secret: SecretStr | None, most: int | None = SHOWN) -> str:
    """What a service says, without the key, on one line if it is shown to a person."""
    text = str(said)
    if secret is not None:
        text = text.replace(secret.get_secret_value(), "***")
    return text if most is None else " ".join(text.split())[:most]


def _write(text: str, path: Path, writer: str) -> None:
    """Write under another name, flush to the disk, rename: a reply is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{writer}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot keep a reply ({error.strerror}): {WAY_OUT}", str(path.parent)) from error
    finally:
        temporary.unlink(missing_ok=True)
