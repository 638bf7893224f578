"""Pausing, resuming and cancelling families and their members in the store."""

from __future__ import annotations

import pytest

from tasks.store import Store, claims, families, jobs
from tasks.store.errors import TransitionError
from tests.support.family_turns import (
    ask,
    create_family,
    describe_members,
    end_member,
    is_due,
    publish_messages,
    read_statuses,
    take_turn,
    write,
)
from tests.support.job_world import (
    change,
    claim,
    claimed,
    gapless,
    messages,
    read_job,
    statuses,
    sweep,
)


@pytest.mark.parametrize(("verb", "after"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_family_that_is_about_to_pause_or_end_starts_no_member(
    store: Store, verb: str, after: str
) -> None:
    id = create_family(store)
    held = claimed(store, id)
    write(store, jobs.request, "default", id, verb)
    assert write(store, families.start_members, held, describe_members("a")) == []
    write(store, families.park, held, {})
    job = read_job(store, id)
    assert (job.status, job.owner, job.lease_until) == (after, None, None)
    assert (job.finished_at is not None) == (after == "cancelled")
    assert not is_due(store, id)


@pytest.mark.parametrize(("verb", "after"), [("cancel", "cancelled"), ("pause", "paused")])
def test_finish_follows_a_request_that_came_during_the_turn(
    store: Store, verb: str, after: str
) -> None:
    id = create_family(store)
    [member] = take_turn(store, id, "a")
    end_member(store, member, "failed")
    held = claimed(store, id)
    known_statuses = read_statuses(store, id)
    ask(store, member, "retry")
    ask(store, id, verb)
    write(store, families.finish, held, known_statuses, None)
    assert (read_job(store, id).status, read_job(store, member).status) == (after, after)


def test_a_deadline_ends_a_parked_family_and_its_members(store: Store) -> None:
    id = create_family(store, deadline_s=1000.0)
    queued, running, paused, done = take_turn(store, id, *"abcd")
    end_member(store, done, "succeeded")
    publish_messages(store, id)
    ask(store, paused, "pause")
    held = claimed(store, running)
    change(store, id, deadline_at=1.0)
    sweep(store)
    job = read_job(store, id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.owner, messages(store, id)) == ("deadline_exceeded", None, [])
    assert write(store, families.cancel_stragglers) == 3
    assert [read_job(store, member).status for member in (queued, running, paused, done)] == [
        "cancelled",
        "cancelling",
        "cancelled",
        "succeeded",
    ]
    assert write(store, families.cancel_stragglers) == 0
    write(store, claims.settle, held, "cancelled")
    assert messages(store, id) == []  # nobody waits
    assert claim(store, id) is None


def test_cancel_stragglers_cancels_the_members_of_a_cancelled_family(store: Store) -> None:
    id, other = create_family(store), create_family(store)
    members = take_turn(store, id, *"abc")
    [live] = take_turn(store, other, "a")
    write(store, jobs.request, "default", id, "cancel")
    assert {read_job(store, member).status for member in members} == {"queued"}
    assert write(store, families.cancel_stragglers) == 3
    assert {read_job(store, member).status for member in members} == {"cancelled"}
    assert read_job(store, live).status == "queued"


@pytest.mark.parametrize("how", ["crash", "hand back"])
def test_cancel_stragglers_cancels_a_member_that_was_queued_again(store: Store, how: str) -> None:
    """A worker that crashed or was stopped after the family ended makes no request."""
    id = create_family(store)
    [member] = take_turn(store, id, "a")
    held = claimed(store, member)
    write(store, jobs.request, "default", id, "cancel")
    if how == "hand back":
        write(store, claims.hand_back, held)
    else:
        write(store, claims.crash, held, "x", max_attempts=5)
    assert read_job(store, member).status == "queued"
    assert write(store, families.cancel_stragglers) == 1
    assert read_job(store, member).status == "cancelled"


def test_follow_passes_a_request_on_to_the_members(store: Store) -> None:
    id = create_family(store)
    _, running, done, cancelled = members = take_turn(store, id, *"abcd")
    end_member(store, done, "succeeded")
    end_member(store, cancelled, "cancelled while queued")
    held = claimed(store, running)

    def look() -> list[str]:
        return [read_job(store, job_id).status for job_id in (id, *members)]

    ask(store, id, "pause")
    assert look() == ["paused", "paused", "pausing", "succeeded", "cancelled"]
    assert read_job(store, id).owner is None
    write(store, claims.hand_back, held)
    assert claim(store, id) is None  # the message of the member that ended may still arrive
    ask(store, id, "pause")
    ask(store, id, "resume")
    assert look() == ["queued", "queued", "queued", "succeeded", "cancelled"]
    assert is_due(store, id)
    take_turn(store, id)
    ask(store, id, "retry")  # of those that were cancelled; the family itself goes on
    assert look() == ["running", "queued", "queued", "succeeded", "queued"]
    ask(store, id, "cancel")
    ask(store, id, "cancel")
    assert look() == ["cancelled", "cancelled", "cancelled", "succeeded", "cancelled"]
    assert read_job(store, id).finished_at is not None
    with pytest.raises(TransitionError):
        ask(store, id, "resume")
    ask(store, id, "retry")
    assert look() == ["queued", "queued", "queued", "succeeded", "queued"]
    assert all(gapless(store, job_id) for job_id in (id, *members))


def test_a_family_is_cancelled_during_a_turn(store: Store) -> None:
    id = create_family(store)
    held = claimed(store, id)
    [member] = write(store, families.start_members, held, describe_members("a"))
    ask(store, id, "cancel")
    assert (read_job(store, id).status, read_job(store, member).status) == (
        "cancelling",
        "cancelled",
    )
    assert write(store, claims.heartbeat, held, 60.0) == "cancelling"
    write(store, families.park, held, {})
    assert read_job(store, id).status == "cancelled"
    assert statuses(store, id) == ["queued", "running", "cancelling", "cancelled"]


def test_a_paused_turn_goes_on(store: Store) -> None:
    id = create_family(store)
    [member] = take_turn(store, id, "a")
    end_member(store, member, "succeeded")
    held = claimed(store, id)
    ask(store, id, "pause")
    assert read_job(store, id).status == "pausing"
    write(store, claims.hand_back, held)
    assert read_job(store, id).status == "paused"
    ask(store, id, "resume")
    assert is_due(store, id)
    assert claimed(store, id).attempt == 1


def test_a_request_to_one_member_leaves_the_others_alone(store: Store) -> None:
    id = create_family(store)
    first, second = take_turn(store, id, "a", "b")
    ask(store, first, "pause")
    assert (
        read_job(store, first).status,
        read_job(store, second).status,
        read_job(store, id).status,
    ) == ("paused", "queued", "running")
    assert not is_due(store, id)  # it has not ended
    ask(store, first, "cancel")
    assert is_due(store, id)
    publish_messages(store, id)
    ask(store, first, "retry")
    assert not is_due(store, id)
    end_member(store, first, "succeeded")
    assert is_due(store, id)
