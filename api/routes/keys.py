"""API keys: an administrator creates them, and their secret is shown once."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.access import Admin, Caller, Id
from api.errors import Problem
from api.http.bodies import JsonBody
from api.http.pointers import parse
from api.schemas.assets import KeyList, KeyView, MadeKey, NewKey
from api.schemas.problem import describe_problems
from api.services import Services, ServicesDep
from tasks.store import assets, new_id
from tasks.store.tables import ApiKey

router = APIRouter(prefix="/v1/keys", tags=["keys"])
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/NewKey"},
                "example": {"name": "ci", "scopes": ["write"]},
            }
        },
    }
}


@router.post(
    "",
    operation_id="create_key",
    summary="Make an API key",
    status_code=201,
    openapi_extra=BODY,
    responses=describe_problems(400, 409, 413, 415, 422),
)
def create_key(response: Response, services: ServicesDep, caller: Admin, body: JsonBody) -> MadeKey:
    """Make a key; the answer holds its secret, of which only the digest is stored."""
    new_key = parse(NewKey, body)
    project = new_key.project or caller.project
    if project != caller.project and not caller.root:
        raise Problem(
            403, "forbidden", f"this API key administers the project {caller.project!r} only"
        )
    secret = f"sk_{secrets.token_urlsafe(32)}"
    with services.store.write() as session:
        row = assets.add_key(
            session,
            id=new_id("key"),
            project=project,
            name=new_key.name,
            secret=secret,
            scopes=list(new_key.scopes),
        )
        _refuse_lockout(services, session)
    response.headers["Location"] = f"/v1/keys/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return MadeKey(**KeyView.from_row(row).model_dump(), secret=secret)


@router.get("", operation_id="list_keys", summary="List API keys", responses=describe_problems())
def list_keys(services: ServicesDep, caller: Admin) -> KeyList:
    """List the keys without their secrets."""
    with services.store.read() as session:
        rows = session.scalars(select(ApiKey).order_by(ApiKey.id.desc())).all()
        return KeyList(data=[KeyView.from_row(row) for row in rows if _administers(caller, row)])


@router.delete(
    "/{id}",
    operation_id="delete_key",
    summary="Revoke an API key",
    status_code=204,
    responses=describe_problems(404, 409),
)
def delete_key(id: Id, services: ServicesDep, caller: Admin) -> None:
    """Revoke a key; it is refused from now on."""
    with services.store.write() as session:
        row = session.get(ApiKey, id)
        if row is None or not _administers(caller, row):
            raise Problem(404, "not_found", f"no key {id!r}")
        session.delete(row)
        session.flush()
        _refuse_lockout(services, session)


def _administers(caller: Caller, row: ApiKey) -> bool:
    return caller.root or row.project == caller.project


def _refuse_lockout(services: Services, session: Session) -> None:
    """Refuse a change after which no key can administer the service.

    As soon as there is a key, the service is closed to callers without one.
    """
    if services.settings.api_key:
        return
    scopes = [row.scopes for row in session.scalars(select(ApiKey))]
    if scopes and not any("admin" in held for held in scopes):
        raise Problem(
            409,
            "would_lock_out",
            "no key would hold the scope 'admin': make such a key first, or set SECATEUR_API_KEY",
        )
