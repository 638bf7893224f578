"""A job's events as they happen, over cut connections and server restarts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from secateur.answers import Answer
from secateur.errors import ApiError, ConnectionFailed, WaitTimeout
from secateur.flow import (
    BUSY,
    AskPolicy,
    Command,
    ConnectionBroken,
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
from secateur.wire import Event, Job

SILENCE_S = 45.0
"""The service sends a heartbeat every 15 s; three missed ones mean that the connection is dead."""


class Rows(Answer):
    """An answer of the polled form."""

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
        """Return the `data` of every event that these bytes complete, read as JSON."""
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
    """The reader's place in the history of a job."""

    path: str
    last_seq: int
    """The number of the last row that was read."""
    alive: bool = False
    """Whether the service answered since the last look."""
    has_more: bool = False
    """Whether more rows are known to wait."""

    def take_new(self, rows: Iterable[Event]) -> Iterator[Event]:
        for event in rows:
            if event.seq > self.last_seq:
                self.last_seq = event.seq
                yield event


def follow(
    job_id: str,
    *,
    after: int = 0,
    timeout_s: float | None = None,
    reconnects: int = 10,
    interval_s: float = 1.0,
) -> Stream[Event]:
    """Yield every event past `after` until the job ends, as it happens.

    A cut connection is resumed behind the last row seen; more than `reconnects` failures in a row
    raise `ConnectionFailed`. Where the service does not stream, it is polled every `interval_s`,
    and so it is shortly before the end of `timeout_s`, when `WaitTimeout` is raised.
    """
    policy: Policy = yield AskPolicy()
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    place = _Place(path=route("v1", "jobs", job_id, "events"), last_seq=after)
    job_request = Request(method="GET", path=route("v1", "jobs", job_id))
    failures = 0
    streams = True
    while True:
        place.alive = False
        place.has_more = False
        trouble = "the stream ends at once"
        try:
            if streams and deadline - time.monotonic() > SILENCE_S:
                streams = yield from _stream(place, deadline)
            else:
                yield from _poll(place)
            job = (yield from exchange(job_request)).parse(Job)
            if job.terminal:
                # rows may have been written between the last look and the end: read them all
                place.has_more = True
                while place.has_more:
                    yield from _poll(place)
                return
        except (ConnectionBroken, ApiError) as error:
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
        if failures or not place.has_more:
            yield Sleep(min(policy.delay_s(failures - 1) if failures else interval_s, remaining))


def _stream(place: _Place, deadline: float) -> Generator[Command | Emit[Event], Any, bool]:
    """Read the stream until it ends, reports the end of the job or nears the deadline; false where
    there is none.
    """
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if place.last_seq:
        headers["Last-Event-ID"] = str(place.last_seq)
    params = {"after": place.last_seq} if place.last_seq else {}
    try:
        reply = yield from opened(
            Request(
                method="GET", path=place.path, params=params, headers=headers, timeout_s=SILENCE_S
            )
        )
    except ApiError as error:
        if error.status != 406:
            raise
        streaming = False
    else:
        streaming = reply.headers.get("content-type", "").startswith("text/event-stream")
    if not streaming:
        place.alive = True
        place.has_more = True
        return False
    decoder = SseDecoder()
    while (chunk := (yield Read())) is not None:
        place.alive = True
        for event in place.take_new(decode(Event, row) for row in decoder.feed(chunk)):
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
        path=place.path,
        params={"after": place.last_seq},
        headers={"Accept": "application/json"},
    )
    rows = (yield from exchange(request)).parse(Rows)
    place.alive = True
    place.has_more = rows.has_more
    for event in place.take_new(rows.data):
        yield Emit(event)
