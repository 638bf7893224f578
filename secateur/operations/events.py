"""A job's events as they happen, over cut connections and server restarts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from secateur.errors import ApiError, ConnectionFailed, WaitTimeout
from secateur.flow import (
    BUSY,
    AskPolicy,
    Broken,
    Command,
    Emit,
    Policy,
    Read,
    Request,
    Sleep,
    Stream,
    decode,
    exchange,
    opened,
    route,
)
from secateur.wire import Answer, Event, Job

SILENCE_S = 45.0
"""The service sends a heartbeat every 15 s; three missed ones mean that the connection is dead."""


class Rows(Answer):
    """One answer of the polled form."""

    data: tuple[Event, ...] = ()
    has_more: bool = False


class SseDecoder:
    """Server-sent events from bytes as they arrive; comments and unknown fields are skipped.

    >>> decoder = SseDecoder()
    >>> (
    ...     decoder.feed(b": heartbeat\\n\\nevent: stage\\nid: 4\\nda"),
    ...     decoder.feed(b'ta: {"seq": 4}\\r\\n\\r\\n'),
    ... )
    ([], [{'seq': 4}])
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Any]:
        """The `data` of every event that these bytes complete, read as JSON."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        complete = []
        for line in lines:
            name, _, value = line.removesuffix(b"\r").decode().partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            elif not name and not value and self._data:
                complete.append(json.loads("\n".join(self._data)))
                self._data.clear()
        return complete


@dataclass
class _Place:
    """Where in the history the reader stands."""

    where: str
    seen: int
    alive: bool = False
    """Whether the service answered since the last look."""
    hurry: bool = False
    """Whether more rows are known to wait."""

    def new(self, rows: Iterable[Event]) -> Iterator[Event]:
        for event in rows:
            if event.seq > self.seen:
                self.seen = event.seq
                yield event


def follow(
    job_id: str,
    *,
    after: int = 0,
    timeout_s: float | None = None,
    reconnects: int = 10,
    interval_s: float = 1.0,
) -> Stream[Event]:
    """Every event past `after` until the job ends, as it happens.

    A cut connection is resumed behind the last row seen; more than `reconnects` failures in a row
    raise `ConnectionFailed`. Where the service does not stream, it is polled every `interval_s`,
    and so it is shortly before the end of `timeout_s`, when `WaitTimeout` is raised.
    """
    policy: Policy = yield AskPolicy()
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    place, failures, streams = _Place(route("v1", "jobs", job_id, "events"), after), 0, True
    while True:
        place.alive, place.hurry, trouble = False, False, "the stream ends at once"
        try:
            if streams and deadline - time.monotonic() > SILENCE_S:
                streams = yield from _stream(place, deadline)
            else:
                yield from _poll(place)
            if (
                (yield from exchange(Request(method="GET", path=route("v1", "jobs", job_id))))
                .parse(Job)
                .terminal
            ):
                place.hurry = True
                while place.hurry:
                    yield from _poll(place)
                return
        except (Broken, ApiError) as error:
            if isinstance(error, ApiError) and error.status not in BUSY:
                raise
            trouble = str(error)
        failures = 0 if place.alive else failures + 1
        if failures > reconnects:
            raise ConnectionFailed(
                f"lost the events of {job_id}, {failures} times in a row: {trouble}"
            )
        remaining = deadline - time.monotonic()
        if timeout_s is not None and remaining <= 0:
            raise WaitTimeout(job_id, timeout_s)
        if failures or not place.hurry:
            yield Sleep(min(policy.delay_s(failures - 1) if failures else interval_s, remaining))


def _stream(place: _Place, deadline: float) -> Generator[Command | Emit[Event], Any, bool]:
    """Read the stream until it ends, reports the end of the job or nears the deadline; false where
    there is none.
    """
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if place.seen:
        headers["Last-Event-ID"] = str(place.seen)
    params = {"after": place.seen} if place.seen else {}
    try:
        reply = yield from opened(
            Request(
                method="GET", path=place.where, params=params, headers=headers, timeout_s=SILENCE_S
            )
        )
    except ApiError as error:
        if error.status != 406:
            raise
        streaming = False
    else:
        streaming = reply.headers.get("content-type", "").startswith("text/event-stream")
    if not streaming:
        place.alive = place.hurry = True
        return False
    decoder = SseDecoder()
    while (chunk := (yield Read())) is not None:
        place.alive = True
        for event in place.new(decode(Event, row) for row in decoder.feed(chunk)):
            yield Emit(event)
            if event.terminal:
                return True
        if deadline - time.monotonic() < SILENCE_S:
            break
    return True


def _poll(place: _Place) -> Stream[Event]:
    """Fetch the next rows."""
    request = Request(
        method="GET",
        path=place.where,
        params={"after": place.seen},
        headers={"Accept": "application/json"},
    )
    rows = (yield from exchange(request)).parse(Rows)
    place.alive, place.hurry = True, rows.has_more
    for event in place.new(rows.data):
        yield Emit(event)
