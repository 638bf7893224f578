"""How the commands of a flow are performed, with blocking calls and with awaited ones."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2

from secateur.flow import AskPolicy, Broken, Digest, Open, Policy, Read, Reply, Request, Send, Sleep

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_LASTING = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.TooManyRedirects)


class Channel:
    """Performs commands with blocking calls; holds the one answer that is being streamed."""

    def __init__(self, http: httpx2.Client, policy: Policy, sleep: Callable[[float], None]) -> None:
        self._http, self._policy, self._sleep = http, policy, sleep
        self._response: httpx2.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def close(self) -> None:
        """Close the answer that is being streamed, if any."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def perform(self, command: object) -> Any:
        """The outcome of a command; a broken connection is returned as `Broken`."""
        http = self._http
        try:
            match command:
                case Send(request):
                    with ExitStack() as files:
                        return _reply(http.send(_build(http, request, files)))
                case Open(request):
                    self.close()
                    with ExitStack() as files:
                        self._response = http.send(_build(http, request, files), stream=True)
                    self._chunks = self._response.iter_bytes()
                    if self._response.status_code >= 400:
                        self._response.read()
                        return _reply(self._response)
                    return Reply(self._response.status_code, self._response.headers)
                case Read():
                    return next(self._chunks, None)
                case Sleep(seconds):
                    return self._sleep(seconds)
                case Digest(file):
                    return _digest(file)
                case AskPolicy():
                    return self._policy
        except httpx2.RequestError as error:
            return _broken(str(self._http.base_url).rstrip("/"), error)
        raise AssertionError(f"not a command: {command!r}")


class AsyncChannel:
    """Performs commands with awaited calls; holds the one answer that is being streamed."""

    def __init__(
        self, http: httpx2.AsyncClient, policy: Policy, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._http, self._policy, self._sleep = http, policy, sleep
        self._response: httpx2.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def close(self) -> None:
        """Close the answer that is being streamed, if any."""
        if self._response is not None:
            await self._response.aclose()
            self._response = None

    async def perform(self, command: object) -> Any:
        """The outcome of a command; a broken connection is returned as `Broken`."""
        http = self._http
        try:
            match command:
                case Send(request):
                    with ExitStack() as files:
                        return _reply(await http.send(_build(http, request, files)))
                case Open(request):
                    await self.close()
                    with ExitStack() as files:
                        self._response = await http.send(_build(http, request, files), stream=True)
                    self._chunks = self._response.aiter_bytes()
                    if self._response.status_code >= 400:
                        await self._response.aread()
                        return _reply(self._response)
                    return Reply(self._response.status_code, self._response.headers)
                case Read():
                    assert self._chunks is not None
                    return await anext(self._chunks, None)
                case Sleep(seconds):
                    return await self._sleep(seconds)
                case Digest(file):
                    return await asyncio.to_thread(_digest, file)
                case AskPolicy():
                    return self._policy
        except httpx2.RequestError as error:
            return _broken(str(self._http.base_url).rstrip("/"), error)
        raise AssertionError(f"not a command: {command!r}")


def _build(
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


def _reply(response: httpx2.Response) -> Reply:
    return Reply(response.status_code, response.headers, response.content)


def _broken(url: str, error: Exception) -> Broken:
    return Broken(
        f"no answer from {url}: {error or type(error).__name__}",
        sent=not isinstance(error, _NEVER_SENT),
        lasting=isinstance(error, _LASTING),
    )


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def timeout_of(seconds: float) -> httpx2.Timeout:
    """The limit on each read and write; connecting is given 10 s at most."""
    return httpx2.Timeout(seconds, connect=min(seconds, 10.0))
