"""Around every request: its id, its time, and an answer when nothing else gave one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import answer
from api.metrics import Metrics

log = logging.getLogger("secateur.api")
SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


DRAIN_BYTES = 64 * 2**20
DRAIN_S = 10.0
"""How much of a refused body is read and thrown away, and for how long."""


class Body:
    """The request's body as it is received, so that what is left of it can be thrown away.

    A server that answers and closes while the client still sends resets the connection, and many
    clients then never see the answer. A client that waits for `100 Continue` is told at once and
    sends nothing.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = Headers(scope=scope)
        self._receive = receive
        self._waits = headers.get("expect", "").lower() == "100-continue"
        self._ended = (
            headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        )

    async def receive(self) -> Message:
        """The next part, for the application."""
        self._waits = False
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what is left, within `DRAIN_BYTES` and `DRAIN_S`."""
        left = DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while not (self._ended or self._waits) and left > 0:
                    left -= len((await self.receive()).get("body", b""))


class Envelope:
    """ASGI middleware: `X-Request-Id`, `nosniff`, metrics, refusals that arrive, and a 500 that
    leaks nothing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if SANE.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        body = Body(scope, receive)
        began = time.perf_counter()

        async def outward(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400:
                    await body.drain()
                message = {
                    **message,
                    "headers": [
                        *message["headers"],
                        (b"x-request-id", request_id.encode()),
                        (b"x-content-type-options", b"nosniff"),
                    ],
                }
            await send(message)

        try:
            await self._app(scope, body.receive, outward)
        except Exception as error:
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if status:
                raise
            await (await answer(Request(scope), error))(scope, body.receive, outward)
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
