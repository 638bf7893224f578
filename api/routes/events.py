"""The history of a job: rows, or the same rows as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.access import Id, Reader
from api.schemas.events import EventPage, EventView
from api.schemas.problem import describe_problems
from api.services import Services, ServicesDep
from pruning.schemas.job import TERMINAL
from tasks.store import jobs
from tasks.store.errors import NotFoundError

router = APIRouter(prefix="/v1/jobs/{id}/events", tags=["jobs"])
POLL_S = 0.5
HEARTBEAT_S = 15.0
BATCH = 500
LAST_SEQ = 2**62


@router.get(
    "",
    operation_id="list_events",
    summary="The history of a job",
    response_model=EventPage,
    responses={
        200: {
            "content": {
                "text/event-stream": {
                    "schema": {
                        "type": "string",
                        "description": "`id: seq`, `event: type`, `data:` the row as JSON; a "
                        "comment every 15 s; ends after the last event.",
                    }
                }
            }
        },
        **describe_problems(404, 422),
    },
)
def list_events(
    id: Id,
    request: Request,
    *,
    services: ServicesDep,
    caller: Reader,
    after: Annotated[int, Query(ge=0, le=LAST_SEQ)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    last_event_id: Annotated[int | None, Header(ge=0, le=LAST_SEQ)] = None,
) -> Response:
    """List the rows after `after`.

    With `Accept: text/event-stream` they come as a stream, which `Last-Event-ID` resumes.
    """
    read = _make_reader(services, caller.project, id)
    if "text/event-stream" in request.headers.get("accept", ""):
        start = after if last_event_id is None else last_event_id
        first = read(start, BATCH)  # 404 before the stream begins
        return StreamingResponse(
            _stream(request, services, read, start, first),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
    rows, _ = read(after, limit + 1)
    page = EventPage(data=rows[:limit], has_more=len(rows) > limit)
    return JSONResponse(page.model_dump(mode="json"))


Batch = tuple[list[EventView], bool]
"""Events in order, and whether the job had ended before they were read."""
Read = Callable[[int, int], Batch]


def _make_reader(services: Services, project: str, id: str) -> Read:
    def read(after: int, limit: int) -> Batch:
        """Return rows, and whether the job has ended.

        The status is read before the rows, so that the last event cannot be missed.
        """
        with services.store.read() as session:
            ended = jobs.get(session, project, id).status in TERMINAL
            rows = jobs.list_events(session, id, after=after, limit=limit)
            return [EventView.from_row(row) for row in rows], ended

    return read


async def _stream(
    request: Request, services: Services, read: Read, after: int, batch: Batch
) -> AsyncIterator[str]:
    """Yield the events until the job has ended, the client has left, or the server stops.

    `batch` is what was read first; then the database is polled in a thread.
    """
    sent_at = time.monotonic()
    while not services.stopping.is_set() and not await request.is_disconnected():
        rows, ended = batch
        if rows:
            yield "".join(
                f"id: {row.seq}\nevent: {row.type}\ndata: {row.model_dump_json()}\n\n"
                for row in rows
            )
            after = rows[-1].seq
            sent_at = time.monotonic()
        is_last = len(rows) < BATCH
        if ended and is_last:
            return
        if is_last:
            if time.monotonic() - sent_at >= HEARTBEAT_S:
                yield ": heartbeat\n\n"
                sent_at = time.monotonic()
            await asyncio.sleep(POLL_S)
        try:
            batch = await run_in_threadpool(read, after, BATCH)
        except NotFoundError:
            return
