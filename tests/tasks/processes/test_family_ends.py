"""Families in real job processes to their end: trained whole, failed, past their deadline."""

from __future__ import annotations

import errno
import threading

import pytest

from pruning.schemas.family_report import FamilyReport
from pruning.schemas.job import TERMINAL
from tasks.reaper import reap_forever
from tasks.store import claims, families
from tasks.store.jobs import PARKED
from tests.support.job_world import Flaky, World, change, create
from tests.support.servers import until
from tests.support.small_families import (
    FAMILY,
    act_after,
    create_small_family,
    end_member,
    kill_processes,
    read_members,
    take_turn,
)


@pytest.mark.slow
def test_a_report_that_cannot_be_stored_fails_the_family_and_a_retry_goes_on(world: World) -> None:
    id = create_small_family(world)
    take_turn(world, id)
    jobs_by_key = read_members(world, id)
    for member in list(jobs_by_key.values())[:-1]:
        end_member(world, member)
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
    take_turn(world, id)
    assert read_members(world, id) == jobs_by_key
    assert world.job(id).owner == PARKED
    end_member(world, list(jobs_by_key.values())[-1])
    take_turn(world, id)
    assert world.job(id).status == "succeeded"


@pytest.mark.slow
def test_a_family_whose_members_all_failed_says_why(world: World) -> None:
    id = create_small_family(world)
    take_turn(world, id)
    jobs_by_key = read_members(world, id)
    for member in jobs_by_key.values():
        end_member(world, member, "failed")
    take_turn(world, id)
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
    take_turn(world, id)
    assert world.job(id).owner == PARKED
    assert read_members(world, id) == jobs_by_key
    for member in jobs_by_key.values():
        end_member(world, member)
    take_turn(world, id)
    assert world.job(id).status == "succeeded"


def test_a_familys_deadline_passes_during_a_turn(world: World) -> None:
    id = create_small_family(world, deadline_s=1000.0)
    change(world.store, id, deadline_at=1.0)
    take_turn(world, id)
    job = world.job(id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "deadline_exceeded"
    world.assert_tidy(id)


def test_a_family_whose_dataset_was_deleted_fails(world: World) -> None:
    id = create(
        world.store, spec={**FAMILY, "dataset": {"id": "dst_00000000"}}, dataset_id="dst_00000000"
    ).id
    take_turn(world, id)
    job = world.job(id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.error["retryable"]) == (
        "failed",
        "input_deleted",
        False,
    )


def test_a_family_that_cannot_be_built_fails_and_starts_nothing(world: World) -> None:
    id = create_small_family(
        world,
        model={"architecture": "cifar_resnet", "train": {"epochs": 1}},
        members={"depths": [8, 9], "widths": [0.25]},
    )
    take_turn(world, id)
    job = world.job(id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "invalid_parameter")
    assert read_members(world, id) == {}


@pytest.mark.slow
def test_a_whole_family_is_trained_through_the_death_of_a_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {
        "epochs": 20,
        "batch_size": 16,
        "optimizer": {"lr": 0.05},
    }  # enough to be better than chance
    id = create_small_family(
        world,
        confirm=True,
        max_error=[0.7],
        model={"architecture": "mlp", "train": train},
        members={"depths": [1, 2], "widths": [8, 16]},
    )
    killed = act_after(monkeypatch, "members", kill_processes)
    for _ in range(30):
        if world.job(id).status in TERMINAL:
            break
        take_turn(world, id)
        for member in read_members(world, id).values():
            if world.job(member).status == "queued":
                assert world.runner().run(member)
                assert world.job(member).status == "succeeded", world.job(member).error
    assert killed == [1]
    assert world.job(id).status == "succeeded", world.job(id).error
    report = FamilyReport.model_validate(world.report(id))
    assert not report.partial
    assert len(report.members) == 4
    assert len(set(read_members(world, id)) - {"answer-0.7"}) == 4
    assert all(len(member.densities) == 3 for member in report.members)
    assert report.law is not None
    (answer,) = report.answers
    assert answer.refused or answer.job in read_members(world, id).values()


def test_the_reaper_tells_the_members_of_a_family_past_its_deadline(world: World) -> None:
    id = create(world.store, spec=FAMILY | {"dataset": {"builtin": "digits"}}, deadline_s=1000.0).id
    with world.store.write() as session:
        claim = claims.claim(session, id, "turn", 60.0, max_attempts=5)
        assert claim is not None
        [member] = families.start_members(
            session,
            claim,
            [
                {
                    "key": "a",
                    "member": {},
                    "spec": {"type": "prune", "dataset": {"builtin": "digits"}},
                    "units": 1.0,
                }
            ],
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
