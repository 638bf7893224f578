"""The history of a job as rows and as a stream."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from api.routes import events
from api.schemas.events import EventView
from api.services import Services
from tests.support.api_world import World, fault


def parse(text: str) -> list[dict[str, Any]]:
    rows = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if fields:
            row = json.loads(fields["data"])
            assert (fields["id"], fields["event"]) == (str(row["seq"]), row["type"])
            rows.append(row)
    return rows


def stream(world: World, id: str, **headers: str) -> list[dict[str, Any]]:
    response = world.client.get(
        f"/v1/jobs/{id}/events", headers={"Accept": "text/event-stream", **headers}
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    return parse(response.text)


def test_rows_in_order_and_in_pages(world: World) -> None:
    id = world.job()
    for status in ("running", "paused", "queued"):
        world.move(id, status)
    page = world.client.get(f"/v1/jobs/{id}/events?limit=3").json()
    assert [row["seq"] for row in page["data"]] == [1, 2, 3]
    assert page["data"][1] == {
        "seq": 2,
        "at": page["data"][1]["at"],
        "type": "status",
        "data": {"status": "running"},
    }
    assert page["data"][1]["at"].endswith("Z")
    assert page["has_more"]
    rest = world.client.get(f"/v1/jobs/{id}/events?after=3").json()
    assert ([row["seq"] for row in rest["data"]], rest["has_more"]) == ([4], False)
    for query in ("after=-1", "after=x", "limit=0", f"after={2**70}"):
        fault(world.client.get(f"/v1/jobs/{id}/events?{query}"), 422, "invalid_parameter")


def test_a_stream_ends_after_the_terminal_event_and_resumes(world: World) -> None:
    id = world.job("running")
    world.move(id, "succeeded")
    rows = stream(world, id)
    assert [row["seq"] for row in rows] == [1, 2, 3]
    assert rows == world.client.get(f"/v1/jobs/{id}/events").json()["data"]
    assert [row["seq"] for row in stream(world, id, **{"Last-Event-ID": "2"})] == [3]
    assert stream(world, id, **{"Last-Event-ID": "3"}) == []
    fault(
        world.client.get(
            f"/v1/jobs/{id}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "x"}
        ),
        422,
        "invalid_parameter",
    )


def test_a_stream_of_many_rows_is_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BATCH", 3)
    id = world.job()
    for _ in range(7):
        world.move(id, "running")
    world.move(id, "failed")
    assert [row["seq"] for row in stream(world, id)] == list(range(1, 10))


def test_a_stream_follows_a_live_job_with_heartbeats(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the stream goes on by 5 s with every poll, and the tenth poll ends the job."""
    monkeypatch.setattr(events, "HEARTBEAT_S", 15.0)
    monkeypatch.setattr(events, "POLL_S", 0.0)
    id = world.job("running")
    polls = 0
    make_reader = events._make_reader

    def make_counting_reader(services: Services, project: str, job_id: str) -> events.Read:
        read = make_reader(services, project, job_id)

        def count_and_read(after: int, limit: int) -> tuple[list[EventView], bool]:
            nonlocal polls
            polls += 1
            if polls == 10:
                world.move(id, "succeeded")
            return read(after, limit)

        return count_and_read

    monkeypatch.setattr(events, "_make_reader", make_counting_reader)
    monkeypatch.setattr(events, "time", SimpleNamespace(monotonic=lambda: 5.0 * polls))
    response = world.client.get(f"/v1/jobs/{id}/events", headers={"Accept": "text/event-stream"})
    # The rows are sent at the second poll, so heartbeats follow the fifth and the eighth.
    assert response.text.count(": heartbeat\n\n") == 2
    assert polls == 10
    assert parse(response.text)[-1]["data"] == {"status": "succeeded"}


def test_a_stream_ends_when_the_server_stops_or_the_job_is_deleted(world: World) -> None:
    id = world.job("running")
    timer = threading.Timer(0.7, world.services.stopping.set)
    timer.start()
    assert len(stream(world, id)) == 2
    world.services.stopping.clear()

    def delete() -> None:
        world.move(id, "failed")
        world.client.delete(f"/v1/jobs/{id}")

    thread = threading.Timer(0.3, delete)
    thread.start()
    assert len(stream(world, id)) >= 2
    thread.join()


def test_an_unknown_job_has_no_stream(world: World) -> None:
    fault(
        world.client.get(
            "/v1/jobs/job_06apt1c3nvg28o2e8b5hkq9s40/events",
            headers={"Accept": "text/event-stream"},
        ),
        404,
        "not_found",
    )
