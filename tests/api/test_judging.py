"""Jobs that judge networks which were pruned elsewhere: what the service refuses, and keeps."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api_world import SPEC, World, fault

ARCH = {"conv1": {"type": "layer", "inputs": 3, "outputs": 4, "groups": 1}}


def judge(dense: str, *pruned: str, **fields: Any) -> dict[str, Any]:
    """The spec of a job that judges networks."""
    return {
        "type": "evaluate",
        "model": {"id": dense},
        "pruned": [{"id": id} for id in pruned],
        "dataset": {"builtin": "digits"},
        **fields,
    }


def upload_pair(world: World) -> tuple[str, str]:
    """A dense model and one that was pruned from it."""
    return world.model(), world.model(sha256="2" * 64)


def test_the_estimate_gets_the_pruned_models_and_a_live_job_keeps_them(world: World) -> None:
    dense, first = upload_pair(world)
    second = world.model(sha256="3" * 64, modules=ARCH)
    answer = world.client.post("/v1/jobs", json=judge(dense, first, second))
    assert answer.status_code == 202, answer.text
    assert answer.json()["type"] == "evaluate"
    _, payload = world.helper.questions[0]
    assert [described["modules"] for described in payload["pruned"]] == [None, ARCH]
    assert payload["model"]["parameters"] == 100
    id = answer.json()["id"]
    listed = world.client.get("/v1/jobs?type=evaluate").json()["data"]
    assert [row["id"] for row in listed] == [id]
    for model in (dense, first, second):
        fault(world.client.delete(f"/v1/models/{model}"), 409, "in_use")
    assert world.client.post(f"/v1/jobs/{id}/cancel").status_code == 200
    assert world.client.delete(f"/v1/models/{second}").status_code == 204
    fault(world.client.post(f"/v1/jobs/{id}/retry"), 409, "missing_input")
    assert world.client.delete(f"/v1/jobs/{id}").status_code == 204
    assert world.client.delete(f"/v1/models/{first}").status_code == 204


def test_a_job_that_is_validated_shows_every_default(world: World) -> None:
    dense, pruned = upload_pair(world)
    spec = judge(dense, pruned)
    answer = world.client.post("/v1/jobs?validate_only=true", json=spec).json()
    assert answer["spec"] == spec
    assert answer["recipe"]["gates"]["confidence"] == 0.95
    assert answer["foreseen"] == []
    assert world.client.get("/v1/jobs").json()["data"] == []


def test_models_that_are_not_there_are_pointed_at(world: World) -> None:
    dense, pruned = upload_pair(world)
    theirs = world.model(project="other")
    for id in (theirs, "mdl_00000000"):
        answer = world.client.post("/v1/jobs", json=judge(dense, pruned, id))
        fault(answer, 404, "not_found", "/pruned/1/id")
    fault(
        world.client.post("/v1/jobs", json=judge("mdl_00000000", pruned)),
        404,
        "not_found",
        "/model/id",
    )


def test_the_dense_model_is_not_pruned_from_itself(world: World) -> None:
    dense, pruned = upload_pair(world)
    same_file = world.model()
    for id in (dense, same_file):
        answer = world.client.post("/v1/jobs", json=judge(dense, pruned, id))
        fault(answer, 422, "same_model", "/pruned/1/id")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"pruned": []}, "/pruned"),
        ({"pruned": [{"id": f"mdl_{number:08d}"} for number in range(33)]}, "/pruned"),
        ({"pruned": [{"id": "mdl_00000001"}, {"id": "mdl_00000001"}]}, "/pruned"),
        (
            {
                "pruned": [
                    {"id": "mdl_00000001", "name": "a"},
                    {"id": "mdl_00000002", "name": "A"},
                ]
            },
            "/pruned",
        ),
        ({"pruned": [{"id": "mdl_00000001", "name": "control-2"}]}, "/pruned/0/name"),
        ({"pruned": [{"id": "mdl_00000001", "name": "a/b"}]}, "/pruned/0/name"),
        ({"model": {"architecture": "mlp"}}, "/model/id"),
        ({"targets": {"sparsity": [0.5]}}, "/targets"),
        ({"gates": {"min_certified_accuracy": 0.5}, "evaluations": []}, "/gates"),
        ({"evaluations": [{"name": "acuracy"}]}, "/evaluations/0/name"),
        ({"export": ["onnx", "onnx"]}, "/export"),
    ],
)
def test_what_is_wrong_is_pointed_at(world: World, fields: dict[str, Any], pointer: str) -> None:
    dense, pruned = upload_pair(world)
    answer = world.client.post("/v1/jobs", json=judge(dense, pruned, **fields))
    assert answer.status_code == 422, answer.text
    assert any(item["pointer"].startswith(pointer) for item in answer.json()["errors"]), answer.text


def test_a_network_without_channels_is_not_pruned_further(world: World) -> None:
    cut, dense = world.model(modules=ARCH), world.model()
    assert world.client.get(f"/v1/models/{cut}").json()["has_arch"] is True
    assert world.client.get(f"/v1/models/{dense}").json()["has_arch"] is False
    prune = {**SPEC, "model": {"id": cut}}
    fault(world.client.post("/v1/jobs", json=prune), 422, "cut_model", "/model/id")
    fault(world.client.post("/v1/jobs", json=judge(cut, dense)), 422, "cut_model", "/model/id")
    rewound = {
        **SPEC,
        "model": {"id": dense},
        "retrain": {"mode": "weight_rewind", "rewind": {"model": {"id": cut}}},
    }
    fault(world.client.post("/v1/jobs", json=rewound), 422, "cut_model", "/retrain/rewind/model/id")
