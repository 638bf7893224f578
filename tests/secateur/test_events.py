"""Events over cut connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from secateur import ApiError, AsyncClient, Client, ConnectionFailed, WaitTimeout
from secateur.operations.events import SseDecoder
from tests.support.imitation import Answer, Call, Imitation, job, problem, row, sse

JOB = "/v1/jobs/job_12345678"
EVENTS = f"GET {JOB}/events"
ROWS = [
    row(1, "status", status="running"),
    row(2, "stage", name="prune"),
    row(3, "progress", done=1, total=2),
    row(4, "status", status="succeeded"),
]


def history(*streams: Answer, rows: list[dict[str, Any]] = ROWS) -> Callable[[Call], Answer]:
    """Stream these answers in turn; polled, give the rows."""
    left = list(streams)

    def answer(call: Call) -> Answer:
        if call.headers["accept"] == "text/event-stream":
            return left.pop(0)
        after = int(call.query["after"])
        return Answer(
            200,
            {
                "data": [each for each in rows if each["seq"] > after][:2],
                "has_more": sum(each["seq"] > after for each in rows) > 2,
            },
        )

    return answer


def test_events_end_after_the_terminal_one(service: Imitation, client: Client) -> None:
    service.on(EVENTS, history(sse(*ROWS)))
    service.on(f"GET {JOB}", job())
    assert [event.seq for event in client.jobs.events("job_12345678")] == [1, 2, 3, 4]


def test_cut_stream_is_resumed_behind_the_last_row(service: Imitation, client: Client) -> None:
    service.on(
        EVENTS, history(sse(*ROWS[:2], cut=True), problem(502, "restarting"), sse(*ROWS[1:]))
    )
    service.on(f"GET {JOB}", job())
    assert [event.seq for event in client.jobs.events("job_12345678")] == [1, 2, 3, 4]
    streams = [
        call for call in service.seen(EVENTS) if call.headers["accept"] == "text/event-stream"
    ]
    assert [call.headers.get("last-event-id") for call in streams] == [None, "2", "2"]


def test_stream_closed_before_the_end_is_resumed(service: Imitation, client: Client) -> None:
    service.on(EVENTS, history(sse(*ROWS[:2]), sse(), sse(*ROWS[2:])))
    service.on(
        f"GET {JOB}", [Answer(200, job("running")), Answer(200, job("running")), Answer(200, job())]
    )
    assert [event.seq for event in client.jobs.events("job_12345678")] == [1, 2, 3, 4]


def test_retried_job_is_followed_past_its_first_end(service: Imitation, client: Client) -> None:
    rows = [row(1, "status", status="failed"), row(2, "status", status="queued"), *ROWS[2:]]
    service.on(EVENTS, history(sse(*rows[:2]), sse(*rows[1:]), rows=rows))
    service.on(f"GET {JOB}", [Answer(200, job("running")), Answer(200, job())])
    assert [event.seq for event in client.jobs.events("job_12345678")] == [1, 2, 3, 4]


def test_finished_job_gives_the_rest_of_its_history(service: Imitation, client: Client) -> None:
    service.on(EVENTS, history(sse()))
    service.on(f"GET {JOB}", job())
    assert [event.seq for event in client.jobs.events("job_12345678", after=1)] == [2, 3, 4]


@pytest.mark.parametrize(
    "refusal", [problem(406, "not_acceptable"), Answer(200, {"data": [], "has_more": False})]
)
def test_without_a_stream_events_are_polled(
    service: Imitation, client: Client, sleeps: list[float], refusal: Answer
) -> None:
    service.on(EVENTS, history(refusal))
    service.on(f"GET {JOB}", [Answer(200, job("running"))] * 3 + [Answer(200, job())])
    assert [event.seq for event in client.jobs.events("job_12345678", interval_s=3)] == [1, 2, 3, 4]
    assert sleeps == [3]


def test_reconnects_are_bounded(service: Imitation, client: Client, sleeps: list[float]) -> None:
    service.on(EVENTS, problem(503, "restarting"))
    with pytest.raises(ConnectionFailed, match="503 restarting"):
        list(client.jobs.events("job_12345678", reconnects=5))
    assert len(service.calls) == 6
    assert len(sleeps) == 5


def test_unknown_job_is_not_retried(service: Imitation, client: Client) -> None:
    with pytest.raises(ApiError, match="404"):
        list(client.jobs.events("job_12345678"))
    assert len(service.calls) == 1


def test_timeout(service: Imitation, client: Client) -> None:
    service.on(EVENTS, history())
    service.on(f"GET {JOB}", job("running"))
    with pytest.raises(WaitTimeout):
        list(client.jobs.events("job_12345678", timeout_s=0))


def test_async_events(service: Imitation) -> None:
    async def at_once(seconds: float) -> None:
        pass

    async def session() -> list[int]:
        async with AsyncClient(service.url, sleep=at_once) as client:
            return [event.seq async for event in client.jobs.events("job_12345678")]

    service.on(EVENTS, history(sse(*ROWS[:2], cut=True), sse(*ROWS[2:])))
    service.on(f"GET {JOB}", job())
    assert asyncio.run(session()) == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_decoder_does_not_mind_where_the_bytes_are_cut(size: int) -> None:
    events = ': hi\r\n\r\nevent: a\nid: 1\ndata: {"a":\ndata: "é"}\n\nretry: 3\n\ndata:[2]\r\n\r\n'
    text = events.encode()
    decoder = SseDecoder()
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    assert [event for chunk in chunks for event in decoder.feed(chunk)] == [{"a": "é"}, [2]]
