"""`Client` and `AsyncClient`: the two ways to perform a flow."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from functools import cache
from types import TracebackType
from typing import TypeVar

import httpx2

from secateur.errors import ConnectionFailed
from secateur.flow import Emit, Flow, Policy, Returned, Stream, advance
from secateur.resources import Datasets, Jobs, Models, Service
from secateur.transports import AsyncChannel, Channel, timeout_of
from secateur.version import VERSION

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:8000"


class Client(Service["Client"]):
    """A blocking client; address and key default to `SECATEUR_URL` and `SECATEUR_API_KEY`."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        policy: Policy | None = None,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(self)
        self.url = _choose_address(url)
        self.policy = policy or Policy()
        self._sleep = sleep
        self._http = httpx2.Client(
            base_url=self.url,
            headers=_build_headers(api_key),
            timeout=timeout_of(timeout_s),
            follow_redirects=True,
            verify=_load_certificates(),
            transport=transport,
        )
        self.models: Models[Client] = Models(self)
        self.datasets: Datasets[Client] = Datasets(self)
        self.jobs: Jobs[Client] = Jobs(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def run(self, flow: Flow[T]) -> T:
        """Perform a flow to its result."""
        with closing(flow), closing(Channel(self._http, self.policy, self._sleep)) as channel:
            outcome = None
            while not isinstance(command := advance(flow, outcome), Returned):
                outcome = channel.perform(command)
            value: T = command.value
            return value

    def iterate(self, stream: Stream[T]) -> Iterator[T]:
        """Perform a stream, item by item."""
        with closing(stream), closing(Channel(self._http, self.policy, self._sleep)) as channel:
            outcome = None
            while not isinstance(command := advance(stream, outcome), Returned):
                if isinstance(command, Emit):
                    outcome = None
                    yield command.item
                else:
                    outcome = channel.perform(command)


class AsyncClient(Service["AsyncClient"]):
    """The same client for asyncio: operations are awaited, listings and events are asynchronous
    iterators.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        policy: Policy | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(self)
        self.url = _choose_address(url)
        self.policy = policy or Policy()
        self._sleep = sleep
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers=_build_headers(api_key),
            timeout=timeout_of(timeout_s),
            follow_redirects=True,
            verify=_load_certificates(),
            transport=transport,
        )
        self.models: Models[AsyncClient] = Models(self)
        self.datasets: Datasets[AsyncClient] = Datasets(self)
        self.jobs: Jobs[AsyncClient] = Jobs(self)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Perform a flow to its result."""
        channel = AsyncChannel(self._http, self.policy, self._sleep)
        with closing(flow):
            try:
                outcome = None
                while not isinstance(command := advance(flow, outcome), Returned):
                    outcome = await channel.perform(command)
                value: T = command.value
                return value
            finally:
                await channel.close()

    async def iterate(self, stream: Stream[T]) -> AsyncIterator[T]:
        """Perform a stream, item by item."""
        channel = AsyncChannel(self._http, self.policy, self._sleep)
        with closing(stream):
            try:
                outcome = None
                while not isinstance(command := advance(stream, outcome), Returned):
                    if isinstance(command, Emit):
                        outcome = None
                        yield command.item
                    else:
                        outcome = await channel.perform(command)
            finally:
                await channel.close()


@cache
def _load_certificates() -> ssl.SSLContext:
    """The authorities that are trusted; to read them takes longer than most requests, so that all
    clients of a process share them.
    """
    return httpx2.create_ssl_context()


def _choose_address(url: str | None) -> str:
    address = (url or os.environ.get("SECATEUR_URL") or DEFAULT_URL).rstrip("/")
    try:
        httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise ConnectionFailed(f"{address} is not an address: {error}") from None
    return address


def _build_headers(api_key: str | None) -> dict[str, str]:
    key = (os.environ.get("SECATEUR_API_KEY", "") if api_key is None else api_key).strip()
    headers = {"User-Agent": f"secateur/{VERSION}"}
    return headers | {"Authorization": f"Bearer {key}"} if key else headers
