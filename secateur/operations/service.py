"""Health, version and catalogue."""

from __future__ import annotations

from typing import Any

from secateur.flow import Flow, Request, call


def health() -> Flow[dict[str, Any]]:
    """Ask whether the process answers; not retried."""
    return (yield from _fetch_document("/healthz", probe=True))


def ready() -> Flow[dict[str, Any]]:
    """Ask whether database, artifact store and broker are there; raises `ApiError` 503 with the
    reason; not retried.
    """
    return (yield from _fetch_document("/readyz", probe=True))


def version(*, probe: bool = False) -> Flow[dict[str, Any]]:
    """Return the version of the service; with `probe` the request is not retried."""
    return (yield from _fetch_document("/version", probe=probe))


def methods() -> Flow[dict[str, Any]]:
    """Return the catalogue: registered criteria, allocations, architectures and so on, with their
    parameters.
    """
    return (yield from _fetch_document("/v1/methods"))


def presets() -> Flow[list[dict[str, Any]]]:
    """Return the presets: experiments of papers by name, with networks, trainings and targets."""
    document = yield from _fetch_document("/v1/presets")
    return list(document["items"])


def _fetch_document(path: str, *, probe: bool = False) -> Flow[dict[str, Any]]:
    reply = yield from call(Request(method="GET", path=path, retry="never" if probe else "always"))
    document = reply.json()
    return document if isinstance(document, dict) else {"status": document}
