"""The connections that the routes work with: one object on the application."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from api.helper_pool import HelperPool
from api.metrics import Metrics
from api.settings import ApiSettings
from tasks.artifacts import Artifacts
from tasks.store import Store


@dataclass(frozen=True, kw_only=True)
class Services:
    """The open connections of one application."""

    settings: ApiSettings
    store: Store
    artifacts: Artifacts
    metrics: Metrics
    helpers: HelperPool
    wake: threading.Event = field(default_factory=threading.Event)
    """Set after a commit that left a message in the outbox."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the server is asked to end: open streams close."""


async def get_services(request: Request) -> Services:
    """Return the services of the application that serves this request.

    It waits for nothing; as a coroutine it needs no thread.
    """
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


ServicesDep = Annotated[Services, Depends(get_services)]
