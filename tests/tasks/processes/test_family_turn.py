"""Turns of families in real job processes: they die, and members end at odd moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.family.members import Run, list_members
from pruning.schemas.family import Adaptive, FamilySpec
from pruning.schemas.family_report import FamilyReport
from tasks.processes import family_turn
from tasks.store import outbox
from tasks.store.jobs import PARKED
from tests.support import family_world
from tests.support.job_world import World, gapless, messages, stages, statuses
from tests.support.small_families import (
    KEYS,
    act_after,
    assert_waiting,
    create_small_family,
    end_member,
    kill_processes,
    read_members,
    take_turn,
)


def test_a_large_family_reports_anew_once_a_twentieth_more_has_ended(tmp_path: Path) -> None:
    spec = family_world.spec(
        members={"depths": [1, 2, 3, 4], "widths": [8, 16, 24, 32, 40], "fractions": [0.5, 1.0]}
    )
    members = list_members(spec)
    assert len(members) == 40

    def due(ended: int, spec: FamilySpec = spec, started: int = 40) -> bool:
        return family_turn._is_report_due(
            tmp_path,
            spec,
            [
                Run(
                    job=f"job_{i:08d}",
                    member=member,
                    status="succeeded" if i < ended else "running",
                )
                for i, member in enumerate(members[:started])
            ],
        )

    assert due(0)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "reported.json").write_text("10")
    assert [due(ended) for ended in (10, 11, 12, 39, 40)] == [False, False, True, True, True]
    assert due(11, started=39), "a member is to be started"
    assert due(11, spec.model_copy(update={"adaptive": Adaptive()}))


@pytest.mark.parametrize("message", [pytest.param("saved", marks=pytest.mark.slow), "members"])
def test_the_first_turn_dies_and_is_taken_again(
    world: World, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    id = create_small_family(world)
    killed = act_after(monkeypatch, message, kill_processes)
    take_turn(world, id)
    assert killed == [1]
    assert (world.job(id).status, world.job(id).attempt) == ("queued", 2)
    assert sorted(stages(world.store, id)) == (
        ["reported.json"] if message == "members" else []
    ) + ["sizes.json"]
    before = read_members(world, id)
    assert set(before) == (KEYS if message == "members" else set())
    take_turn(world, id)
    assert_waiting(world, id)
    assert before.items() <= read_members(world, id).items()
    for member in read_members(world, id).values():
        assert len(messages(world.store, member)) == 1
    job = world.job(next(iter(before.values()), None) or read_members(world, id)[min(KEYS)])
    assert job.spec["type"] == "prune"
    assert job.progress_total > 0
    assert job.dataset_id == world.job(id).dataset_id


@pytest.mark.slow
def test_a_later_turn_dies_and_the_family_comes_to_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = create_small_family(world)
    take_turn(world, id)
    assert_waiting(world, id)
    first, *others = read_members(world, id).values()
    end_member(world, first)
    assert len(messages(world.store, id)) == 1
    killed = act_after(monkeypatch, "summary", kill_processes)
    take_turn(world, id)
    assert killed == [2]
    assert (world.job(id).status, world.job(id).attempt) == ("queued", 2)
    take_turn(world, id)
    assert_waiting(world, id)
    for member in others:
        end_member(world, member)
    take_turn(world, id)
    assert world.job(id).status == "succeeded", world.job(id).error
    report = FamilyReport.model_validate(world.report(id))
    assert not report.partial
    assert {member.job for member in report.members} == {first, *others}
    assert {member.status for member in report.members} == {"succeeded"}
    assert stages(world.store, id) == {}
    assert len(world.keys(f"jobs/{id}")) == 4
    assert world.job(id).summary is not None
    assert statuses(world.store, id) == ["queued", "running", "queued", "running", "succeeded"]
    world.assert_tidy(id)


@pytest.mark.slow
def test_a_member_that_ends_between_a_turns_look_and_its_end_is_not_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = create_small_family(world)
    take_turn(world, id)
    first, *others = read_members(world, id).values()
    for member in others:
        end_member(world, member)

    def last(_: str) -> bool:
        end_member(world, first)
        for message in messages(
            world.store, id
        ):  # its word arrives while the family is held, and is lost
            with world.store.write() as session:
                outbox.mark_published(session, message)
        assert not world.runner().run(id)
        return False

    assert act_after(monkeypatch, "wait", last) == []
    take_turn(world, id)
    assert world.job(id).owner == PARKED
    assert len(messages(world.store, id)) == 1
    take_turn(world, id)
    assert world.job(id).status == "succeeded"


@pytest.mark.slow
def test_a_member_that_is_tried_again_during_the_last_turn_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = create_small_family(world)
    take_turn(world, id)
    *others, last = read_members(world, id).values()
    for member in others:
        end_member(world, member)
    end_member(world, last, "failed")

    def again(_: str) -> bool:
        world.request(last, "retry")
        return False

    assert act_after(monkeypatch, "summary", again) == []
    take_turn(world, id)
    assert (world.job(id).status, world.job(id).owner, world.job(last).status) == (
        "running",
        PARKED,
        "queued",
    )
    end_member(world, last)
    take_turn(world, id)
    assert world.job(id).status == "succeeded"
    assert {member["status"] for member in world.report(id)["members"]} == {"succeeded"}


@pytest.mark.slow
def test_a_member_that_is_tried_again_after_its_family_is_in_a_new_report(world: World) -> None:
    id = create_small_family(world)
    take_turn(world, id)
    *others, last = read_members(world, id).values()
    for member in others:
        end_member(world, member)
    end_member(world, last, "failed")
    take_turn(world, id)
    assert world.job(id).status == "succeeded"
    assert [failure["code"] for failure in world.report(id)["failures"]] == ["member_failed"]
    assert stages(world.store, id) == {}
    before = world.keys(f"jobs/{id}")
    world.request(last, "retry")
    take_turn(world, id)
    assert (world.job(id).status, world.job(id).owner) == ("running", PARKED)
    assert world.report(id)["partial"]
    end_member(world, last)
    take_turn(world, id)
    assert world.job(id).status == "succeeded"
    report = FamilyReport.model_validate(world.report(id))
    assert (report.partial, report.failures) == (False, ())
    assert {member.status for member in report.members} == {"succeeded"}
    assert set(read_members(world, id).values()) == {*others, last}
    after = world.keys(f"jobs/{id}")
    assert (len(before), len(after), before & after) == (4, 4, set())
    assert stages(world.store, id) == {}
    assert gapless(world.store, id)


@pytest.mark.parametrize(("verb", "after"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_turn_ends_as_soon_as_that_is_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, verb: str, after: str
) -> None:
    id = create_small_family(world)

    def ask(_: str) -> bool:
        world.request(id, verb)
        return False

    act_after(monkeypatch, "saved", ask)
    take_turn(world, id)
    job = world.job(id)
    assert (job.status, job.owner, read_members(world, id)) == (after, None, {})
    world.assert_tidy(id)
    world.request(id, "resume" if verb == "pause" else "retry")
    take_turn(world, id)
    assert_waiting(world, id)
