"""Commands about the service as a whole, and those that run it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from secateur.cli.console import Json, complain, print_json, print_table, say
from secateur.cli.outcomes import USAGE
from secateur.client import Client
from secateur.errors import ApiError, ConnectionFailed
from secateur.version import VERSION

app = typer.Typer()
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")]


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data_dir: Annotated[Path, typer.Option(help="Where models, jobs and results are kept.")] = Path(
        "secateur-data"
    ),
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Jobs at a time, each in a worker of its own.")
    ] = 1,
) -> NoReturn:
    """Run the whole service here: API, workers and queue in one process tree."""
    raise typer.Exit(_server("tasks.embedded", "serve")(host, port, data_dir, workers))


@app.command()
def api(host: Host = "127.0.0.1", port: Port = 8000) -> NoReturn:
    """Run the API alone, configured by SECATEUR_* settings."""
    raise typer.Exit(_server("api.main", "run")(host, port))


@app.command()
def worker(
    concurrency: Annotated[int, typer.Option(min=1, help="Jobs at a time.")] = 1,
) -> NoReturn:
    """Run a worker alone, configured by SECATEUR_* settings."""
    raise typer.Exit(_server("tasks.worker", "run")(concurrency))


def _server(module: str, function: str) -> Callable[..., int]:
    try:
        run: Callable[..., int] = getattr(import_module(module), function)
    except ImportError as error:
        complain(f"{error}. The server is not installed: install secateur[server]")
        raise typer.Exit(USAGE) from None
    return run


@app.command()
def version(as_json: Json = False) -> None:
    """Show the version of this client and, where it answers, of the service."""
    server: dict[str, Any] | None = None
    with Client() as client:
        try:
            server = client.version(probe=True)
        except (ApiError, ConnectionFailed) as error:
            say(str(error))
    if as_json:
        print_json({"client": VERSION, "server": server})
    else:
        print_table(
            ("", "version"),
            [("client", VERSION), ("server", server and server.get("version", server))],
        )


@app.command()
def methods(
    kind: Annotated[str | None, typer.Argument(help="Only this kind, e.g. criteria.")] = None,
    as_json: Json = False,
) -> None:
    """List the criteria, architectures, evaluations and other methods that the service knows."""
    with Client() as client:
        catalogue = client.methods()
    if kind is not None:
        if kind not in catalogue:
            raise typer.BadParameter(f"no kind {kind!r}; there are {', '.join(sorted(catalogue))}")
        catalogue = {kind: catalogue[kind]}
    if as_json:
        print_json(catalogue)
        return
    print_table(
        ("kind", "name", "summary"),
        (
            (group, entry.get("name"), entry.get("summary"))
            for group, entries in catalogue.items()
            if isinstance(entries, list)
            for entry in entries
            if isinstance(entry, dict)
        ),
    )
