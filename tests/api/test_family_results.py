"""What families answer over HTTP: results, reports, predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from pruning.laws.family_queries import read_family_law
from pruning.schemas.family_report import FamilyReport
from tasks.store import jobs
from tests.support import family_world
from tests.support.api_families import SPEC, read_statuses, submit_family, take_turn
from tests.support.api_world import ADMIN, World, fault


def test_results_have_the_checkpoints_of_the_answers(world: World) -> None:
    id = submit_family(world)
    member, answer, failed = take_turn(world, id, "member", "answer", "answer")
    fault(world.client.get(f"/v1/jobs/{id}/results"), 409, "job_not_finished")
    checkpoint = {
        "id": "magnitude-0.9",
        "criterion": {"name": "magnitude", "params": {}},
        "requested_sparsity": 0.9,
        "sparsity": 0.9,
        "density": 0.1,
        "error": {"value": 0.1, "low": 0.08, "high": 0.12, "n": 100},
        "partial": False,
    }
    for job in (member, answer):
        world.result(job, "report", "json", json.dumps({"checkpoints": [checkpoint]}).encode())
        world.result(job, "magnitude-0.9", "sparse", job.encode())
        world.move(job, "succeeded")
    world.move(failed, "failed")
    report: dict[str, Any] = {
        "type": "family",
        "recommendation": {"job": answer, "checkpoint": "magnitude-0.9", "reason": "x"},
        "gates": [
            {
                "outcome": "undecided",
                "passed": False,
                "limit": 0.1,
                "value": 0.1,
                "low": 0.08,
                "high": 0.12,
                "needed": 4000,
                "job": answer,
                "checkpoint": "magnitude-0.9",
                "message": "x",
            }
        ],
    }
    world.result(id, "report", "json", json.dumps(report).encode())
    world.move(id, "succeeded")
    body = world.client.get(f"/v1/jobs/{id}/results").json()
    assert body["report"] == report
    assert body["recommendation"] == {**report["recommendation"], "verdict": None}
    assert body["gates"] == [{"name": "max_error", **report["gates"][0]}]
    (result,) = body["checkpoints"]
    assert (result["job"], result["id"], result["error"]["value"], result["partial"]) == (
        answer,
        "magnitude-0.9",
        0.1,
        False,
    )
    assert world.client.get(result["links"]["sparse"]).content == answer.encode()
    assert world.client.get(f"/v1/jobs/{id}/report?format=json").json() == report


@cache
def simulated() -> FamilyReport:
    return family_world.reported()


@pytest.fixture
def reported(world: World) -> str:
    """A family that has ended, with its law."""
    return ended(world, simulated().model_dump_json())


def ended(world: World, report: str | None) -> str:
    id = submit_family(world)
    if report is not None:
        world.result(id, "report", "json", report.encode())
    world.move(id, "succeeded")
    return id


def predict(world: World, id: str, **question: Any) -> Any:
    return world.client.post(f"/v1/jobs/{id}/predict", json=question)


def test_every_network_is_told_at_every_density(world: World, reported: str) -> None:
    body = predict(world, reported, densities=[0.5, 0.1]).json()
    assert body["criterion"] == "family"
    law = read_family_law(simulated().model_dump(mode="json"))
    assert law is not None
    assert (body["law"]["phi"], body["law"]["psi"]) == (law.phi, law.psi)
    assert (body["law"]["networks"], body["law"]["unpruned_error"]) == (18, None)
    rows = body["predictions"]
    networks = [(float(depth), float(width)) for depth in (1, 2, 3) for width in (8, 16, 32)]
    assert sorted((row["depth"], row["width"], row["density"]) for row in rows) == sorted(
        (*network, density) for network in networks for density in (0.5, 0.1)
    )
    for row in rows:
        assert row["error"]["low"] < row["error"]["value"] < row["error"]["high"]
        assert row["sparsity"] == pytest.approx(1 - row["density"])
        size = next(
            candidate
            for candidate in simulated().candidates
            if (candidate.depth, candidate.width) == (row["depth"], row["width"])
        )
        assert row["unpruned_error"] == size.unpruned_error
        assert row["parameters"] == pytest.approx(
            size.parameters - (1 - row["density"]) * size.prunable
        )
    narrow = predict(world, reported, densities=[0.5], depth=2, width=16, confidence=0.6).json()[
        "predictions"
    ]
    (wide,) = [row for row in rows if (row["depth"], row["width"], row["density"]) == (2, 16, 0.5)]
    assert narrow[0]["error"]["value"] == wide["error"]["value"]
    assert narrow[0]["error"]["high"] < wide["error"]["high"]


def test_one_depth_or_one_width(world: World, reported: str) -> None:
    rows = predict(world, reported, densities=[0.5], depth=2).json()["predictions"]
    assert {(row["depth"], row["width"]) for row in rows} == {(2, 8), (2, 16), (2, 32)}
    rows = predict(world, reported, densities=[0.5], width=8).json()["predictions"]
    assert {(row["depth"], row["width"]) for row in rows} == {(1, 8), (2, 8), (3, 8)}


@pytest.mark.parametrize(
    ("question", "pointer"),
    [
        ({"depth": 9}, "/depth"),
        ({"width": 9}, "/width"),
        ({"depth": 2, "width": 9}, "/width"),
        ({"depth": 9, "width": 8}, "/depth"),
    ],
)
def test_a_network_that_is_not_there(
    world: World, reported: str, question: dict[str, Any], pointer: str
) -> None:
    for expected in ({"densities": [0.5]}, {"max_error": 0.12}):
        body = fault(
            predict(world, reported, **expected, **question), 422, "invalid_parameter", pointer
        )
        assert "1 x 8, 1 x 16" in body["errors"][0]["message"]


def test_an_error_gets_the_networks_with_the_fewest_parameters_first(
    world: World, reported: str
) -> None:
    rows = predict(world, reported, max_error=0.12).json()["predictions"]
    assert len(rows) > 1
    assert [row["parameters"] for row in rows] == sorted(row["parameters"] for row in rows)
    assert len({(row["depth"], row["width"]) for row in rows}) == len(rows)
    answer = simulated().answers[0]
    assert (rows[0]["depth"], rows[0]["width"]) == (answer.depth, answer.width)
    assert all(row["error"]["value"] == pytest.approx(0.12) or row["density"] == 1 for row in rows)
    only = predict(world, reported, max_error=0.12, depth=3).json()["predictions"]
    assert [row for row in rows if row["depth"] == 3] == only


def test_what_a_family_cannot_tell_is_said_by_name(world: World, reported: str) -> None:
    body = fault(predict(world, reported, max_error=0.001), 422, "unreachable", "/max_error")
    assert "an error of 0.10 %" in body["errors"][0]["message"]
    fault(
        predict(world, reported, max_error=0.12, criterion="magnitude"),
        422,
        "unknown_criterion",
        "/criterion",
    )
    for odd in ({"depth": 0}, {"width": -1}, {"depth": "deep"}):
        assert predict(world, reported, densities=[0.5], **odd).status_code == 422


def test_depth_is_no_question_to_a_single_network(world: World) -> None:
    id = world.job("succeeded")
    world.result(id, "report", "json", b'{"sections": {}}')
    body = fault(
        predict(world, id, densities=[0.5], depth=2, width=8), 422, "invalid_parameter", "/depth"
    )
    assert "/width" in [item["pointer"] for item in body["errors"]]


def test_a_family_without_a_law_says_why(world: World) -> None:
    early = family_world.reported(turns=0)
    assert early.law is None
    body = fault(
        predict(world, ended(world, early.model_dump_json()), densities=[0.5]),
        409,
        "no_scaling_law",
    )
    assert "no member has measured anything yet" in body["detail"]
    fault(predict(world, ended(world, None), densities=[0.5]), 409, "no_scaling_law")
    fault(predict(world, submit_family(world), densities=[0.5]), 409, "job_not_finished")


def test_a_law_without_networks_says_so(world: World) -> None:
    bare = simulated().model_copy(update={"candidates": ()})
    body = fault(
        predict(world, ended(world, bare.model_dump_json()), densities=[0.5]),
        422,
        "invalid_parameter",
        "",
    )
    assert "no candidate was run" in body["detail"]


def test_keys_and_projects(build: Callable[..., World]) -> None:
    world = build(api_key=ADMIN)
    client = world.client
    own, other = world.key("read", "write"), world.key("read", "write", project="other")
    reader = world.key("read")
    id = client.post("/v1/jobs", json=SPEC, headers=own).json()["id"]
    (member,) = take_turn(world, id, "member")
    assert client.get(f"/v1/jobs?parent={id}", headers=reader).json()["data"][0]["id"] == member
    assert client.get(f"/v1/jobs?parent={id}", headers=other).json()["data"] == []
    for verb in ("cancel", "pause", "resume", "retry"):
        fault(client.post(f"/v1/jobs/{id}/{verb}", headers=reader), 403, "forbidden")
        for job in (id, member):
            fault(client.post(f"/v1/jobs/{job}/{verb}", headers=other), 404, "not_found")
    for job in (id, member):
        fault(client.get(f"/v1/jobs/{job}", headers=other), 404, "not_found")
        fault(client.delete(f"/v1/jobs/{job}", headers=other), 404, "not_found")
    fault(client.post("/v1/jobs", json=SPEC, headers=reader), 403, "forbidden")
    with world.services.store.read() as session:
        assert jobs.get(session, "default", id).status == "running"
    world.result(id, "report", "json", simulated().model_dump_json().encode())
    world.move(id, "succeeded")
    fault(
        client.post(f"/v1/jobs/{id}/predict", json={"max_error": 0.12}, headers=other),
        404,
        "not_found",
    )
    fault(client.get(f"/v1/jobs/{id}/results", headers=other), 404, "not_found")
    assert (
        client.post(f"/v1/jobs/{id}/predict", json={"max_error": 0.12}, headers=reader).status_code
        == 200
    )


def test_a_familys_report_and_law_are_there_while_members_run(world: World) -> None:
    id = submit_family(world)
    take_turn(world, id, "member")
    fault(world.client.get(f"/v1/jobs/{id}/report"), 409, "job_not_finished")
    fault(predict(world, id, densities=[0.5]), 409, "job_not_finished")
    world.result(id, "report", "json", simulated().model_dump_json().encode())
    assert read_statuses(world, id) == ["running"]
    assert world.client.get(f"/v1/jobs/{id}/report?format=json").json()["type"] == "family"
    assert len(predict(world, id, densities=[0.5]).json()["predictions"]) == len(
        simulated().candidates
    )
    fault(world.client.get(f"/v1/jobs/{id}/report?format=html"), 409, "job_not_finished")
    fault(world.client.get(f"/v1/jobs/{id}/results"), 409, "job_not_finished")
    single = world.job("running")
    world.result(single, "report", "json", b"{}")
    fault(world.client.get(f"/v1/jobs/{single}/report"), 409, "job_not_finished")
