"""The envelope of every request: its id, its date, its time, and an answer when no route gave
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from email.utils import formatdate
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import answer
from api.metrics import Metrics

log = logging.getLogger("secateur.api")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""The ids of clients that are taken over."""
DRAIN_BYTES = 64 * 2**20
"""The largest part of a refused body that is read and thrown away."""
DRAIN_S = 10.0
"""The longest time that this may take."""


class Body:
    """The request's body as it is received, so that the rest of it can be thrown away.

    A server that answers and closes while the client still sends resets the connection, and many
    clients then never see the answer. A client that waits for `100 Continue` gets the answer at
    once and sends nothing.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = Headers(scope=scope)
        self._receive = receive
        self._waits = headers.get("expect", "").lower() == "100-continue"
        self._ended = (
            headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        )

    async def receive(self) -> Message:
        """Return the next part, for the application."""
        self._waits = False
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read the rest, within `DRAIN_BYTES` and `DRAIN_S`."""
        remaining = DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while not (self._ended or self._waits) and remaining > 0:
                    message = await self.receive()
                    remaining -= len(message.get("body", b""))


class Envelope:
    """ASGI middleware that adds `Date`, `X-Request-Id`, `nosniff` and metrics to every request.

    It also makes sure that refusals reach the client, and that a 500 leaks nothing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        body = Body(scope, receive)
        began = time.perf_counter()

        async def send_enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400:
                    await body.drain()
                message = {
                    **message,
                    "headers": [
                        *message["headers"],
                        (b"date", formatdate(usegmt=True).encode()),
                        (b"x-request-id", request_id.encode()),
                        (b"x-content-type-options", b"nosniff"),
                    ],
                }
            await send(message)

        try:
            await self._app(scope, body.receive, send_enveloped)
        except Exception as error:
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if status:  # the answer has begun, and no other one can be sent
                raise
            response = await answer(Request(scope), error)
            await response(scope, body.receive, send_enveloped)
        finally:
            route: Any = scope.get("route")
            self._metrics.observe(
                getattr(route, "path", "unmatched"),
                scope["method"],
                status,
                time.perf_counter() - began,
            )


def wrap(app: FastAPI, metrics: Metrics) -> None:
    """Put every request of the application into its envelope."""
    app.add_middleware(Envelope, metrics=metrics)
