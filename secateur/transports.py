"""Channels that perform the commands of a flow, with blocking calls and with awaited ones."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2

from secateur.flow import (
    AskPolicy,
    ConnectionBroken,
    Digest,
    Open,
    Pack,
    Policy,
    Read,
    Reply,
    Request,
    Send,
    Sleep,
)
from secateur.folders import PACKERS

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_LASTING = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.TooManyRedirects)


class Channel:
    """Performs commands with blocking calls; holds the one answer that is being streamed."""

    def __init__(self, http: httpx2.Client, policy: Policy, sleep: Callable[[float], None]) -> None:
        self._http = http
        self._policy = policy
        self._sleep = sleep
        self._response: httpx2.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def close(self) -> None:
        """Close the answer that is being streamed, if any."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def perform(self, command: object) -> Any:
        """Return the outcome of a command, a `ConnectionBroken` for a broken connection."""
        http = self._http
        try:
            match command:
                case Send(request):
                    with ExitStack() as files:
                        return _read_reply(http.send(_build_request(http, request, files)))
                case Open(request):
                    self.close()
                    with ExitStack() as files:
                        self._response = http.send(
                            _build_request(http, request, files), stream=True
                        )
                    self._chunks = self._response.iter_bytes()
                    if self._response.status_code >= 400:
                        self._response.read()
                        return _read_reply(self._response)
                    return Reply(self._response.status_code, self._response.headers)
                case Read():
                    return next(self._chunks, None)
                case Sleep(seconds):
                    return self._sleep(seconds)
                case Digest(file):
                    return _hash_file(file)
                case Pack(folder, kind):
                    return PACKERS[kind](folder)
                case AskPolicy():
                    return self._policy
        except httpx2.RequestError as error:
            return _describe_break(str(self._http.base_url).rstrip("/"), error)
        raise AssertionError(f"not a command: {command!r}")


class AsyncChannel:
    """Performs commands with awaited calls; holds the one answer that is being streamed."""

    def __init__(
        self, http: httpx2.AsyncClient, policy: Policy, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._http = http
        self._policy = policy
        self._sleep = sleep
        self._response: httpx2.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def close(self) -> None:
        """Close the answer that is being streamed, if any."""
        if self._response is not None:
            await self._response.aclose()
            self._response = None

    async def perform(self, command: object) -> Any:
        """Return the outcome of a command, a `ConnectionBroken` for a broken connection."""
        http = self._http
        try:
            match command:
                case Send(request):
                    with ExitStack() as files:
                        return _read_reply(await http.send(_build_request(http, request, files)))
                case Open(request):
                    await self.close()
                    with ExitStack() as files:
                        self._response = await http.send(
                            _build_request(http, request, files), stream=True
                        )
                    self._chunks = self._response.aiter_bytes()
                    if self._response.status_code >= 400:
                        await self._response.aread()
                        return _read_reply(self._response)
                    return Reply(self._response.status_code, self._response.headers)
                case Read():
                    assert self._chunks is not None
                    return await anext(self._chunks, None)
                case Sleep(seconds):
                    return await self._sleep(seconds)
                case Digest(file):
                    return await asyncio.to_thread(_hash_file, file)
                case Pack(folder, kind):
                    return await asyncio.to_thread(PACKERS[kind], folder)
                case AskPolicy():
                    return self._policy
        except httpx2.RequestError as error:
            return _describe_break(str(self._http.base_url).rstrip("/"), error)
        raise AssertionError(f"not a command: {command!r}")


def _build_request(
    http: httpx2.Client | httpx2.AsyncClient, request: Request, files: ExitStack
) -> httpx2.Request:
    content: dict[str, Any] = {}
    if request.file is not None:
        part = files.enter_context(request.file.open("rb"))
        content = {
            "files": {"file": (request.file.name, part, "application/octet-stream")},
            "data": request.form,
        }
    elif request.json is not None:
        content = {"json": request.json}
    if request.timeout_s is not None:
        content["timeout"] = timeout_of(request.timeout_s)
    return http.build_request(
        request.method,
        request.path,
        params=dict(request.params),
        headers=dict(request.headers),
        **content,
    )


def _read_reply(response: httpx2.Response) -> Reply:
    return Reply(response.status_code, response.headers, response.content)


def _describe_break(url: str, error: Exception) -> ConnectionBroken:
    return ConnectionBroken(
        f"no answer from {url}: {error or type(error).__name__}",
        sent=not isinstance(error, _NEVER_SENT),
        lasting=isinstance(error, _LASTING),
    )


def _hash_file(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def timeout_of(seconds: float) -> httpx2.Timeout:
    """Return the limit on each read and write; connecting may take at most 10 s."""
    return httpx2.Timeout(seconds, connect=min(seconds, 10.0))
