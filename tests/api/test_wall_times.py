"""How long a job should take, and its place in the queue."""

from __future__ import annotations

import random
from typing import Any

import pytest

from api.wall_times import find_upper_quantile
from tasks.store import jobs
from tasks.store.tables import Job
from tests.support.api_world import ESTIMATE, SPEC, World

IMAGE_FLOPS = round(ESTIMATE["flops"] / ESTIMATE["units"])
"""The FLOPs of one image in the imitated estimate."""


def run_here(world: World, seconds: float, **changes: Any) -> None:
    """Store a job that succeeded after these seconds, as its worker tells."""
    timing = {
        "device": "cpu",
        "device_name": "Xeon",
        "threads": 2,
        "flops": ESTIMATE["flops"],
        "image_flops": IMAGE_FLOPS,
        "seconds": seconds,
    }
    store_summary(world, {"timing": timing | changes})


def store_summary(world: World, summary: dict[str, Any] | None) -> None:
    """Store a job that succeeded with this summary."""
    id = world.client.post("/v1/jobs", json=SPEC).json()["id"]
    with world.services.store.write() as session:
        job = session.get(Job, id)
        assert job is not None
        job.status, job.summary = "succeeded", summary


def estimate(world: World, **fields: Any) -> list[dict[str, Any]]:
    answer = world.client.post("/v1/jobs?validate_only=true", json=SPEC | fields)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["estimate"]["wall_times"]
    return rows


def test_nothing_is_said_where_nothing_ran(world: World) -> None:
    assert estimate(world) == []
    for summary in (None, {}, {"timing": {"seconds": 3}}):
        store_summary(world, summary)  # families, and jobs of earlier versions
    assert estimate(world) == []


def test_nine_jobs_bound_nine_in_ten_and_fewer_do_not(world: World) -> None:
    for number in range(1, 9):
        run_here(world, 10.0 * number)
    (row,) = estimate(world)
    assert row == {
        "device": "cpu",
        "device_name": "Xeon",
        "jobs": 8,
        "same_network": True,
        "p50_s": 45.0,
        "p90_s": None,
    }
    run_here(world, 500.0)
    (row,) = estimate(world)
    assert (row["jobs"], row["p50_s"], row["p90_s"]) == (9, 50.0, 500.0)
    assert estimate(world, replicates=2) == []


def test_time_is_in_proportion_to_the_flops(world: World) -> None:
    run_here(world, 30.0, flops=3 * ESTIMATE["flops"])
    assert estimate(world)[0]["p50_s"] == pytest.approx(10.0)


def test_jobs_of_the_same_network_are_compared_where_there_are_three(world: World) -> None:
    for _ in range(12):
        run_here(world, 1.0, image_flops=2 * IMAGE_FLOPS)
    for _ in range(2):
        run_here(world, 100.0)
    (row,) = estimate(world)
    assert (row["jobs"], row["same_network"], row["p50_s"]) == (14, False, 1.0)
    run_here(world, 100.0)
    (row,) = estimate(world)
    assert (row["jobs"], row["same_network"], row["p50_s"]) == (3, True, 100.0)


def test_each_kind_of_machine_has_its_own_times(world: World) -> None:
    run_here(world, 1.0, device="cuda", device_name="H200")
    for _ in range(2):
        run_here(world, 50.0)
    rows = estimate(world)
    assert [(row["device_name"], row["p50_s"]) for row in rows] == [("Xeon", 50.0), ("H200", 1.0)]


def test_jobs_of_other_projects_tell_nothing(world: World) -> None:
    run_here(world, 10.0)
    other = world.key("read", "write", project="another")
    answer = world.client.post("/v1/jobs?validate_only=true", json=SPEC, headers=other)
    assert answer.status_code == 200, answer.text
    assert answer.json()["estimate"]["wall_times"] == []


def test_the_upper_time_holds_for_nine_in_ten_further_jobs() -> None:
    """Also where jobs come in groups that are alike, as long as the next is of any of them."""
    generator = random.Random(5)
    covered, trials = 0, 4000
    for _ in range(trials):
        groups = [generator.gauss(0, 1) for _ in range(3)]
        times = [2.0 ** (generator.choice(groups) + generator.gauss(0, 0.1)) for _ in range(20)]
        further = times.pop()
        bound = find_upper_quantile(times, 0.9)
        assert bound is not None
        covered += further <= bound
    assert 0.88 * trials < covered


def test_a_queued_job_has_its_place(world: World) -> None:
    ids = [
        world.client.post("/v1/jobs", json=SPEC | {"priority": priority}).json()["id"]
        for priority in (4, 9, 4, 0)
    ]
    places = [world.client.get(f"/v1/jobs/{id}").json()["queue_position"] for id in ids]
    assert places == [2, 1, 3, 4]
    listed = world.client.get("/v1/jobs").json()["data"]
    assert {row["queue_position"] for row in listed} == {None}
    with world.services.store.write() as session:
        jobs.request(session, "default", ids[1], "cancel")
    assert world.client.get(f"/v1/jobs/{ids[1]}").json()["queue_position"] is None
    assert world.client.get(f"/v1/jobs/{ids[0]}").json()["queue_position"] == 1
