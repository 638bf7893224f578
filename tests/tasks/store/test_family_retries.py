"""Retries of families and of their members in the store."""

from __future__ import annotations

from functools import partial

import pytest

from pruning.schemas.job import TERMINAL
from tasks.store import Store, claims, families, jobs
from tasks.store.errors import TransitionError
from tasks.store.jobs import PARKED
from tests.support.family_turns import (
    SPEC,
    ask,
    create_family,
    end_family,
    end_member,
    is_due,
    publish_messages,
    read_statuses,
    take_last_turn,
    take_turn,
    write,
)
from tests.support.job_world import (
    change,
    claimed,
    gapless,
    messages,
    read_job,
    statuses,
    together,
)


@pytest.mark.parametrize("status", ["queued", "running", "paused", "succeeded", "cancelled"])
def test_finish_parks_a_family_whose_member_was_retried(store: Store, status: str) -> None:
    id, second, held, known_statuses = take_last_turn(store)
    ask(store, second, "retry")
    if status in TERMINAL:
        end_member(store, second, status)
        publish_messages(store, id)
    elif status == "running":
        claimed(store, second)
    elif status == "paused":
        ask(store, second, "pause")
    write(store, families.finish, held, known_statuses, {"x": 1})
    job = read_job(store, id)
    assert (job.status, job.owner, job.lease_until, job.finished_at) == (
        "running",
        PARKED,
        None,
        None,
    )
    assert read_job(store, second).status == status
    assert is_due(store, id) == (status in TERMINAL)  # else it is woken when the member ends
    if status in TERMINAL:
        claimed(store, id)
        with pytest.raises(claims.LostError):
            write(store, families.finish, held, known_statuses, None)
    assert gapless(store, id)


def test_a_retry_and_a_finish_at_once_lose_no_member(store: Store) -> None:
    for _ in range(5):
        id, second, held, known_statuses = take_last_turn(store)
        answers = together(
            [
                partial(ask, store, second, "retry"),
                partial(write, store, families.finish, held, known_statuses, None),
            ]
        )
        assert answers == [None, None]
        assert read_job(store, second).status == "queued"
        assert read_job(store, id).status in ("running", "queued")
        assert gapless(store, id)


def test_cancel_stragglers_leaves_a_retried_member_alone(store: Store) -> None:
    id = create_family(store)
    retried, resumed, stopped = take_turn(store, id, *"abc")
    ask(store, resumed, "pause")
    end_member(store, retried, "failed")
    write(store, jobs.request, "default", id, "cancel")
    ask(store, retried, "retry")
    ask(store, resumed, "resume")
    assert write(store, families.cancel_stragglers) == 1
    assert [read_job(store, member).status for member in (retried, resumed, stopped)] == [
        "queued",
        "queued",
        "cancelled",
    ]
    publish_messages(store, id)
    end_member(store, retried, "succeeded")
    assert not is_due(store, id)
    assert read_job(store, id).status == "cancelled"


def test_a_retried_member_makes_its_succeeded_family_run_again(
    store: Store,
) -> None:
    id = create_family(store, spec={**SPEC, "deadline_s": 1000.0}, deadline_s=1000.0)
    _, failed, cancelled = end_family(store, id, "succeeded", "failed", "cancelled while queued")
    change(store, id, deadline_at=5.0)
    ask(store, failed, "retry")
    job = read_job(store, id)
    assert (job.status, job.finished_at, job.attempt, job.summary) == ("queued", None, 1, {"x": 1})
    assert job.deadline_at is not None
    assert job.deadline_at > 1000
    assert len(messages(store, id)) == len(messages(store, failed)) == 1
    ask(store, failed, "retry")  # once more is harmless
    ask(store, cancelled, "retry")
    assert len(messages(store, id)) == 1
    take_turn(store, id)  # which has them to wait for
    assert (read_job(store, id).owner, is_due(store, id)) == (PARKED, False)
    end_member(store, failed, "succeeded")
    assert is_due(store, id)
    take_turn(store, id)
    end_member(store, cancelled, "failed")
    held = claimed(store, id)
    write(store, families.finish, held, read_statuses(store, id), {"x": 2})
    job = read_job(store, id)
    assert (job.status, job.summary, job.finished_at is not None) == ("succeeded", {"x": 2}, True)
    assert statuses(store, id) == [
        "queued",
        "running",
        "succeeded",
        "queued",
        "running",
        "succeeded",
    ]
    assert gapless(store, id)
    assert write(store, families.cancel_stragglers) == 0


def test_a_retry_of_a_succeeded_family_retries_its_unsuccessful_members(store: Store) -> None:
    id, whole = create_family(store), create_family(store)
    done, failed = end_family(store, id, "succeeded", "failed")
    ask(store, id, "retry")
    assert [read_job(store, member).status for member in (id, done, failed)] == [
        "queued",
        "succeeded",
        "queued",
    ]
    assert statuses(store, id) == ["queued", "running", "succeeded", "queued"]
    take_turn(store, id)
    ask(store, id, "cancel")
    assert [read_job(store, member).status for member in (id, done, failed)] == [
        "cancelled",
        "succeeded",
        "cancelled",
    ]
    member, _ = end_family(store, whole, "succeeded", "succeeded")
    for refused in (whole, member):
        with pytest.raises(TransitionError):
            ask(store, refused, "retry")
    for verb in ("cancel", "pause", "resume"):
        with pytest.raises(TransitionError):
            ask(store, whole, verb)


def test_members_retried_at_once_make_their_family_run_again_once(store: Store) -> None:
    id = create_family(store)
    members = end_family(store, id, *["failed"] * 5)
    answers = together([partial(ask, store, member, "retry") for member in (*members, *members)])
    assert answers == [None] * 10
    assert statuses(store, id) == ["queued", "running", "succeeded", "queued"]
    assert len(messages(store, id)) == 1
    assert set(read_statuses(store, id).values()) == {"queued"}


def test_a_retried_family_that_is_cancelled_again_cancels_its_members(store: Store) -> None:
    id = create_family(store)
    members = take_turn(store, id, *"ab")
    ask(store, id, "cancel")
    ask(store, id, "retry")
    assert {read_job(store, job_id).status for job_id in (id, *members)} == {"queued"}
    assert write(store, families.cancel_stragglers) == 0
    take_turn(store, id)
    write(store, jobs.request, "default", id, "cancel")
    assert write(store, families.cancel_stragglers) == 2
