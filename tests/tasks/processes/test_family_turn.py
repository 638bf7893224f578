"""Families in real job processes: turns that die, reports that cannot be stored, members that end
at odd moments.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pruning.family.members import Run
from pruning.family.members import list_members as members_of
from pruning.schemas.family import Adaptive, FamilySpec
from pruning.schemas.family_report import FamilyReport
from tasks import supervise
from tasks.processes import family_turn
from tasks.reaper import reap_forever
from tasks.store import claims, families, jobs, outbox
from tasks.store.jobs import PARKED
from tests.support import family_world
from tests.support.job_world import (
    Flaky,
    World,
    change,
    create,
    due_now,
    gapless,
    history,
    messages,
    processes,
    stages,
    statuses,
)
from tests.support.servers import until

LIMIT = {"train": 200, "test": 100}
FAMILY: dict[str, Any] = {
    "type": "family",
    "model": {"architecture": "mlp", "train": {"epochs": 2, "batch_size": 32}},
    "members": {"depths": [1, 2], "widths": [4, 8]},
    "keep": 0.5,
    "floor_density": 0.1,
    "confirm": False,
}
KEYS = {f"depth{depth}.0-width{width}.0-fraction1.0-seed0" for depth in (1, 2) for width in (4, 8)}
DENSITIES = (0.5, 0.25, 0.125)


def family(world: World, **changes: Any) -> str:
    """Create the small family, on the digits as an uploaded dataset."""
    dataset = world.dataset()
    spec = {**FAMILY, "dataset": {"id": dataset, "limit": LIMIT}, **changes}
    return create(world.store, spec=spec, dataset_id=dataset, deadline_s=spec.get("deadline_s")).id


def members(world: World, id: str) -> dict[str, str]:
    """Return the job of every member, by its key."""
    with world.store.read() as session:
        return {row.key: job.id for row, job in families.list_members(session, id)}


def test_a_large_family_reports_anew_once_a_twentieth_more_has_ended(tmp_path: Path) -> None:
    spec = family_world.spec(
        members={"depths": [1, 2, 3, 4], "widths": [8, 16, 24, 32, 40], "fractions": [0.5, 1.0]}
    )
    members_of_spec = members_of(spec)
    assert len(members_of_spec) == 40

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
                for i, member in enumerate(members_of_spec[:started])
            ],
        )

    assert due(0)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "reported.json").write_text("10")
    assert [due(ended) for ended in (10, 11, 12, 39, 40)] == [False, False, True, True, True]
    assert due(11, started=39), "a member is to be started"
    assert due(11, spec.model_copy(update={"adaptive": Adaptive()}))


def settle(world: World, id: str, status: str = "succeeded") -> None:
    """End a member's job without running it; its measurements follow from its network's size."""
    with world.store.write() as session:
        claim = claims.claim(session, id, "worker", 60.0, max_attempts=5)
        assert claim is not None
        hidden = claim.spec["model"]["kwargs"]["hidden"]
        size = 64 * hidden[0] + hidden[0] * hidden[-1] * (len(hidden) - 1) + 10 * hidden[-1]
        unpruned = 0.1 + 20 / size
        errors = [min(0.85, unpruned * (1 + 0.02 / density / len(hidden))) for density in DENSITIES]
        curve = {
            "unpruned_error": unpruned,
            "densities": DENSITIES,
            "errors": errors,
            "images": 200,
            "test_images": 100,
            "classes": 10,
            "parameters": size + sum(hidden) + 10,
            "prunable": size,
            "final": None,
        }
        error = (
            {"code": "out_of_memory", "message": "no memory left"} if status == "failed" else None
        )
        claims.settle(session, claim, status, summary={"curve": curve}, error=error)


def take(world: World, id: str, **how: Any) -> None:
    """Take a turn at once, whatever delay was due."""
    due_now(world.store, id)
    assert world.runner(**how).run(id)


def when(monkeypatch: pytest.MonkeyPatch, kind: str, act: Callable[[str], bool]) -> list[int]:
    """Call `act` on the job after the first message of this kind.

    Where `act` returns True, no later message of that turn is handled.
    """
    handle, acted, deaf = supervise.Supervisor._handle, list[int](), set[tuple[str, int]]()

    def handled(self: supervise.Supervisor, message: dict[str, Any]) -> None:
        name, turn = message["type"], (self.claim.job_id, self.claim.fence)
        if turn in deaf:
            return
        handle(self, message)
        if name == kind and not acted:
            acted.append(self.claim.fence)
            if act(self.claim.job_id):
                deaf.add(turn)

    monkeypatch.setattr(supervise.Supervisor, "_handle", handled)
    return acted


def kill(id: str) -> bool:
    """Kill the job's process; later messages of it are not handled."""
    for pid in processes(id):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


