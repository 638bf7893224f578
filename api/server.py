"""Serving the application on a socket; without an API key on loopback only."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from api.access import is_loopback
from api.settings import ApiSettings
from tasks.launcher import FORK_SERVER
from tasks.store import Store, assets

OK = 0
FAILED = 1
REFUSED = 2
GRACE_S = 10
HINT = "no API key is set: open to every program on this machine, and to this machine only"


class Server(uvicorn.Server):
    """A server that tells the application at once that it shall end, so that open streams close.

    Nothing wakes it while there are no requests: it waits for the signal to end, where uvicorn
    would look for it ten times a second.
    """

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Wait until the server shall end."""
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:  # a signal may have come before there was an event to set
            await self._ended.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; called on SIGINT and SIGTERM."""
        services = getattr(self._app.state, "services", None)
        if services is not None:
            services.stopping.set()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        if self._loop is not None and self._ended is not None:
            self._loop.call_soon_threadsafe(self._ended.set)


def run(host: str, port: int, sock: socket.socket | None = None) -> int:
    """Serve until a signal; return 0 after a clean end, 2 if the address or settings forbid it."""
    from api.main import create_app

    settings = ApiSettings()
    try:
        is_closed = _is_closed(settings)
    except OperationalError as error:
        return _refuse(
            f"cannot open the database {settings.database_url.partition('://')[0]}: {error.orig}"
        )
    if sock is not None:
        host, port = sock.getsockname()[:2]
    if not is_closed and not is_loopback(host):
        return _refuse(
            f"no API key is set, so {host} is refused: an open service binds to 127.0.0.1 only. "
            "Set SECATEUR_API_KEY to serve other machines."
        )
    try:
        sock = sock or _bind(host, port)
    except OSError as error:
        return _refuse(f"cannot listen on {host}:{port}: {error.strerror or error}")
    port = sock.getsockname()[1]
    url_host = f"[{host}]" if ":" in host else host
    message = f"listening on http://{url_host}:{port}"
    _say(message if is_closed else f"{message}; {HINT}")
    FORK_SERVER.trains = False
    app = create_app(settings)
    server = Server(
        app,
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,  # the envelope has it, of the time of the answer
            timeout_graceful_shutdown=GRACE_S,
        ),
    )
    with sock:
        server.run(sockets=[sock])
    return OK if server.started else FAILED


def _is_closed(settings: ApiSettings) -> bool:
    """Return whether a key is set, in the settings or in the database."""
    if settings.api_key:
        return True
    store = Store(settings.database_url)
    try:
        store.create_tables()
        with store.read() as session:
            return assets.has_keys(session)
    finally:
        store.close()


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock


def _refuse(reason: str) -> int:
    _say(reason)
    return REFUSED


def _say(text: str) -> None:
    sys.stderr.write(f"secateur api: {text}\n")
    sys.stderr.flush()
