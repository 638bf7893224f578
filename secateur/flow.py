"""Conversations with the service, written once.

An operation is a generator, a *flow*: it yields commands (send this, wait so long) and receives
their outcomes. `Client` performs the commands with blocking calls, `AsyncClient` with awaited ones;
all else, retries too, is here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from secateur.errors import ApiError, ConnectionFailed, InvalidIdentifier

T = TypeVar("T")
A = TypeVar("A", bound=BaseModel)
BUSY = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class Request:
    """One HTTP request; `file` is streamed from disk as the multipart part `file`, after the fields
    of `form`.
    """

    method: str
    path: str
    params: Mapping[str, str | int | list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    retry: Literal["always", "unsent", "never"] = "always"
    """`unsent`: only where the service cannot have acted on it."""
    timeout_s: float | None = None


@dataclass(frozen=True)
class Reply:
    """Status, headers and, unless the answer is streamed, the body."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""

    def json(self) -> Any:
        """Return the body as JSON; raises `ApiError` when it is something else."""
        try:
            return json.loads(self.content)
        except ValueError:
            raise _unreadable_answer("not JSON") from None

    def parse(self, answer: type[A]) -> A:
        """Return the body as one of the documents of `wire`."""
        return decode(answer, self.json())


def decode(answer: type[A], document: Any) -> A:
    """Return a document of `wire` from JSON; raises `ApiError` when it is something else."""
    try:
        return answer.model_validate(document, extra="allow")  # of a newer service
    except ValidationError as error:
        raise _unreadable_answer(f"not a {answer.__name__}: {error}") from None


def _unreadable_answer(problem: str) -> ApiError:
    return ApiError(
        200,
        code="unreadable_answer",
        title="Unreadable answer",
        detail=f"the answer is {problem}; is this the address of a secateur service?",
    )


@dataclass(frozen=True)
class Policy:
    """The retries of a client: delays of `base_s` doubling up to `cap_s`, with jitter."""

    retries: int = 4
    base_s: float = 0.5
    cap_s: float = 8.0
    longest_retry_after_s: float = 60.0

    def delay_s(self, attempt: int) -> float:
        """Return the pause after failed attempt number `attempt`, counted from 0."""
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt, 30)) * random.uniform(0.5, 1.0)


class ConnectionBroken(Exception):  # noqa: N818 (a signal from client to flow)
    """A request got no whole answer; `sent` is false where it never left, `lasting` where trying
    again cannot help.
    """

    def __init__(self, message: str, *, sent: bool = True, lasting: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.lasting = lasting


@dataclass(frozen=True)
class Send:
    """Perform the request and read the whole answer; outcome: `Reply`."""

    request: Request


@dataclass(frozen=True)
class Open:
    """Perform the request and leave the body to `Read`, unless it is an error; outcome: `Reply`."""

    request: Request


@dataclass(frozen=True)
class Read:
    """Read on; outcome: the next bytes of the opened answer, `None` at its end."""


@dataclass(frozen=True)
class Sleep:
    """Wait for some seconds; outcome: nothing."""

    seconds: float


@dataclass(frozen=True)
class Digest:
    """Hash a file; outcome: its SHA-256, in hex."""

    path: Path


@dataclass(frozen=True)
class Pack:
    """Pack a folder into a zip in a temporary folder of its own; outcome: the path of the zip."""

    folder: Path
    kind: Literal["dataset", "model"] = "dataset"
    """Which files are packed: all of a dataset, those that the service reads of a model."""


@dataclass(frozen=True)
class AskPolicy:
    """Ask how to retry; outcome: the client's `Policy`."""


@dataclass(frozen=True)
class Emit(Generic[T]):
    """Hand an item to the caller who iterates."""

    item: T


Command = Send | Open | Read | Sleep | Digest | Pack | AskPolicy
Flow = Generator[Command, Any, T]
Stream = Generator[Command | Emit[T], Any, None]


@dataclass(frozen=True)
class Returned(Generic[T]):
    """The result of a flow that is done."""

    value: T


def advance(flow: Stream[Any] | Flow[Any], outcome: Any) -> Any:
    """Give a flow the outcome of its last command; returns the next one, or `Returned` at the
    end.
    """
    try:
        return flow.throw(outcome) if isinstance(outcome, ConnectionBroken) else flow.send(outcome)
    except StopIteration as stop:
        return Returned(stop.value)


def route(*segments: str) -> str:
    """Return an absolute path; raises `InvalidIdentifier` for a segment such as `..`."""
    for segment in segments:
        if segment in ("", ".", ".."):
            raise InvalidIdentifier(f"not an identifier: {segment!r}")
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def retrying(request: Request, attempt: Callable[[], Flow[T]]) -> Flow[T]:
    """Return the result of `attempt`, repeated as the client's policy and the request allow."""
    policy: Policy = yield AskPolicy()
    for number in count():
        last = number >= policy.retries or request.retry == "never"
        try:
            return (yield from attempt())
        except ConnectionBroken as broken:
            if last or broken.lasting or (broken.sent and request.retry != "always"):
                tries = f" ({number + 1} attempts)" if number else ""
                raise ConnectionFailed(f"{broken}{tries}") from broken
            delay_s = policy.delay_s(number)
        except ApiError as error:
            busy = error.status in BUSY if request.retry == "always" else error.status == 429
            delay_s = policy.delay_s(number) if error.retry_after_s is None else error.retry_after_s
            if last or not busy or delay_s > policy.longest_retry_after_s:
                raise
        yield Sleep(delay_s)
    raise AssertionError("unreachable")


def exchange(request: Request) -> Flow[Reply]:
    """Send a request once; raises `ApiError` for a refusal, `ConnectionBroken` for a broken
    connection.
    """
    reply: Reply = yield Send(request)
    if reply.status >= 400:
        raise ApiError.from_answer(reply.status, reply.headers, reply.content)
    return reply


def opened(request: Request) -> Flow[Reply]:
    """Send a request once, like `exchange`, and leave the body to be read."""
    reply: Reply = yield Open(request)
    if reply.status >= 400:
        raise ApiError.from_answer(reply.status, reply.headers, reply.content)
    return reply


def call(request: Request) -> Flow[Reply]:
    """Return the answer to a request, retried as the policy allows."""
    return (yield from retrying(request, lambda: exchange(request)))
