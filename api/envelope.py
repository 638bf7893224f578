"""Around every request: its id, its time, and an answer when nothing else gave one."""

from __future__ import annotations

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


class Envelope:
    """ASGI middleware: `X-Request-Id`, `nosniff`, metrics, and a 500 that leaks nothing."""

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
        began = time.perf_counter()

        async def outward(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode()),
                                                  (b"x-content-type-options", b"nosniff")]}
            await send(message)

        try:
            await self._app(scope, receive, outward)
        except Exception as error:
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if status:
                raise
            await (await answer(Request(scope), error))(scope, receive, outward)
        finally:
            route: Any = scope.get("route")
            self._metrics.observe(getattr(route, "path", "unmatched"), scope["method"], status,
                                  time.perf_counter() - began)


def wrap(app: FastAPI, metrics: Metrics) -> None:
    """Put every request of the application into its envelope."""
    app.add_middleware(Envelope, metrics=metrics)
