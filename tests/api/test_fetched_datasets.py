"""Datasets by URL: noted by the API, which never fetches them itself."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tasks.store import sources
from tests.support.api_world import SPEC, World

SOURCE: dict[str, Any] = {
    "url": "https://example.org/sets/photos.zip?version=2",
    "sha256": 32 * "aB",
    "preprocessing": {"crop": 32, "mean": [0.5] * 3, "std": [0.2] * 3},
    "classes": ["cat", "dog"],
}


def test_a_dataset_by_url_is_fetched_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("the API resolves no names")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    response = world.client.post("/v1/datasets/fetch", json=SOURCE)
    assert response.status_code == 202, response.text
    body = response.json()
    assert response.headers["location"] == f"/v1/datasets/{body['id']}"
    assert (body["state"], body["name"], body["sha256"]) == ("fetching", "photos.zip", 32 * "ab")
    assert body["source"]["url"] == SOURCE["url"]
    assert body["source"]["tries"] == 0
    assert body["error"] is None
    assert body["normalize"] == {"mean": [0.5] * 3, "std": [0.2] * 3}
    assert body["preprocessing"]["crop"] == 32
    assert world.helper.questions == []
    assert world.client.get(f"/v1/datasets/{body['id']}").json() == body
    assert [row["id"] for row in world.client.get("/v1/datasets").json()["data"]] == [body["id"]]
    assert world.client.delete(f"/v1/datasets/{body['id']}").status_code == 204


CASES: list[tuple[dict[str, Any], str]] = [
    ({"url": "http://example.org/x"}, "/url"),
    ({"url": "file:///etc/passwd"}, "/url"),
    ({"url": "https://user:secret@example.org/x"}, "/url"),
    ({"url": "https:///x"}, "/url"),
    ({"url": "https://example.org:port/x"}, "/url"),
    ({"url": "s3://bucket"}, "/url"),
    ({"url": "https://example.org/a b"}, "/url"),
    ({"sha256": "abc"}, "/sha256"),
    ({"sha256": None}, "/sha256"),
    ({"normalize": {"mean": [120], "std": [60]}}, "/normalize/mean"),
    ({"other": 1}, "/other"),
]


def test_what_no_worker_would_fetch_is_refused(world: World) -> None:
    for change, pointer in CASES:
        body = {"url": SOURCE["url"], "sha256": SOURCE["sha256"], **change}
        response = world.client.post("/v1/datasets/fetch", json=body)
        assert response.status_code == 422, response.text
        assert response.json()["errors"][0]["pointer"] == pointer


def test_a_job_takes_a_dataset_once_it_is_fetched(world: World) -> None:
    id = world.client.post("/v1/datasets/fetch", json=SOURCE).json()["id"]
    spec = {**SPEC, "dataset": {"id": id}}
    response = world.client.post("/v1/jobs", json=spec)
    assert response.status_code == 409, response.text
    assert response.json()["code"] == "dataset_not_ready"
    assert response.json()["errors"][0]["pointer"] == "/dataset/id"
    failure = {"code": "source_unavailable", "message": "the server answers 503", "retryable": True}
    store = world.services.store
    with store.write() as session:
        claim = sources.claim_source(session, 60.0)
        assert claim is not None
        sources.postpone(session, claim, 0.0, failure)
    body = world.client.get(f"/v1/datasets/{id}").json()
    assert (body["state"], body["error"], body["source"]["tries"]) == ("fetching", failure, 1)
    assert body["source"]["next_try_at"] is not None
    with store.write() as session:
        claim = sources.claim_source(session, 60.0)
        assert claim is not None
        sources.fail(session, claim, failure)
    assert world.client.get(f"/v1/datasets/{id}").json()["state"] == "failed"
    response = world.client.post("/v1/jobs", json=spec)
    assert "the server answers 503" in response.json()["errors"][0]["message"]
    with store.write() as session:
        claim.dataset.due_at = None
        session.merge(claim.dataset)
    other = world.client.post("/v1/datasets/fetch", json=SOURCE).json()["id"]
    with store.write() as session:
        claim = sources.claim_source(session, 60.0)
        assert claim is not None
        assert claim.dataset.id == other
        sources.finish(
            session,
            claim,
            classes=["cat", "dog"],
            shape=[3, 32, 32],
            counts={"train": 4, "test": 2},
        )
    body = world.client.get(f"/v1/datasets/{other}").json()
    assert (body["state"], body["shape"]) == ("ready", [3, 32, 32])
    response = world.client.post("/v1/jobs", json={**SPEC, "dataset": {"id": other}})
    assert response.status_code == 202, response.text
