"""Health, version, metrics, catalogue, dashboard, description, imports."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tasks.queue
from api import openapi
from api.main import create_app
from pruning.schemas.job import JobSpec
from pruning.schemas.presets import PRESETS
from pruning.schemas.training import Train
from secateur.version import VERSION
from tests.support.api_world import ADMIN, CATALOGUE, World, fault


def test_health_and_version(world: World) -> None:
    assert world.client.get("/healthz").json() == {"status": "ok"}
    assert world.client.get("/readyz").json() == {"status": "ready"}
    assert world.client.get("/version").json() == {
        "name": "secateur",
        "version": VERSION,
        "api": "v1",
    }


def test_head_answers_as_get_without_a_body(build: Callable[..., World]) -> None:
    world = build(catalogue=False)
    for path, status in (("/healthz", 200), ("/readyz", 503)):
        response = world.client.head(path)
        assert (response.status_code, response.content) == (status, b"")
        assert (
            response.headers["content-length"] == world.client.get(path).headers["content-length"]
        )
    world.publish()
    assert world.client.head("/readyz").status_code == 200
    assert all(
        "head" not in operations for operations in openapi.describe(create_app())["paths"].values()
    )


def test_health_needs_no_thread(world: World) -> None:
    """Sync routes share 40 threads: holding all of them must not hold up the health check."""
    gate, held = threading.Event(), []

    def ping() -> None:
        held.append(1)
        assert gate.wait(30)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(48) as pool:
        patch.setattr(world.services.store, "ping", ping)
        for _ in range(48):
            pool.submit(world.client.get, "/readyz")
        while len(held) < 40:
            time.sleep(0.01)
        for path in ("/healthz", "/version"):
            assert world.client.get(path).status_code == 200
        gate.set()


def test_readiness_names_what_is_away(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(catalogue=False)

    def away(*_: object) -> None:
        raise ConnectionError("secret-host refused")

    body = fault(world.client.get("/readyz"), 503, "not_ready")
    assert body["detail"] == "no worker has published its catalogue yet"
    for target, name in (
        (tasks.queue, "broker"),
        (type(world.services.artifacts), "artifact store"),
        (world.services.store, "database"),
    ):
        monkeypatch.setattr(target, "ping_broker" if name == "broker" else "ping", away)
        response = world.client.get("/readyz")
        body = fault(response, 503, "not_ready")
        assert body["detail"] == f"the {name} does not answer (ConnectionError)"
        assert response.headers["retry-after"] == "5"


def test_metrics_count_requests_by_route(world: World) -> None:
    id = world.job("running")
    world.client.get(f"/v1/jobs/{id}")
    world.client.get("/no/such/path")
    world.client.request("BREW", "/healthz")
    text = world.client.get("/metrics").text
    assert (
        'secateur_http_requests_total{method="GET",route="/v1/jobs/{id}",status="200"} 1.0' in text
    )
    assert 'route="unmatched",status="404"' in text
    assert 'method="other"' in text
    assert "BREW" not in text
    assert 'secateur_jobs{status="running"} 1.0' in text
    assert "secateur_http_request_seconds_bucket" in text


def test_metrics_are_for_this_machine_and_administrators(build: Callable[..., World]) -> None:
    world = build(client=("192.0.2.7", 1), api_key=ADMIN)
    fault(world.client.get("/metrics"), 401, "unauthorized")
    fault(world.client.get("/metrics", headers=world.key("write")), 403, "forbidden")
    assert (
        world.client.get("/metrics", headers={"Authorization": f"Bearer {ADMIN}"}).status_code
        == 200
    )


def test_the_catalogue(world: World) -> None:
    response = world.client.get("/v1/methods")
    assert response.json() == CATALOGUE
    again = world.client.get("/v1/methods", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    world.publish({**CATALOGUE, "datasets": []})
    assert world.client.get("/v1/methods").headers["etag"] != response.headers["etag"]


def test_the_dashboard_is_served_with_a_policy(world: World) -> None:
    page = world.client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    files = [page, world.client.get("/assets/app.js"), world.client.get("/assets/style.css")]
    for file in files:
        assert file.status_code == 200
        policy = file.headers["content-security-policy"]
        for rule in (
            "default-src 'self'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data: blob:",
        ):
            assert rule in policy.split("; ")
        assert file.headers["x-content-type-options"] == "nosniff"
    assert files[1].headers["content-type"].startswith("text/javascript")
    for odd in ("..%2fmain.py", "%2e%2e/main.py", "nothing.js", "a%00.js", "%2fetc%2fpasswd"):
        fault(world.client.get(f"/assets/{odd}"), 404, "not_found")


def test_the_committed_description_is_current() -> None:
    assert openapi.COPY.read_text(encoding="utf-8") == openapi.render(create_app()), (
        "run: python -m api.openapi"
    )


def test_the_description_is_complete() -> None:
    document = openapi.describe(create_app())
    assert document["openapi"].startswith("3.1")
    ids = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            ids.append(operation["operationId"])
            assert operation["summary"]
            assert operation["tags"]
            problems = {
                status: answer
                for status, answer in operation["responses"].items()
                if int(status) >= 400
            }
            if path.startswith("/v1"):
                assert {"401", "403"} <= set(problems)
            for status, answer in problems.items():
                content = answer["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
                assert content["example"]["status"] == int(status)
    assert len(ids) == len(set(ids))
    text = openapi.render(create_app())
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])


def test_the_description_of_the_service_is_served(world: World) -> None:
    assert world.client.get("/openapi.json").json() == openapi.describe(create_app())


def test_the_presets_are_listed_with_what_they_fill_in(world: World) -> None:
    items = {entry["name"]: entry for entry in world.client.get("/v1/presets").json()["items"]}
    assert list(items) == list(PRESETS)
    assert items["resnet20"]["train"]["epochs"] == items["resnet20"]["retrain_epochs"] == 182
    assert items["vgg16"]["retrain_epochs"] == 150
    assert (items["loss_mlp"]["runs"], len(items["loss_mlp"]["criteria"])) == (5, 82)
    for name, entry in items.items():
        job = {"type": "prune", "preset": name, "dataset": {"builtin": "digits"}}
        expanded = JobSpec.model_validate(job)
        assert list(expanded.targets.values) == entry["sparsities"]
        assert expanded.model.train == Train.model_validate(entry["train"])


@pytest.mark.parametrize("module", ["api.http.pointers", "api.http.files", "api.schemas.times"])
def test_the_examples_in_docstrings(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert (failed, tried > 0) == (0, True)


def test_the_api_imports_neither_torch_nor_the_numeric_libraries() -> None:
    code = (
        "import sys, api.main; api.main.create_app(); "
        "print([m for m in ('torch', 'torchvision', 'numpy', 'scipy', 'sklearn', 'matplotlib') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"
