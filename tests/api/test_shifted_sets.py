"""Shifted sets of a job's dataset: known to the estimate, kept, refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api_world import SPEC, World, fault


def shifted_spec(*ids: str, **dataset: str) -> dict[str, Any]:
    sets = [{"name": f"set{number}", "id": id} for number, id in enumerate(ids)]
    return {**SPEC, "dataset": {**(dataset or {"builtin": "digits"}), "shifted": sets}}


def test_the_estimate_gets_the_shifted_sets_and_a_live_job_keeps_them(world: World) -> None:
    first, second = world.dataset(), world.dataset(classes=("cat",))
    answer = world.client.post("/v1/jobs", json=shifted_spec(first, second))
    assert answer.status_code == 202
    _, payload = world.helper.questions[0]
    assert [reference["classes"] for reference in payload["shifted"]] == [["cat", "dog"], ["cat"]]
    fault(world.client.delete(f"/v1/datasets/{second}"), 409, "in_use")
    id = answer.json()["id"]
    assert world.client.post(f"/v1/jobs/{id}/cancel").status_code == 200
    assert world.client.delete(f"/v1/datasets/{second}").status_code == 204
    fault(world.client.post(f"/v1/jobs/{id}/retry"), 409, "missing_input")
    assert world.client.delete(f"/v1/jobs/{id}").status_code == 204
    assert world.client.delete(f"/v1/datasets/{first}").status_code == 204


def test_a_shifted_set_of_nobody_is_pointed_at(world: World) -> None:
    own, theirs = world.dataset(), world.dataset(project="other")
    answer = world.client.post("/v1/jobs", json=shifted_spec(own, theirs))
    assert fault(answer, 404, "not_found")["errors"][0]["pointer"] == "/dataset/shifted/1/id"


@pytest.mark.parametrize(
    "sets",
    [
        [{"name": "nominal", "id": "dst_00000000"}],
        [{"name": "Night watch", "id": "dst_00000000"}],
        [{"id": "dst_00000000"}],
        [{"name": "a", "id": "dst_00000000"}, {"name": "a", "id": "dst_00000001"}],
        [{"name": "a", "id": "mdl 1"}],
    ],
)
def test_odd_shifted_sets_are_refused(world: World, sets: list[dict[str, str]]) -> None:
    answer = world.client.post(
        "/v1/jobs", json={**SPEC, "dataset": {"builtin": "digits", "shifted": sets}}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/dataset")
