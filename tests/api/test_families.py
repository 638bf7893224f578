"""Families over HTTP: submitted, checked, refused."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.store.tables import Job, Outbox
from tests.support.api_families import SPEC, submit_family, take_turn
from tests.support.api_world import ESTIMATE, World, count_rows, fault


def test_a_family_is_accepted(world: World) -> None:
    answer = world.client.post("/v1/jobs", json={**SPEC, "labels": {"team": "a"}})
    assert answer.status_code == 202
    job = answer.json()
    place = f"/v1/jobs/{job['id']}"
    assert answer.headers["location"] == job["links"]["self"] == place
    assert (job["type"], job["status"], job["terminal"]) == ("family", "queued", False)
    assert job["spec"] == {**SPEC, "labels": {"team": "a"}}
    assert job["links"]["members"] == f"/v1/jobs?parent={job['id']}"
    assert (job["parent"], job["member"], job["links"]["parent"]) == (None, None, None)
    assert job["progress"] == {
        "done": 0.0,
        "total": ESTIMATE["units"],
        "eta_s": None,
        "members": None,
    }
    assert count_rows(world, Outbox) == 1
    assert world.client.get(job["links"]["members"]).json()["data"] == []
    ((verb, expected),) = world.helper.questions
    assert (verb, expected["spec"]["type"]) == ("estimate", "family")


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "famly"}, "/type", "unknown_type"),
    ({"type": []}, "/type", "unknown_type"),
    ({"type": {"a": 1}}, "/type", "unknown_type"),
    ({"type": None}, "/type", "unknown_type"),
    ({"floor_density": 1e-20}, "/floor_density", "value_error"),
    ({"floor_density": 0.6}, "/floor_density", "value_error"),
    ({"floor_density": 0}, "/floor_density", "greater_than"),
    ({"floor_density": 1}, "/floor_density", "less_than"),
    ({"keep": 1}, "/keep", "less_than_equal"),
    ({"keep": "half"}, "/keep", "float_parsing"),
    ({"members": {"depths": [1, 1], "widths": [8]}}, "/members/depths", "value_error"),
    ({"members": {"depths": [1], "widths": [8, 8.0]}}, "/members/widths", "value_error"),
    ({"members": {"depths": [1], "widths": [8], "seeds": [3, 3]}}, "/members/seeds", "value_error"),
    (
        {"members": {"depths": [1], "widths": [8], "fractions": [0.5, 0.5]}},
        "/members/fractions",
        "value_error",
    ),
    (
        {"members": {"depths": [1], "widths": [8], "fractions": [1.5]}},
        "/members/fractions/0",
        "less_than_equal",
    ),
    ({"members": {"depths": [1.5], "widths": [8]}}, "/members/depths/0", "int_from_float"),
    ({"members": {"depths": [], "widths": [8]}}, "/members/depths", "too_short"),
    ({"members": {"widths": [8]}}, "/members/depths", "missing"),
    (
        {"members": {"depths": list(range(1, 31)), "widths": list(range(1, 21))}},
        "/members",
        "value_error",
    ),
    ({"candidates": {"depths": [2, 2], "widths": [8]}}, "/candidates/depths", "value_error"),
    ({"max_error": [0.1, 0.1]}, "/max_error", "value_error"),
    ({"max_error": [0]}, "/max_error/0", "greater_than"),
    (
        {
            "method": "synflow",
            "model": {"architecture": "mlp", "train": {"epochs": 2, "rewind_epoch": 1}},
        },
        "/model",
        "value_error",
    ),
    ({"method": "magnitude"}, "/method", "literal_error"),
    (
        {"dataset": {"builtin": "digits", "shifted": [{"name": "night", "id": "dst_00000000"}]}},
        "/dataset",
        "value_error",
    ),
    (
        {"dataset": {"builtin": "digits", "limit": {"train": 10, "stratify": True}}},
        "/dataset",
        "value_error",
    ),
    ({"model": {"architecture": "mlp"}}, "/model/train", "missing"),
    ({"model": {"id": "mdl_00000000"}}, "/model/id", "extra_forbidden"),
    ({"adaptive": {"band": 0}}, "/adaptive/band", "greater_than"),
    ({"confidence": 0.5}, "/confidence", "greater_than"),
    *(
        ({name: value}, f"/{name}", "extra_forbidden")
        for name, value in {
            "targets": {"sparsity": [0.5]},
            "criterion": {"name": "magnitude"},
            "evaluations": [],
            "preset": "resnet20",
            "what": 1,
        }.items()
    ),
]


@pytest.mark.parametrize(("change", "pointer", "code"), BAD)
def test_bad_families_are_refused_where_they_are_wrong(
    untouched: World, change: dict[str, Any], pointer: str, code: str
) -> None:
    body = fault(
        untouched.client.post("/v1/jobs", json={**SPEC, **change}),
        422,
        "unknown_type" if pointer == "/type" else "invalid_request",
        pointer,
    )
    assert (pointer, code) in [(item["pointer"], item["code"]) for item in body["errors"]], body[
        "errors"
    ]
    assert untouched.helper.questions == []
    assert count_rows(untouched, Job) == 0


def test_messages_of_refusals_name_the_limits(world: World) -> None:
    def refuse(**change: Any) -> str:
        return str(
            world.client.post("/v1/jobs", json={**SPEC, **change}).json()["errors"][0]["message"]
        )

    assert "600 members; at most 512" in refuse(
        members={"depths": list(range(1, 31)), "widths": list(range(1, 21))}
    )
    assert "from 1 to 64" in refuse(keep=0.99, floor_density=0.01)
    assert "there are 'prune', 'family'" in refuse(type="famly")


def test_the_catalogue_and_the_store_are_asked(world: World) -> None:
    train = {"epochs": 1}
    fault(
        world.client.post(
            "/v1/jobs", json={**SPEC, "model": {"architecture": "mpl", "train": train}}
        ),
        422,
        "unknown_architecture",
        "/model/architecture",
    )
    fault(
        world.client.post(
            "/v1/jobs",
            json={**SPEC, "model": {"architecture": "mlp", "kwargs": {"hiden": 1}, "train": train}},
        ),
        422,
        "invalid_parameter",
        "/model/kwargs/hiden",
    )
    fault(
        world.client.post("/v1/jobs", json={**SPEC, "dataset": {"builtin": "digit"}}),
        422,
        "unknown_dataset",
        "/dataset/builtin",
    )
    theirs = world.dataset("other")
    for id in (theirs, "dst_00000000"):
        fault(
            world.client.post("/v1/jobs", json={**SPEC, "dataset": {"id": id}}),
            404,
            "not_found",
            "/dataset/id",
        )
    empty = world.dataset(counts={"test": 2})
    fault(
        world.client.post("/v1/jobs", json={**SPEC, "dataset": {"id": empty}}),
        422,
        "no_training_images",
        "/dataset/id",
    )
    assert count_rows(world, Job) == 0
    dataset = world.dataset()
    family = submit_family(world, dataset={"id": dataset})
    take_turn(world, family, "member")
    fault(world.client.delete(f"/v1/datasets/{dataset}"), 409, "in_use")
    assert world.client.post(f"/v1/jobs/{family}/cancel").status_code == 200
    assert world.client.delete(f"/v1/datasets/{dataset}").status_code == 204
    fault(world.client.post(f"/v1/jobs/{family}/retry"), 409, "missing_input")


def test_the_same_key_makes_one_family(world: World) -> None:
    headers = {"Idempotency-Key": "k"}
    first = world.client.post("/v1/jobs", json=SPEC, headers=headers)
    again = world.client.post("/v1/jobs", json=SPEC, headers=headers)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert count_rows(world, Job) == 1
    other = world.client.post("/v1/jobs", json={**SPEC, "keep": 0.6}, headers=headers)
    assert other.status_code in (409, 422)
    take_turn(world, first.json()["id"], "member")
    again = world.client.post("/v1/jobs", json=SPEC, headers=headers)
    assert again.json()["progress"]["members"] == {"ended": 0, "paused": 0, "total": 1}


def test_validate_only_stores_nothing_and_writes_defaults_in(world: World) -> None:
    answer = world.client.post("/v1/jobs?validate_only=true", json=SPEC)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["valid"], body["estimate"], body["spec"], body["foreseen"]) == (
        True,
        ESTIMATE,
        SPEC,
        [],
    )
    assert body["recipe"]["method"] == "imp"
    assert body["recipe"]["members"] == {
        "depths": [1, 2],
        "widths": [8.0, 16.0],
        "fractions": [1.0],
        "seeds": [0],
    }
    assert count_rows(world, Job) == 0


def test_jobs_are_listed_by_type(world: World) -> None:
    single, family = world.job(), submit_family(world)
    for kind, wanted in (("family", family), ("prune", single)):
        assert [row["id"] for row in world.client.get(f"/v1/jobs?type={kind}").json()["data"]] == [
            wanted
        ]
    fault(world.client.get("/v1/jobs?type=other"), 422, "invalid_parameter")
