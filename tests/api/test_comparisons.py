"""`GET /v1/compare`: jobs side by side, on the images that they share."""

from __future__ import annotations

from typing import Any

import pytest
from safetensors.numpy import save

from api.routes.comparisons import MOST_JOBS
from tests.support.api_world import World, fault
from tests.support.compared import make_job

BROKEN: list[dict[str, Any]] = [{}, {"job": ["job_00000000"]}, {"job": ["job_00000000"] * 2}]


def store(world: World, *, images: bool = True, model: str | None = None, **fields: Any) -> str:
    """Store a job that succeeded, with its report and the errors on each image."""
    id = world.job("succeeded", model_id=model)
    job = make_job(id, **fields)
    world.result(id, "report", "json", job.report.model_dump_json().encode())
    if images:
        world.result(id, "report", "images", save(dict(job.tensors)))
    return id


def compare(world: World, **params: Any) -> Any:
    return world.client.get("/v1/compare", params=params)


def test_jobs_are_compared_on_their_images(world: World) -> None:
    ids = [store(world), store(world, rates=(0.3, 0.5), seed=1)]
    answer = compare(world, job=ids)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["jobs"] == ids
    assert body["images"] == 400
    assert [row["lower"] for row in body["differences"]] == ["first", "first"]
    assert {front["cost"] for front in body["fronts"]} == {"size_bytes", "flops", "latency_ms"}
    assert len(body["networks"]) == 6


def test_a_model_has_a_front_over_all_its_jobs(world: World) -> None:
    model = world.model()
    digits = [store(world, model=model, images=False) for _ in range(2)]
    body = compare(world, model=model).json()
    assert sorted(body["jobs"]) == sorted(digits)
    assert (body["images"], body["differences"]) == (None, [])
    store(world, model=world.model())
    assert compare(world, model=model).json() == body
    other = make_job("job_a").report.data.model_copy(update={"sha256": "ef" * 32, "name": "photos"})
    newest = store(world, model=model, data=other)
    body = compare(world, model=model).json()
    assert body["jobs"] == [newest]
    assert body["notes"][-1] == "Of its jobs 2 are left out: they are not on photos."


@pytest.mark.parametrize("params", BROKEN)
def test_it_takes_two_jobs_or_a_model(world: World, params: dict[str, Any]) -> None:
    fault(compare(world, **params), 422, "invalid_parameter")
    ids = [store(world), store(world)]
    fault(compare(world, job=ids, model=world.model()), 422, "invalid_parameter")
    many = [f"job_{number:08}" for number in range(MOST_JOBS + 1)]
    assert compare(world, job=many).status_code == 422


def test_what_cannot_be_compared_says_why(world: World) -> None:
    whole = store(world)
    running = world.job("running")
    fault(compare(world, job=[whole, running]), 409, "job_not_finished")
    fault(compare(world, job=[whole, "job_00000000"]), 404, "not_found")
    fault(compare(world, model="mdl_00000000"), 404, "not_found")
    fault(compare(world, model=world.model()), 409, "not_comparable")
    without = store(world, images=False)
    body = fault(compare(world, job=[whole, without]), 409, "not_comparable")
    assert "ran before version 0.2.0" in body["detail"]
    apart = store(world, indices=range(400, 500))
    body = fault(compare(world, job=[whole, apart]), 409, "not_comparable")
    assert "share no test image" in body["detail"]


def test_jobs_of_other_projects_are_not_found(world: World) -> None:
    id = world.job("succeeded", project="another")
    fault(compare(world, job=[store(world), id]), 404, "not_found")
