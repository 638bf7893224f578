"""Families over HTTP: submitted, refused, steered with their members, deleted; their results."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from sqlalchemy import update

from pruning.laws.family_queries import read_family_law
from pruning.schemas.family_report import FamilyReport
from tasks.store import claims, families, jobs
from tasks.store.tables import FamilyMember, Job, Outbox
from tests.support import family_world
from tests.support.api_world import ADMIN, ESTIMATE, World, fault

SPEC: dict[str, Any] = {
    "type": "family",
    "model": {"architecture": "mlp", "train": {"epochs": 2}},
    "dataset": {"builtin": "digits"},
    "members": {"depths": [1, 2], "widths": [8, 16]},
    "keep": 0.5,
    "floor_density": 0.1,
}


def submit(world: World, **changes: Any) -> str:
    answer = world.client.post("/v1/jobs", json={**SPEC, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def turn(world: World, id: str, *roles: str) -> list[str]:
    """Take a turn that starts these members, and return all members."""
    wanted = [
        {
            "key": f"{role}-{index}",
            "member": {"role": role, "depth": 1.0, "width": float(index)},
            "units": 8.0,
            "spec": {"type": "prune", "dataset": {"builtin": "digits"}},
        }
        for index, role in enumerate(roles)
    ]
    with world.services.store.write() as session:
        claim = claims.claim(session, id, "turn", 60.0, max_attempts=5)
        assert claim is not None
        ids = families.start_members(session, claim, wanted)
        families.park(session, claim, dict.fromkeys(ids, "queued"))
        return ids


def look(world: World, *ids: str) -> list[str]:
    return [world.client.get(f"/v1/jobs/{id}").json()["status"] for id in ids]


def count(world: World, table: type) -> int:
    with world.services.store.read() as session:
        return session.query(table).count()


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
    assert count(world, Outbox) == 1
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
    world: World, change: dict[str, Any], pointer: str, code: str
) -> None:
    body = fault(
        world.client.post("/v1/jobs", json={**SPEC, **change}),
        422,
        "unknown_type" if pointer == "/type" else "invalid_request",
        pointer,
    )
    assert (pointer, code) in [(item["pointer"], item["code"]) for item in body["errors"]], body[
        "errors"
    ]
    assert world.helper.questions == []
    assert count(world, Job) == 0


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
    assert count(world, Job) == 0
    dataset = world.dataset()
    family = submit(world, dataset={"id": dataset})
    turn(world, family, "member")
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
    assert count(world, Job) == 1
    other = world.client.post("/v1/jobs", json={**SPEC, "keep": 0.6}, headers=headers)
    assert other.status_code in (409, 422)
    turn(world, first.json()["id"], "member")
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
    assert count(world, Job) == 0


def test_members_are_listed_and_say_where_they_belong(world: World) -> None:
    alone = world.job()
    id = submit(world)
    members = turn(world, id, "member", "member", "answer")

    def listed(query: str) -> list[str]:
        ids: list[str] = []
        cursor = ""
        while True:
            answer = world.client.get(f"/v1/jobs?limit=2{query}{cursor}")
            assert answer.status_code == 200, answer.text
            page = answer.json()
            ids += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                return ids
            cursor = f"&cursor={page['next_cursor']}"

    assert listed(f"&parent={id}") == members[::-1]
    assert listed("&parent=none") == [id, alone]
    assert listed("") == [*members[::-1], id, alone]
    assert listed(f"&parent={id}&status=queued") == members[::-1]
    assert listed(f"&parent={alone}") == []
    for odd in ("", "everything", "job_X", f"{id}/"):
        assert world.client.get("/v1/jobs", params={"parent": odd}).status_code == 422
    job = world.client.get(f"/v1/jobs/{members[2]}").json()
    assert (job["parent"], job["links"]["parent"], job["type"]) == (id, f"/v1/jobs/{id}", "prune")
    assert job["member"] == {"role": "answer", "depth": 1.0, "width": 2.0}
    assert job["links"]["members"] is None
    world.move(members[0], "succeeded")
    progress = world.client.get(f"/v1/jobs/{id}").json()["progress"]
    assert progress["members"] == {"ended": 1, "paused": 0, "total": 3}
    assert progress["total"] == max(ESTIMATE["units"], 24.0)
    assert world.client.get("/v1/jobs?parent=none").json()["data"][0]["progress"] == progress
    events = world.client.get(f"/v1/jobs/{id}/events").json()["data"]
    assert [event["data"]["job"] for event in events if event["type"] == "member"] == members


def test_what_is_asked_of_a_family_its_members_are_asked_too(world: World) -> None:
    id = submit(world)
    first, second, third = turn(world, id, "member", "member", "member")
    world.move(third, "succeeded")

    def ask(verb: str, job: str = id) -> tuple[int, list[str]]:
        answer = world.client.post(f"/v1/jobs/{job}/{verb}")
        return answer.status_code, look(world, id, first, second, third)

    assert ask("pause") == (200, ["paused", "paused", "paused", "succeeded"])
    assert ask("pause") == (200, ["paused", "paused", "paused", "succeeded"])
    assert world.client.get(f"/v1/jobs/{id}").json()["progress"]["members"] == {
        "ended": 1,
        "paused": 2,
        "total": 3,
    }
    assert ask("resume", first) == (202, ["paused", "queued", "paused", "succeeded"])
    assert ask("resume") == (202, ["queued", "queued", "queued", "succeeded"])
    turn(world, id)
    assert ask("cancel", first) == (200, ["running", "cancelled", "queued", "succeeded"])
    world.move(second, "running")
    assert ask("cancel") == (202, ["cancelled", "cancelled", "cancelling", "succeeded"])
    world.move(second, "cancelled")
    assert ask("cancel") == (200, ["cancelled", "cancelled", "cancelled", "succeeded"])
    fault(world.client.post(f"/v1/jobs/{id}/resume"), 409, "illegal_transition")
    assert look(world, id, first, second, third) == [
        "cancelled",
        "cancelled",
        "cancelled",
        "succeeded",
    ]
    assert ask("retry") == (202, ["queued", "queued", "queued", "succeeded"])
    world.client.post(f"/v1/jobs/{id}/cancel")
    assert ask("retry", first) == (202, ["cancelled", "queued", "cancelled", "succeeded"])
    for job in (first, second, id):
        world.move(job, "succeeded")
    fault(world.client.post(f"/v1/jobs/{id}/retry"), 409, "illegal_transition")
    assert look(world, id, first, second) == ["succeeded"] * 3


def test_a_family_that_succeeded_runs_again_for_a_member_that_did_not(world: World) -> None:
    id = submit(world)
    first, second = turn(world, id, "member", "member")
    world.move(first, "succeeded")
    world.move(second, "failed")
    world.result(id, "report", "json", b'{"type": "family"}')
    world.move(id, "succeeded")

    def ask(job: str) -> tuple[int, list[str]]:
        return world.client.post(f"/v1/jobs/{job}/retry").status_code, look(
            world, id, first, second
        )

    fault(world.client.post(f"/v1/jobs/{first}/retry"), 409, "illegal_transition")
    assert look(world, id, first, second) == ["succeeded", "succeeded", "failed"]
    assert ask(second) == (202, ["queued", "succeeded", "queued"])
    shown = world.client.get(f"/v1/jobs/{id}").json()
    assert (shown["terminal"], shown["finished_at"]) == (False, None)
    assert (
        world.client.get(f"/v1/jobs/{id}/report?format=json").status_code == 200
    )  # the last one, until the next
    statuses = [
        event["data"]["status"]
        for event in world.client.get(f"/v1/jobs/{id}/events").json()["data"]
        if event["type"] == "status"
    ]
    assert statuses[-1] == "queued"
    assert ask(second) == (200, ["queued", "succeeded", "queued"])
    for job, status in ((second, "cancelled"), (id, "succeeded")):
        world.move(job, status)
    assert ask(id) == (202, ["queued", "succeeded", "queued"])
    for job in (second, id):
        world.move(job, "succeeded")
    fault(world.client.post(f"/v1/jobs/{id}/retry"), 409, "illegal_transition")


@pytest.mark.parametrize("spec", ["[]", "null", '"family"', '{"type": []}'])
def test_a_job_whose_spec_is_corrupt_can_be_cancelled(world: World, spec: str) -> None:
    id = world.job()
    with world.services.store.write() as session:
        session.execute(update(Job).where(Job.id == id).values(spec=json.loads(spec)))
    assert world.client.post(f"/v1/jobs/{id}/cancel").json()["status"] == "cancelled"


def test_a_family_is_deleted_with_its_members(world: World) -> None:
    id, other = submit(world), submit(world, keep=0.6)
    first, second = turn(world, id, "member", "answer")
    (theirs,) = turn(world, other, "member")
    for job in (first, id, theirs):
        world.result(job, "report", "json", b"{}")
    for job in (id, first):
        fault(world.client.delete(f"/v1/jobs/{job}"), 409, "in_use")
    world.move(first, "succeeded")
    fault(world.client.delete(f"/v1/jobs/{first}"), 409, "in_use")
    world.client.post(f"/v1/jobs/{id}/cancel")
    assert world.client.delete(f"/v1/jobs/{second}").status_code == 204
    assert world.client.delete(f"/v1/jobs/{id}").status_code == 204
    for gone in (id, first, second):
        fault(world.client.get(f"/v1/jobs/{gone}"), 404, "not_found")
    assert world.files() == [f"artifacts/jobs/{theirs}/attempts/1/report.json"]
    assert count(world, FamilyMember) == 1


def test_results_have_the_checkpoints_of_the_answers(world: World) -> None:
    id = submit(world)
    member, answer, failed = turn(world, id, "member", "answer", "answer")
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
    report = {
        "type": "family",
        "recommendation": {"job": answer, "checkpoint": "magnitude-0.9", "reason": "x"},
        "gates": [],
    }
    world.result(id, "report", "json", json.dumps(report).encode())
    world.move(id, "succeeded")
    body = world.client.get(f"/v1/jobs/{id}/results").json()
    assert body["report"] == report
    assert body["recommendation"] == report["recommendation"]
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
    id = submit(world)
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
    assert "0.00" in body["errors"][0]["message"]
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
    fault(predict(world, submit(world), densities=[0.5]), 409, "job_not_finished")


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
    (member,) = turn(world, id, "member")
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
    id = submit(world)
    turn(world, id, "member")
    fault(world.client.get(f"/v1/jobs/{id}/report"), 409, "job_not_finished")
    fault(predict(world, id, densities=[0.5]), 409, "job_not_finished")
    world.result(id, "report", "json", simulated().model_dump_json().encode())
    assert look(world, id) == ["running"]
    assert world.client.get(f"/v1/jobs/{id}/report?format=json").json()["type"] == "family"
    assert len(predict(world, id, densities=[0.5]).json()["predictions"]) == len(
        simulated().candidates
    )
    fault(world.client.get(f"/v1/jobs/{id}/report?format=html"), 409, "job_not_finished")
    fault(world.client.get(f"/v1/jobs/{id}/results"), 409, "job_not_finished")
    single = world.job("running")
    world.result(single, "report", "json", b"{}")
    fault(world.client.get(f"/v1/jobs/{single}/report"), 409, "job_not_finished")


def test_jobs_are_listed_by_type(world: World) -> None:
    single, family = world.job(), submit(world)
    for kind, wanted in (("family", family), ("prune", single)):
        assert [row["id"] for row in world.client.get(f"/v1/jobs?type={kind}").json()["data"]] == [
            wanted
        ]
    fault(world.client.get("/v1/jobs?type=other"), 422, "invalid_parameter")
