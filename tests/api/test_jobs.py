"""Submitting, reading, listing and steering jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tasks.store import jobs
from tasks.store.tables import Job, Outbox
from tests.support.api_world import ESTIMATE, SPEC, World, count_rows, fault


def test_a_job_is_stored_with_its_message_before_the_answer(world: World) -> None:
    response = world.client.post("/v1/jobs", json={**SPEC, "labels": {"team": "a"}})
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert response.headers["retry-after"] == "2"
    assert job["status"] == "queued"
    assert not job["terminal"]
    assert job["progress"] == {
        "done": 0.0,
        "total": ESTIMATE["units"],
        "eta_s": None,
        "members": None,
    }
    assert job["queue_position"] == 1
    assert job["spec"] == {**SPEC, "labels": {"team": "a"}}
    assert job["created_at"].endswith("Z")
    assert count_rows(world, Outbox) == 1
    assert world.services.wake.is_set()
    assert set(job) == {
        "id",
        "type",
        "status",
        "stage",
        "terminal",
        "progress",
        "queue_position",
        "attempt",
        "created_at",
        "started_at",
        "finished_at",
        "parent",
        "member",
        "spec",
        "error",
        "links",
    }


def test_validate_only_stores_nothing_and_writes_defaults_in(world: World) -> None:
    response = world.client.post("/v1/jobs?validate_only=true", json=SPEC)
    assert response.status_code == 200
    body = response.json()
    assert body["valid"] is True
    assert body["estimate"] == ESTIMATE
    assert body["recipe"]["criterion"] == {"name": "magnitude", "params": {}}
    assert body["spec"] == SPEC
    assert count_rows(world, Job) == count_rows(world, Outbox) == 0


def test_a_preset_is_written_out_where_it_is_checked_and_kept(world: World) -> None:
    job = {
        "type": "prune",
        "preset": "densenet22",
        "epochs_scale": 0.1,
        "dataset": {"builtin": "digits"},
        "seed": 3,
        "model": {"architecture": "mlp"},
        "evaluations": [{"name": "accuracy", "params": {}}],
    }
    validation = world.client.post("/v1/jobs?validate_only=true", json=job)
    assert validation.status_code == 200, validation.text
    spec = validation.json()["spec"]
    assert spec == {**spec, **job, "model": spec["model"]}
    assert spec["model"]["architecture"] == "mlp"
    assert spec["model"]["train"]["epochs"] == validation.json()["recipe"]["train"]["epochs"] == 30
    assert len(spec["targets"]["sparsity"]) == 22
    assert (spec["retrain"], spec["batchnorm"]) == ({"mode": "lr_rewind"}, "keep")
    submitted = world.client.post("/v1/jobs", json=job)
    assert submitted.status_code == 202
    assert (
        submitted.json()["spec"] == world.client.post("/v1/jobs", json=spec).json()["spec"] == spec
    )


def test_an_unknown_preset_is_answered_with_the_list(world: World) -> None:
    response = world.client.post(
        "/v1/jobs", json={"type": "prune", "preset": "resnet21", "dataset": {"builtin": "digits"}}
    )
    fault(response, 422, "invalid_request", "/preset")
    assert (
        "known: resnet20, resnet56, resnet110, vgg16, densenet22, wrn16_8"
        in response.json()["detail"]
    )


def test_a_dataset_without_training_images_is_no_dataset_of_a_job(world: World) -> None:
    dataset = world.dataset(counts={"train": 0, "val": 0, "test": 2})
    answer = world.client.post("/v1/jobs", json={**SPEC, "dataset": {"id": dataset}})
    fault(answer, 422, "no_training_images", "/dataset/id")


def test_an_idempotency_key_makes_one_job(world: World) -> None:
    headers = {"Idempotency-Key": "abc"}
    first = world.client.post("/v1/jobs", json=SPEC, headers=headers)
    again = world.client.post("/v1/jobs", json=SPEC, headers=headers)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    other = world.client.post("/v1/jobs", json={**SPEC, "seed": 1}, headers=headers)
    fault(other, 422, "idempotency_key_reused")
    assert count_rows(world, Job) == 1
    assert world.client.post("/v1/jobs", json=SPEC).json()["id"] != first.json()["id"]


def test_one_new_key_in_many_simultaneous_requests_makes_one_job(world: World) -> None:
    barrier = threading.Barrier(8)

    def post(_: int) -> tuple[int, str]:
        barrier.wait()
        response = world.client.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "race"})
        return response.status_code, response.json()["id"]

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(post, range(8)))
    assert len(answers) == 1
    assert count_rows(world, Job) == count_rows(world, Outbox) == 1


def test_a_key_that_another_transaction_took_is_replayed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL lets two transactions insert at once; the second meets the unique key."""
    create = jobs.create
    calls: list[str] = []

    def racing(session: Session, new: jobs.NewJob, **options: Any) -> tuple[Job, bool]:
        calls.append(options["idempotency_key"])
        if len(calls) == 1:
            raise IntegrityError("INSERT", {}, Exception("duplicate key"))
        return create(session, new, **options)

    monkeypatch.setattr(jobs, "create", racing)
    assert (
        world.client.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "k"}).status_code
        == 202
    )
    assert calls == ["k", "k"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä"])
def test_an_odd_idempotency_key_is_refused(world: World, key: str) -> None:
    response = world.client.post(
        "/v1/jobs", json=SPEC, headers={b"Idempotency-Key": key.encode("latin-1")}
    )
    fault(response, 422, "invalid_parameter")
    assert count_rows(world, Job) == 0


def test_prefer_wait_answers_when_the_job_ends(world: World) -> None:
    def finish() -> None:
        while not (page := world.client.get("/v1/jobs").json()["data"]):
            time.sleep(0.02)
        world.move(page[0]["id"], "succeeded")

    thread = threading.Thread(target=finish)
    thread.start()
    response = world.client.post(
        "/v1/jobs", json=SPEC, headers={"Prefer": "respond-async, wait=50"}
    )
    thread.join()
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=50"
    assert response.json()["terminal"]


def test_prefer_wait_gives_up(world: World) -> None:
    began = time.monotonic()
    response = world.client.post("/v1/jobs", json=SPEC, headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - began < 10
    assert response.json()["status"] == "queued"
    assert response.headers["preference-applied"] == "wait=1"


def test_a_failed_job_is_shown_with_200_and_an_etag(world: World) -> None:
    id = world.job("running")
    first = world.client.get(f"/v1/jobs/{id}")
    assert first.status_code == 200
    same = world.client.get(f"/v1/jobs/{id}", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    with world.services.store.write() as session:
        job = jobs.lock_job(session, id)
        assert job is not None
        job.error = {
            "code": "worker_lost",
            "message": "gone",
            "stage": "prune",
            "retryable": True,
            "attempt": 5,
        }
        jobs.set_status(session, job, "failed")
    then = world.client.get(f"/v1/jobs/{id}", headers={"If-None-Match": first.headers["etag"]})
    assert then.status_code == 200
    assert then.json()["terminal"]
    assert then.json()["error"]["code"] == "worker_lost"


def test_lists_are_pages_with_filters(world: World) -> None:
    ids = [world.job(labels={"team": "a=b" if number % 2 else "c"}) for number in range(5)]
    world.move(ids[0], "running")
    first = world.client.get("/v1/jobs?limit=2").json()
    assert [job["id"] for job in first["data"]] == [ids[4], ids[3]]
    assert first["has_more"]
    rest = world.client.get(
        "/v1/jobs", params={"limit": 100, "cursor": first["next_cursor"]}
    ).json()
    assert [job["id"] for job in rest["data"]] == [ids[2], ids[1], ids[0]]
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)
    assert [job["id"] for job in world.client.get("/v1/jobs?status=running").json()["data"]] == [
        ids[0]
    ]
    labelled = world.client.get("/v1/jobs", params={"label": "team=a=b"}).json()["data"]
    assert [job["id"] for job in labelled] == [ids[3], ids[1]]


@pytest.mark.parametrize("spec", ["{}", "[]", "null", '{"type": 3}'])
def test_a_job_whose_spec_is_corrupt_is_shown_with_the_others(world: World, spec: str) -> None:
    good, bad = world.job(), world.job()
    with world.services.store.write() as session:
        session.execute(
            text("UPDATE jobs SET spec = :spec WHERE id = :id"), {"spec": spec, "id": bad}
        )
    assert [job["id"] for job in world.client.get("/v1/jobs").json()["data"]] == [bad, good]
    assert isinstance(world.client.get(f"/v1/jobs/{bad}").json()["type"], str)
    assert world.client.post(f"/v1/jobs/{bad}/cancel").json()["status"] == "cancelled"


@pytest.mark.parametrize("key", ["", "a=b", "x" * 64])
def test_a_label_that_no_filter_finds_is_refused(world: World, key: str) -> None:
    fault(
        world.client.post("/v1/jobs", json={**SPEC, "labels": {key: "v"}}), 422, "invalid_request"
    )


@pytest.mark.parametrize("query", ["limit=101", "limit=0", "status=odd", "label=team"])
def test_odd_filters_are_refused(world: World, query: str) -> None:
    body = fault(world.client.get(f"/v1/jobs?{query}"), 422, "invalid_parameter")
    assert body["errors"][0]["parameter"] == query.partition("=")[0]


def test_a_cursor_from_elsewhere_is_refused(world: World) -> None:
    for _ in range(3):
        world.job()
        world.model()
    cursor = world.client.get("/v1/jobs?limit=1").json()["next_cursor"]
    for url, more in (("/v1/models", {}), ("/v1/datasets", {}), ("/v1/jobs", {"status": "queued"})):
        fault(world.client.get(url, params={"cursor": cursor, **more}), 400, "invalid_cursor")
    for odd in ("x", "%%%", "bnVsbA", "ä", cursor[:-3]):
        fault(world.client.get("/v1/jobs", params={"cursor": odd}), 400, "invalid_cursor")


STEPS = [
    ("queued", "cancel", 200, "cancelled"),
    ("running", "cancel", 202, "cancelling"),
    ("cancelling", "cancel", 200, "cancelling"),
    ("cancelled", "cancel", 200, "cancelled"),
    ("paused", "cancel", 200, "cancelled"),
    ("running", "pause", 202, "pausing"),
    ("queued", "pause", 200, "paused"),
    ("paused", "pause", 200, "paused"),
    ("paused", "resume", 202, "queued"),
    ("running", "resume", 200, "running"),
    ("queued", "resume", 200, "queued"),
    ("failed", "retry", 202, "queued"),
    ("cancelled", "retry", 202, "queued"),
    ("running", "retry", 200, "running"),
    ("succeeded", "cancel", 409, ""),
    ("failed", "pause", 409, ""),
    ("succeeded", "retry", 409, ""),
    ("cancelled", "resume", 409, ""),
]


@pytest.mark.parametrize(("before", "verb", "answer", "after"), STEPS)
def test_transitions(world: World, before: str, verb: str, answer: int, after: str) -> None:
    id = world.job(before)
    response = world.client.post(f"/v1/jobs/{id}/{verb}")
    if answer == 409:
        fault(response, 409, "illegal_transition")
    else:
        assert (response.status_code, response.json()["status"]) == (answer, after)
    assert world.services.wake.is_set() == (after == "queued")


def test_a_job_whose_model_is_gone_is_not_tried_again(world: World) -> None:
    model = world.model()
    id = world.job("failed", model_id=model)
    assert world.client.delete(f"/v1/models/{model}").status_code == 204
    fault(world.client.post(f"/v1/jobs/{id}/retry"), 409, "missing_input")


def test_delete_removes_rows_and_files_of_an_ended_job(world: World) -> None:
    id = world.job("running")
    world.result(id, "magnitude-0.5", "sparse", b"x")
    fault(world.client.delete(f"/v1/jobs/{id}"), 409, "in_use")
    world.move(id, "succeeded")
    assert world.client.delete(f"/v1/jobs/{id}").status_code == 204
    assert world.files() == []
    fault(world.client.get(f"/v1/jobs/{id}"), 404, "not_found")


def test_before_a_worker_has_booted_jobs_are_refused_for_now(build: Callable[..., World]) -> None:
    world = build(catalogue=False)
    for response in (world.client.post("/v1/jobs", json=SPEC), world.client.get("/v1/methods")):
        fault(response, 503, "catalogue_unpublished")
        assert response.headers["retry-after"]
