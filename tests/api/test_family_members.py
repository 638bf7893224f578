"""Families and their members over HTTP: listed, steered, deleted."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import update

from tasks.store.tables import FamilyMember, Job
from tests.support.api_families import read_statuses, submit_family, take_turn
from tests.support.api_world import ESTIMATE, World, count_rows, fault


def test_members_are_listed_and_say_where_they_belong(world: World) -> None:
    alone = world.job()
    id = submit_family(world)
    members = take_turn(world, id, "member", "member", "answer")

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
    id = submit_family(world)
    first, second, third = take_turn(world, id, "member", "member", "member")
    world.move(third, "succeeded")

    def ask(verb: str, job: str = id) -> tuple[int, list[str]]:
        answer = world.client.post(f"/v1/jobs/{job}/{verb}")
        return answer.status_code, read_statuses(world, id, first, second, third)

    assert ask("pause") == (200, ["paused", "paused", "paused", "succeeded"])
    assert ask("pause") == (200, ["paused", "paused", "paused", "succeeded"])
    assert world.client.get(f"/v1/jobs/{id}").json()["progress"]["members"] == {
        "ended": 1,
        "paused": 2,
        "total": 3,
    }
    assert ask("resume", first) == (202, ["paused", "queued", "paused", "succeeded"])
    assert ask("resume") == (202, ["queued", "queued", "queued", "succeeded"])
    take_turn(world, id)
    assert ask("cancel", first) == (200, ["running", "cancelled", "queued", "succeeded"])
    world.move(second, "running")
    assert ask("cancel") == (202, ["cancelled", "cancelled", "cancelling", "succeeded"])
    world.move(second, "cancelled")
    assert ask("cancel") == (200, ["cancelled", "cancelled", "cancelled", "succeeded"])
    fault(world.client.post(f"/v1/jobs/{id}/resume"), 409, "illegal_transition")
    assert read_statuses(world, id, first, second, third) == [
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
    assert read_statuses(world, id, first, second) == ["succeeded"] * 3


def test_a_family_that_succeeded_runs_again_for_a_member_that_did_not(world: World) -> None:
    id = submit_family(world)
    first, second = take_turn(world, id, "member", "member")
    world.move(first, "succeeded")
    world.move(second, "failed")
    world.result(id, "report", "json", b'{"type": "family"}')
    world.move(id, "succeeded")

    def ask(job: str) -> tuple[int, list[str]]:
        return world.client.post(f"/v1/jobs/{job}/retry").status_code, read_statuses(
            world, id, first, second
        )

    fault(world.client.post(f"/v1/jobs/{first}/retry"), 409, "illegal_transition")
    assert read_statuses(world, id, first, second) == ["succeeded", "succeeded", "failed"]
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
    id, other = submit_family(world), submit_family(world, keep=0.6)
    first, second = take_turn(world, id, "member", "answer")
    (theirs,) = take_turn(world, other, "member")
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
    assert count_rows(world, FamilyMember) == 1
