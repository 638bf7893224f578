"""Jobs with replicates over HTTP: submitted, refused, listed, steered, and their results."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.store import claims, families
from tests.support.api_families import read_statuses
from tests.support.api_world import ESTIMATE, SPEC, World, fault


def submit(world: World, **changes: Any) -> str:
    """Submit a job with replicates and return its id."""
    answer = world.client.post("/v1/jobs", json={**SPEC, "replicates": 2, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def start_replicates(world: World, id: str) -> list[str]:
    """Take the first turn of the job, and return its replicates."""
    wanted = [
        {
            "key": f"seed{seed}",
            "member": {"role": "replicate", "seed": seed},
            "units": ESTIMATE["units"] / 2,
            "spec": {**SPEC, "seed": seed},
        }
        for seed in (0, 1)
    ]
    with world.services.store.write() as session:
        claim = claims.claim(session, id, "turn", 60.0, max_attempts=5)
        assert claim is not None
        ids = families.start_members(session, claim, wanted)
        families.park(session, claim, dict.fromkeys(ids, "queued"))
        return ids


def test_a_job_with_replicates_is_accepted_and_lists_them(world: World) -> None:
    model = world.model()
    spec = {"model": {"id": model}, "replicates": 2}
    id = submit(world, **spec)
    job = world.client.get(f"/v1/jobs/{id}").json()
    assert (job["type"], job["links"]["members"]) == ("prune", f"/v1/jobs?parent={id}")
    assert job["spec"]["replicates"] == 2
    ((_, payload),) = world.helper.questions
    assert payload["spec"]["replicates"] == 2
    replicates = start_replicates(world, id)
    listed = world.client.get(f"/v1/jobs?parent={id}").json()["data"]
    assert [row["id"] for row in listed] == replicates[::-1]
    assert listed[0]["member"] == {"role": "replicate", "seed": 1}
    assert listed[0]["links"]["parent"] == f"/v1/jobs/{id}"
    assert listed[0]["links"]["members"] is None
    world.move(replicates[0], "succeeded")
    progress = world.client.get(f"/v1/jobs/{id}").json()["progress"]
    assert progress["members"] == {"ended": 1, "paused": 0, "total": 2}
    refused = world.client.delete(f"/v1/models/{model}")
    assert refused.status_code == 409, "a replicate needs it"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"replicates": 0}, "greater_than_equal"),
        ({"replicates": 33}, "less_than_equal"),
        ({"replicates": 2.5}, "int_from_float"),
        ({"replicates": "many"}, "int_parsing"),
        ({"replicates": 2, "seed": 2**63 - 1}, "value_error"),
        (
            {
                "type": "family",
                "replicates": 2,
                "members": {"depths": [1, 2], "widths": [8, 16]},
            },
            "value_error",
        ),
    ],
)
def test_a_number_of_replicates_that_does_not_fit_is_pointed_at(
    world: World, changes: dict[str, Any], code: str
) -> None:
    body = fault(
        world.client.post("/v1/jobs", json=SPEC | changes), 422, "invalid_request", "/replicates"
    )
    assert [item["code"] for item in body["errors"]] == [code]


def test_what_a_client_asks_of_the_job_is_passed_on(world: World) -> None:
    id = submit(world)
    first, second = start_replicates(world, id)
    world.client.post(f"/v1/jobs/{id}/pause")
    assert read_statuses(world, id, first, second) == ["paused"] * 3
    world.client.post(f"/v1/jobs/{id}/resume")
    assert read_statuses(world, id, first, second) == ["queued"] * 3
    world.move(first, "succeeded")
    world.client.post(f"/v1/jobs/{id}/cancel")
    assert read_statuses(world, id, first, second) == ["cancelled", "succeeded", "cancelled"]
    world.client.post(f"/v1/jobs/{id}/retry")
    assert read_statuses(world, id, first, second) == ["queued", "succeeded", "queued"]
    assert world.client.delete(f"/v1/jobs/{id}").status_code == 409
    world.client.post(f"/v1/jobs/{id}/cancel")
    assert world.client.delete(f"/v1/jobs/{id}").status_code == 204
    assert world.client.get(f"/v1/jobs/{second}").status_code == 404


def test_the_checkpoints_of_the_job_are_those_of_its_replicates(world: World) -> None:
    id = submit(world)
    replicates = start_replicates(world, id)
    report = b'{"checkpoints": [{"id": "magnitude-0.5"}], "replicates": [{"seed": 0}]}'
    world.result(id, "report", "json", report)
    for job in replicates:
        world.result(job, "magnitude-0.5", "sparse", b"network")
    listed = world.client.get(f"/v1/jobs/{id}/checkpoints").json()["data"]
    assert [(row["job"], row["id"]) for row in listed] == [
        (job, "magnitude-0.5") for job in replicates
    ]
    partial = world.client.get(f"/v1/jobs/{id}/report")
    assert partial.status_code == 200, "a partial report while the replicates run"