def waits(world: World, id: str) -> None:
    """Check that every member was created once, and that the family waits for them."""
    jobs_by_key, job = members(world, id), world.job(id)
    assert set(jobs_by_key) == KEYS
    assert len({*jobs_by_key.values()}) == len(jobs_by_key)
    assert (job.status, job.owner, job.attempt) == ("running", PARKED, 1), job.error
    events = [event.data for event in history(world.store, id) if event.type == "member"]
    assert sorted(event["job"] for event in events if event["status"] == "queued") == sorted(
        jobs_by_key.values()
    )
    assert gapless(world.store, id)
    world.assert_tidy(id)


@pytest.mark.parametrize("message", [pytest.param("saved", marks=pytest.mark.slow), "members"])
def test_the_first_turn_dies_and_is_taken_again(
    world: World, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    id = family(world)
    killed = when(monkeypatch, message, kill)
    take(world, id)
    assert killed == [1]
    assert (world.job(id).status, world.job(id).attempt) == ("queued", 2)
    assert sorted(stages(world.store, id)) == (
        ["reported.json"] if message == "members" else []
    ) + ["sizes.json"]
    before = members(world, id)
    assert set(before) == (KEYS if message == "members" else set())
    take(world, id)
    waits(world, id)
    assert before.items() <= members(world, id).items()
    for member in members(world, id).values():
        assert len(messages(world.store, member)) == 1
    job = world.job(next(iter(before.values()), None) or members(world, id)[min(KEYS)])
    assert job.spec["type"] == "prune"
    assert job.progress_total > 0
    assert job.dataset_id == world.job(id).dataset_id


@pytest.mark.slow
def test_a_later_turn_dies_and_the_family_comes_to_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = family(world)
    take(world, id)
    waits(world, id)
    first, *others = members(world, id).values()
    settle(world, first)
    assert len(messages(world.store, id)) == 1
    killed = when(monkeypatch, "summary", kill)
    take(world, id)
    assert killed == [2]
    assert (world.job(id).status, world.job(id).attempt) == ("queued", 2)
    take(world, id)
    waits(world, id)
    for member in others:
        settle(world, member)
    take(world, id)
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
    id = family(world)
    take(world, id)
    first, *others = members(world, id).values()
    for member in others:
        settle(world, member)

    def last(_: str) -> bool:
        settle(world, first)
        for message in messages(
            world.store, id
        ):  # its word arrives while the family is held, and is lost
            with world.store.write() as session:
                outbox.mark_published(session, message)
        assert not world.runner().run(id)
        return False

    assert when(monkeypatch, "wait", last) == []
    take(world, id)
    assert world.job(id).owner == PARKED
    assert len(messages(world.store, id)) == 1
    take(world, id)
    assert world.job(id).status == "succeeded"


@pytest.mark.slow
def test_a_member_that_is_tried_again_during_the_last_turn_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = family(world)
    take(world, id)
    *others, last = members(world, id).values()
    for member in others:
        settle(world, member)
    settle(world, last, "failed")

    def again(_: str) -> bool:
        world.request(last, "retry")
        return False

    assert when(monkeypatch, "summary", again) == []
    take(world, id)
    assert (world.job(id).status, world.job(id).owner, world.job(last).status) == (
        "running",
        PARKED,
        "queued",
    )
    settle(world, last)
    take(world, id)
    assert world.job(id).status == "succeeded"
    assert {member["status"] for member in world.report(id)["members"]} == {"succeeded"}


@pytest.mark.slow
def test_a_member_that_is_tried_again_after_its_family_is_in_a_new_report(world: World) -> None:
    id = family(world)
    take(world, id)
    *others, last = members(world, id).values()
    for member in others:
        settle(world, member)
    settle(world, last, "failed")
    take(world, id)
    assert world.job(id).status == "succeeded"
    assert [failure["code"] for failure in world.report(id)["failures"]] == ["member_failed"]
    assert stages(world.store, id) == {}
    before = world.keys(f"jobs/{id}")
    world.request(last, "retry")
    take(world, id)
    assert (world.job(id).status, world.job(id).owner) == ("running", PARKED)
    assert world.report(id)["partial"]
    settle(world, last)
    take(world, id)
    assert world.job(id).status == "succeeded"
    report = FamilyReport.model_validate(world.report(id))
    assert (report.partial, report.failures) == (False, ())
    assert {member.status for member in report.members} == {"succeeded"}
    assert set(members(world, id).values()) == {*others, last}
    after = world.keys(f"jobs/{id}")
    assert (len(before), len(after), before & after) == (4, 4, set())
    assert stages(world.store, id) == {}
    assert gapless(world.store, id)


@pytest.mark.slow
def test_a_report_that_cannot_be_stored_fails_the_family_and_a_retry_goes_on(world: World) -> None:
    id = family(world)
    take(world, id)
    jobs_by_key = members(world, id)
    for member in list(jobs_by_key.values())[:-1]:
        settle(world, member)
    full = Flaky(
        world.artifacts,
        lambda key: OSError(errno.ENOSPC, "No space left") if "report" in key else None,
    )
    assert world.runner(full).run(id)
    job = world.job(id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("storage_failed", True)
    assert job.owner is None
    with world.store.write() as session:
        assert families.cancel_stragglers(session) == 1
    world.request(id, "retry")
    with world.store.write() as session:
        assert families.follow(session, "default", id, "retry") == 1
    take(world, id)
    assert members(world, id) == jobs_by_key
    assert world.job(id).owner == PARKED
    settle(world, list(jobs_by_key.values())[-1])
    take(world, id)
    assert world.job(id).status == "succeeded"


@pytest.mark.slow
def test_a_family_whose_members_all_failed_says_why(world: World) -> None:
    id = family(world)
    take(world, id)
    jobs_by_key = members(world, id)
    for member in jobs_by_key.values():
        settle(world, member, "failed")
    take(world, id)
    job = world.job(id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("insufficient_points", True)
    assert (
        "4 of 4 members did not succeed, the first because: no memory left" in job.error["message"]
    )
    report = FamilyReport.model_validate(world.report(id))
    assert [failure.code for failure in report.failures] == ["insufficient_points"] + [
        "member_failed"
    ] * 4
    world.request(id, "retry")
    with world.store.write() as session:
        assert families.follow(session, "default", id, "retry") == 4
    take(world, id)
    assert world.job(id).owner == PARKED
    assert members(world, id) == jobs_by_key
    for member in jobs_by_key.values():
        settle(world, member)
    take(world, id)
    assert world.job(id).status == "succeeded"


@pytest.mark.parametrize(("verb", "after"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_turn_ends_as_soon_as_that_is_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, verb: str, after: str
) -> None:
    id = family(world)

    def ask(_: str) -> bool:
        world.request(id, verb)
        return False

    when(monkeypatch, "saved", ask)
    take(world, id)
    job = world.job(id)
    assert (job.status, job.owner, members(world, id)) == (after, None, {})
    world.assert_tidy(id)
    world.request(id, "resume" if verb == "pause" else "retry")
    take(world, id)
    waits(world, id)


def test_a_familys_deadline_passes_during_a_turn(world: World) -> None:
    id = family(world, deadline_s=1000.0)
    change(world.store, id, deadline_at=1.0)
    take(world, id)
    job = world.job(id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "deadline_exceeded"
    world.assert_tidy(id)


def test_a_family_whose_dataset_was_deleted_fails(world: World) -> None:
    id = create(
        world.store, spec={**FAMILY, "dataset": {"id": "dst_00000000"}}, dataset_id="dst_00000000"
    ).id
    take(world, id)
    job = world.job(id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.error["retryable"]) == (
        "failed",
        "input_deleted",
        False,
    )


def test_a_family_that_cannot_be_built_fails_and_starts_nothing(world: World) -> None:
    id = family(
        world,
        model={"architecture": "cifar_resnet", "train": {"epochs": 1}},
        members={"depths": [8, 9], "widths": [0.25]},
    )
    take(world, id)
    job = world.job(id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "invalid_parameter")
    assert members(world, id) == {}


@pytest.mark.slow
def test_a_whole_family_is_trained_through_the_death_of_a_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {
        "epochs": 20,
        "batch_size": 16,
        "optimizer": {"lr": 0.05},
    }  # enough to be better than chance
    id = family(
        world,
        confirm=True,
        max_error=[0.7],
        model={"architecture": "mlp", "train": train},
        members={"depths": [1, 2], "widths": [8, 16]},
    )
    killed = when(monkeypatch, "members", kill)
    for _ in range(30):
        if world.job(id).status in jobs.TERMINAL:
            break
        take(world, id)
        for member in members(world, id).values():
            if world.job(member).status == "queued":
                assert world.runner().run(member)
                assert world.job(member).status == "succeeded", world.job(member).error
    assert killed == [1]
    assert world.job(id).status == "succeeded", world.job(id).error
    report = FamilyReport.model_validate(world.report(id))
    assert not report.partial
    assert len(report.members) == 4
    assert len(set(members(world, id)) - {"answer-0.7"}) == 4
    assert all(len(member.densities) == 3 for member in report.members)
    assert report.law is not None
    (answer,) = report.answers
    assert answer.refused or answer.job in members(world, id).values()


def test_the_reaper_tells_the_members_of_a_family_past_its_deadline(world: World) -> None:
    id = create(world.store, spec=FAMILY | {"dataset": {"builtin": "digits"}}, deadline_s=1000.0).id
    with world.store.write() as session:
        claim = claims.claim(session, id, "turn", 60.0, max_attempts=5)
        assert claim is not None
        [member] = families.start_members(
            session, claim, [{"key": "a", "member": {}, "spec": {"type": "prune"}, "units": 1.0}]
        )
        families.park(session, claim, {})
    change(world.store, id, deadline_at=1.0)
    runner = world.runner(reaper_s=0.05)
    thread = threading.Thread(target=reap_forever, args=(runner,))
    thread.start()
    try:
        until(lambda: world.job(member).status == "cancelled", "the reaper to cancel the member")
    finally:
        runner.stopping.set()
        thread.join(30)
    assert world.job(id).status == "failed"
