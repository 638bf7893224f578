"""Keys, scopes, projects, and the service without a key."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest

import api.routes
from tasks.store.tables import ApiKey
from tests.support.api_world import ADMIN, SPEC, World, fault

ROOT = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture
def keyed(build: Callable[..., World]) -> World:
    """A service with a bootstrap key, called from another machine."""
    return build(api_key=ADMIN, client=("192.0.2.7", 1), host="secateur.example")


def test_without_a_key_set_only_this_machine_is_served(build: Callable[..., World]) -> None:
    assert build().client.get("/v1/jobs").status_code == 200
    assert build(client=("::1", 1)).client.get("/v1/jobs").status_code == 200
    far = build(client=("192.0.2.7", 1)).client.get("/v1/jobs")
    fault(far, 401, "unauthorized")
    assert far.headers["www-authenticate"] == "Bearer"


def test_an_open_service_answers_no_other_site(world: World) -> None:
    fault(world.client.get("/v1/jobs", headers={"Host": "evil.example"}), 403, "forbidden")
    for broken in ({"Host": "["}, {"Host": "[x]"}, {"Host": "localhost", "Origin": "http://["}):
        fault(world.client.get("/v1/jobs", headers=broken), 403, "forbidden")
    fault(
        world.client.post("/v1/jobs", json=SPEC, headers={"Origin": "https://evil.example"}),
        403,
        "forbidden",
    )
    fault(world.client.post("/v1/jobs", json=SPEC, headers={"Origin": "null"}), 403, "forbidden")
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert world.client.get("/v1/jobs", headers=headers).status_code == 200


def test_the_bootstrap_key_opens_everything(keyed: World) -> None:
    assert keyed.client.get("/v1/jobs", headers=ROOT).status_code == 200
    assert keyed.client.get("/v1/keys", headers=ROOT).status_code == 200


@pytest.mark.parametrize(
    "header", ["Bearer wrong", "Bearer ", "Basic eDp5", "nonsense", f"Bearer {ADMIN}x", None]
)
def test_a_wrong_key_is_a_401(keyed: World, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    fault(keyed.client.get("/v1/jobs", headers=headers), 401, "unauthorized")


def test_a_key_in_the_database_closes_the_service_also_on_loopback(world: World) -> None:
    key = world.key("admin")
    fault(world.client.get("/v1/jobs"), 401, "unauthorized")
    assert world.client.get("/v1/jobs", headers=key).status_code == 200


def test_scopes(keyed: World) -> None:
    read, write, admin = keyed.key("read"), keyed.key("write"), keyed.key("admin")
    answers = {
        name: (
            keyed.client.get("/v1/jobs", headers=key).status_code,
            keyed.client.post("/v1/jobs", json=SPEC, headers=key).status_code,
            keyed.client.get("/v1/keys", headers=key).status_code,
        )
        for name, key in (("read", read), ("write", write), ("admin", admin))
    }
    assert answers == {"read": (200, 403, 403), "write": (200, 202, 403), "admin": (200, 202, 200)}
    fault(
        keyed.client.post("/v1/models", headers=read, files={"file": ("a", b"x")}), 403, "forbidden"
    )


def test_a_key_is_shown_once_and_kept_as_a_digest(keyed: World) -> None:
    made = keyed.client.post(
        "/v1/keys", json={"name": "ci", "scopes": ["write"], "project": "blue"}, headers=ROOT
    )
    assert made.status_code == 201
    body = made.json()
    secret = body.pop("secret")
    assert secret.startswith("sk_")
    assert len(secret) >= 3 + 43
    assert made.headers["cache-control"] == "no-store"
    assert made.headers["location"] == f"/v1/keys/{body['id']}"
    listed = keyed.client.get("/v1/keys", headers=ROOT)
    assert listed.json()["data"] == [body]
    assert secret not in listed.text
    with keyed.services.store.read() as session:
        assert secret not in str(vars(session.query(ApiKey).one()))
    use = {"Authorization": f"Bearer {secret}"}
    job = keyed.client.post("/v1/jobs", json=SPEC, headers=use).json()
    fault(keyed.client.get(job["links"]["self"], headers=ROOT), 404, "not_found")
    assert keyed.client.delete(f"/v1/keys/{body['id']}", headers=ROOT).status_code == 204
    fault(keyed.client.get("/v1/jobs", headers=use), 401, "unauthorized")


def test_an_administrator_keeps_to_the_project(keyed: World) -> None:
    blue = keyed.key("admin", project="blue")
    keyed.key("read", project="red")
    assert [
        key["project"] for key in keyed.client.get("/v1/keys", headers=blue).json()["data"]
    ] == ["blue"]
    fault(keyed.client.post("/v1/keys", json={"project": "red"}, headers=blue), 403, "forbidden")
    red = next(
        key["id"]
        for key in keyed.client.get("/v1/keys", headers=ROOT).json()["data"]
        if key["project"] == "red"
    )
    fault(keyed.client.delete(f"/v1/keys/{red}", headers=blue), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"scopes": []}, "/scopes"),
        ({"project": "A b"}, "/project"),
        ({"x": 1}, "/x"),
        ([], ""),
        ({"name": "a\nb"}, "/name"),
    ],
)
def test_odd_keys(keyed: World, body: Any, pointer: str) -> None:
    fault(keyed.client.post("/v1/keys", json=body, headers=ROOT), 422, "invalid_request", pointer)


def test_nobody_locks_themselves_out(world: World) -> None:
    fault(world.client.post("/v1/keys", json={"scopes": ["read"]}), 409, "would_lock_out")
    assert world.client.get("/v1/keys").json()["data"] == []
    secret = world.client.post("/v1/keys", json={"scopes": ["admin"]}).json()["secret"]
    admin = {"Authorization": f"Bearer {secret}"}
    other = world.client.post("/v1/keys", json={"scopes": ["read"]}, headers=admin).json()["id"]
    own_key = next(
        key["id"]
        for key in world.client.get("/v1/keys", headers=admin).json()["data"]
        if key["id"] != other
    )
    fault(world.client.delete(f"/v1/keys/{own_key}", headers=admin), 409, "would_lock_out")
    assert world.client.delete(f"/v1/keys/{other}", headers=admin).status_code == 204
    assert world.client.delete(f"/v1/keys/{own_key}", headers=admin).status_code == 204
    assert world.client.get("/v1/jobs").status_code == 200


def test_another_projects_id_is_a_404_on_every_route(keyed: World) -> None:
    """The test tries every route with an id, also those that are added later."""
    blue, red = keyed.key("admin", project="blue"), keyed.key("admin", project="red")
    ids = {
        "models": keyed.model("blue"),
        "datasets": keyed.dataset("blue"),
        "jobs": keyed.job("succeeded", "blue"),
    }
    keyed.result(ids["jobs"], "magnitude-0.5", "sparse", b"x")
    keyed.result(ids["jobs"], "report", "json", b"{}")
    ids["keys"] = next(
        key["id"] for key in keyed.client.get("/v1/keys", headers=blue).json()["data"]
    )
    document = keyed.client.get("/openapi.json").json()
    tried = 0
    for path, operations in document["paths"].items():
        if "{id}" not in path:
            continue
        url = path.replace("{id}", ids[path.split("/")[2]]).replace("{cid}", "magnitude-0.5")
        for method in operations:
            fault(keyed.client.request(method, url, headers=red), 404, "not_found")
            tried += 1
    assert tried >= 15
    for name, reference in (("models", "model"), ("datasets", "dataset")):
        spec = {**SPEC, reference: {"id": ids[name]}}
        fault(
            keyed.client.post("/v1/jobs", json=spec, headers=red),
            404,
            "not_found",
            f"/{reference}/id",
        )
        assert keyed.client.get(f"/v1/{name}", headers=red).json()["data"] == []
        assert len(keyed.client.get(f"/v1/{name}", headers=blue).json()["data"]) == 1
    assert keyed.client.get("/v1/jobs", headers=red).json()["data"] == []
    assert keyed.client.get(f"/v1/jobs/{ids['jobs']}", headers=blue).status_code == 200


OPEN = {"/healthz", "/readyz", "/version", "/", "/assets/{name:path}", "/openapi.json"}


def test_every_other_route_asks_for_a_key(keyed: World) -> None:
    document = keyed.client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        if path in OPEN:
            continue
        url = path.replace("{id}", "job_06apt1c3nvg28o2e8b5hkq9s40").replace("{cid}", "x")
        for method in operations:
            fault(keyed.client.request(method, url), 401, "unauthorized")
    modules = [
        importlib.import_module(f"api.routes.{info.name}")
        for info in pkgutil.iter_modules(api.routes.__path__)
    ]
    hidden = {
        (route.path, method)
        for module in modules
        for route in module.router.routes
        if not route.include_in_schema
        for method in route.methods
    }
    assert hidden == {
        ("/", "GET"),
        ("/assets/{name:path}", "GET"),
        ("/v1/jobs/{id}/checkpoints/{cid}", "HEAD"),
        ("/healthz", "HEAD"),
        ("/readyz", "HEAD"),
    }
    assert (
        keyed.client.head("/v1/jobs/job_06apt1c3nvg28o2e8b5hkq9s40/checkpoints/x").status_code
        == 401
    )


def test_idempotency_keys_belong_to_a_project(keyed: World) -> None:
    ids = {
        keyed.client.post(
            "/v1/jobs",
            json=SPEC,
            headers={**keyed.key("write", project=name), "Idempotency-Key": "same"},
        ).json()["id"]
        for name in ("blue", "red")
    }
    assert len(ids) == 2
