"""The caller of a request: its key, its project and its scopes."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.errors import Problem
from api.services import Services, ServicesDep
from tasks.store import assets

SCOPES = ("read", "write", "admin")
"""The scopes of a key; each includes the ones before it."""
bearer = HTTPBearer(
    auto_error=False, scheme_name="key", description="An API key. None while the service is open."
)


@dataclass(frozen=True)
class Caller:
    """A project and the scopes that the caller has in it; `root` administers every project."""

    project: str
    scopes: tuple[str, ...]
    root: bool = False

    def may(self, scope: str) -> bool:
        """Return whether one of the scopes is this one or includes it."""
        needed = SCOPES.index(scope)
        return any(SCOPES.index(held) >= needed for held in self.scopes if held in SCOPES)


def identify_caller(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Caller:
    """Return the holder of the key, or the user of this machine while no key exists; else 401."""
    if credentials is not None:
        return _identify_holder(services, credentials.credentials)
    if "authorization" in request.headers:
        raise build_unauthorized_problem("send 'Authorization: Bearer sk_…'")
    if is_closed(services):
        raise build_unauthorized_problem(
            "this service needs an API key: send 'Authorization: Bearer sk_…'"
        )
    if not is_local(request):
        raise build_unauthorized_problem(
            "no API key is set: the service is open to clients on this machine only"
        )
    _refuse_other_sites(request)
    return Caller("default", ("admin",), root=True)


def is_closed(services: Services) -> bool:
    """Return whether a key is set, in the settings or in the database."""
    if services.settings.api_key:
        return True
    return services.store.read_value(assets.ANY_KEY) is not None


def is_local(request: Request) -> bool:
    """Return whether the client is on this machine."""
    return request.client is not None and is_loopback(request.client.host)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address stands for this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def build_unauthorized_problem(detail: str) -> Problem:
    """Return a 401 with the scheme to use."""
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def _identify_holder(services: Services, secret: str) -> Caller:
    root = services.settings.api_key
    if root and hmac.compare_digest(root.encode(), secret.encode()):
        return Caller("default", ("admin",), root=True)
    with services.store.read() as session:
        key = assets.find_key(session, secret)
    if key is None:
        raise build_unauthorized_problem("this API key is not known")
    return Caller(key.project, tuple(key.scopes))


def _refuse_other_sites(request: Request) -> None:
    """Refuse the pages of other sites on an open service (cross-site requests, DNS rebinding)."""
    host = request.headers.get("host", "")
    if not is_loopback(_read_hostname(f"//{host}")):
        raise Problem(
            403,
            "forbidden",
            f"host {host!r}: an open service answers to localhost only; set an API key",
        )
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise Problem(
            403,
            "forbidden",
            f"origin {origin!r}: an open service answers no other site; set an API key",
        )


def _read_hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def require_scope(scope: str) -> Callable[[Caller], Awaitable[Caller]]:
    """Return the dependency that refuses a caller without the scope."""

    async def check(caller: Annotated[Caller, Depends(identify_caller)]) -> Caller:
        if not caller.may(scope):
            raise Problem(403, "forbidden", f"this API key lacks the scope {scope!r}")
        return caller

    return check


Reader = Annotated[Caller, Depends(require_scope("read"))]
Writer = Annotated[Caller, Depends(require_scope("write"))]
Admin = Annotated[Caller, Depends(require_scope("admin"))]
Id = Annotated[
    str, Path(pattern=r"^[a-z]{3}_[0-9a-z]{8,40}$", examples=["job_06apt1c3nvg28o2e8b5hkq9s40"])
]
