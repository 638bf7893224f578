"""Families in the store, on both databases: members, turns that park and are woken, and what is
asked of either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, text
from sqlalchemy.orm import Session

from tasks.store import Store, assets, claims, families, jobs, outbox
from tasks.store.errors import CursorError, InUseError, NotFoundError, TransitionError
from tasks.store.jobs import PARKED
from tasks.store.tables import FamilyMember, Job, JobLabel, Outbox
from tests.support.job_world import (
    change,
    claim,
    claimed,
    create,
    due_now,
    gapless,
    history,
    messages,
    read_job,
    statuses,
    sweep,
    together,
)
from tests.support.servers import Postgresql

SPEC = {"type": "family", "dataset": {"builtin": "digits"}}
MEMBER = {"type": "prune", "dataset": {"builtin": "digits"}}


def write(store: Store, action: Callable[[Session], Any]) -> Any:
    with store.write() as session:
        return action(session)


def family(store: Store, project: str = "default", **fields: Any) -> str:
    return create(store, project, **{"spec": SPEC, **fields}).id


def wanted(*keys: str) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "member": {"role": "member", "depth": 1.0, "width": float(index)},
            "spec": MEMBER,
            "units": 5.0,
        }
        for index, key in enumerate(keys)
    ]


def turn(store: Store, id: str, *keys: str) -> list[str]:
    """A turn that starts these members and waits; the family's members after it, oldest first."""
    mine = claimed(store, id, "turn")
    write(store, lambda s: families.start_members(s, mine, wanted(*keys)))
    write(store, lambda s: families.park(s, mine, looked(store, id)))
    return list(looked(store, id))


def looked(store: Store, id: str) -> dict[str, str]:
    """What a turn sees: the status of every member's job."""
    with store.read() as session:
        return {job.id: job.status for _, job in families.list_members(session, id)}


def request(store: Store, id: str, verb: str) -> None:
    """As the service does: the job first, a family's members after it in another transaction."""
    write(store, lambda s: jobs.request(s, "default", id, verb))
    if jobs.is_family(read_job(store, id)):
        write(store, lambda s: families.follow(s, "default", id, verb))


def end(store: Store, id: str, status: str) -> None:
    """Run a member to its end."""
    if status == "cancelled while queued":
        return request(store, id, "cancel")
    mine = claimed(store, id, "worker")
    if status == "cancelled":
        request(store, id, "cancel")
    elif status == "failed by the reaper":
        change(store, id, lease_until=1.0)
        sweep(store, max_attempts=1)
        return None
    error = {"code": "x", "message": "x"} if status == "failed" else None
    return write(store, lambda s: claims.settle(s, mine, status, error=error))


def quiet(store: Store, *ids: str) -> None:
    """Publish what waits."""
    for id in ids:
        for message in messages(store, id):
            write(store, lambda s, message=message: outbox.mark_published(s, message))


def long_ago(store: Store, id: str, seconds: float) -> None:
    """Let the last turn, and the last message, be so long ago."""
    then = write(store, assets.read_clock) - seconds
    change(
        store,
        id,
        updated_at=then,
        **({"published_at": then} if read_job(store, id).published_at else {}),
    )


def due(store: Store, id: str) -> bool:
    with store.read() as session:
        return id in [message.job_id for message in outbox.list_due_messages(session)]


def test_no_member_is_made_twice(store: Store) -> None:
    id = family(store, labels={"team": "x"}, priority=6)
    mine = claimed(store, id)
    first = write(store, lambda s: families.start_members(s, mine, wanted("a", "b")))
    assert write(store, lambda s: families.start_members(s, mine, wanted("a", "b"))) == []
    assert len(write(store, lambda s: families.start_members(s, mine, wanted("b", "c", "a")))) == 1
    assert len(looked(store, id)) == 3
    write(store, lambda s: claims.crash(s, mine, "x", max_attempts=5))
    due_now(store, id)
    again = claimed(store, id)  # the same turn
    assert write(store, lambda s: families.start_members(s, again, wanted("a", "b", "c"))) == []
    told = [event.data for event in history(store, id) if event.type == "member"]
    assert [one["job"] for one in told][:2] == first
    assert told[0] == {"job": first[0], "status": "queued", **wanted("a")[0]["member"]}
    assert gapless(store, id)
    for one in first:
        job = read_job(store, one)
        assert (job.status, job.priority, job.progress_total, job.deadline_at) == (
            "queued",
            6,
            5.0,
            None,
        )
        assert len(messages(store, one)) == 1
        with store.read() as session:
            assert session.get(JobLabel, (one, "team")) is not None


def test_its_history_says_how_every_member_ended(store: Store) -> None:
    id = family(store)
    one, two = turn(store, id, "a", "b")
    end(store, one, "failed")
    turn(store, id)
    request(store, one, "retry")
    end(store, two, "succeeded")
    turn(store, id)
    end(store, one, "succeeded")
    mine = claimed(store, id)
    write(store, lambda s: families.finish(s, mine, looked(store, id), None))
    told = [
        (event.data["job"], event.data["status"])
        for event in history(store, id)
        if event.type == "member"
    ]
    assert told == [
        (one, "queued"),
        (two, "queued"),
        (one, "failed"),
        (two, "succeeded"),
        (one, "succeeded"),
    ]
    assert [event.data["total"] for event in history(store, id) if event.type == "progress"] == [
        10.0
    ] * 3
    assert gapless(store, id)


def test_turns_at_once_make_no_member_twice(store: Store) -> None:
    id = family(store)
    mine = claimed(store, id)
    keys = [str(n) for n in range(8)]
    answers = together(
        [lambda: write(store, lambda s: families.start_members(s, mine, wanted(*keys)))] * 4
    )
    assert sorted(map(len, answers)) == [0, 0, 0, 8], answers
    assert len(looked(store, id)) == 8


def test_an_old_turn_starts_nothing_and_does_not_park(store: Store) -> None:
    id = family(store)
    old = claimed(store, id, "old")
    claim(store, id, "new", gone=True)
    due_now(store, id)

    def refused() -> None:
        for action in (
            lambda s: families.start_members(s, old, wanted("a")),
            lambda s: families.park(s, old, {}),
        ):
            with pytest.raises(claims.LostError):
                write(store, action)
        assert looked(store, id) == {}

    refused()
    new = claimed(store, id, "new")
    refused()
    assert read_job(store, id).owner == "new"
    write(store, lambda s: families.start_members(s, new, wanted("a")))
    write(store, lambda s: families.park(s, new, looked(store, id)))
    [one] = looked(store, id)
    end(store, one, "succeeded")
    newest = claimed(store, id, "newest")
    with pytest.raises(claims.LostError):
        write(store, lambda s: families.park(s, new, {}))
    write(store, lambda s: claims.settle(s, newest, "succeeded"))
    with pytest.raises(claims.LostError):
        write(store, lambda s: families.start_members(s, newest, wanted("b")))


@pytest.mark.parametrize(("verb", "after"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_family_that_is_to_end_or_to_pause_starts_nothing(
    store: Store, verb: str, after: str
) -> None:
    id = family(store)
    mine = claimed(store, id)
    write(store, lambda s: jobs.request(s, "default", id, verb))
    assert write(store, lambda s: families.start_members(s, mine, wanted("a"))) == []
    write(store, lambda s: families.park(s, mine, {}))
    job = read_job(store, id)
    assert (job.status, job.owner, job.lease_until) == (after, None, None)
    assert (job.finished_at is not None) == (after == "cancelled")
    assert not due(store, id)


def test_a_parked_family_waits_and_is_no_stale_job(store: Store) -> None:
    id = family(store)
    members = turn(store, id, *"abcdefgh")
    job = read_job(store, id)
    assert (job.status, job.owner, job.lease_until, job.attempt, job.fence) == (
        "running",
        PARKED,
        None,
        1,
        1,
    )
    assert messages(store, id) == []
    quiet(store, *members)
    for gone in (False, True):
        sweep(store, gone=gone)
    long_ago(store, id, 1e6)
    sweep(store)
    job = read_job(store, id)
    assert (job.status, job.owner, job.attempt, messages(store, id)) == ("running", PARKED, 1, [])
    before = statuses(store, id)
    for number, member in enumerate(
        members, 2
    ):  # as many turns as members end, and no news of them
        end(store, member, "failed")
        mine = claimed(store, id, max_attempts=1)
        assert (mine.fence, mine.attempt, read_job(store, id).status) == (number, 1, "running")
        assert claim(store, id, "other") is None
        write(store, lambda s, mine=mine: families.park(s, mine, looked(store, id)))
    assert statuses(store, id) == before == ["queued", "running"]


def test_one_of_many_wakers_takes_the_turn(store: Store) -> None:
    id = family(store)
    one, _ = turn(store, id, "a", "b")
    end(store, one, "succeeded")
    answers = together([lambda name=str(n): claim(store, id, name) for n in range(12)])  # type: ignore[misc]
    assert sum(answer is not None for answer in answers) == 1, answers
    assert read_job(store, id).fence == 2


def test_a_turn_whose_worker_dies_is_taken_again_and_counts(store: Store) -> None:
    id = family(store)
    one, two, _ = turn(store, id, "a", "b", "c")
    end(store, one, "succeeded")
    for attempt in (1, 2, 3):
        mine = claimed(store, id, "dead")
        assert mine.attempt == attempt
        assert sweep(store, gone=True) >= 1
        due_now(store, id)
    assert read_job(store, id).status == "queued"
    mine = claimed(store, id)
    write(store, lambda s: families.park(s, mine, looked(store, id)))
    assert read_job(store, id).attempt == 1
    end(store, two, "succeeded")
    for _ in range(3):
        claimed(store, id, "dead")
        sweep(store, gone=True, max_attempts=3)
        due_now(store, id)
    assert read_job(store, id).status == "failed"


@pytest.mark.parametrize(
    "how", ["succeeded", "failed", "cancelled", "cancelled while queued", "failed by the reaper"]
)
def test_every_end_of_a_member_wakes_its_family(store: Store, how: str) -> None:
    id, other = family(store), family(store)
    [one, _] = turn(store, id, "a", "b")
    turn(store, other, "a")
    end(store, one, how)
    assert read_job(store, one).status in jobs.TERMINAL
    assert due(store, id)
    assert not due(store, other)
    assert len(messages(store, id)) == 1
    mine = claimed(store, id)
    assert messages(store, id) == []
    assert looked(store, id)[one] == how.split()[0]
    write(store, lambda s: families.park(s, mine, looked(store, id)))
    assert not due(store, id)  # it has been seen


def test_members_that_end_at_once_leave_a_due_message(store: Store) -> None:
    id = family(store)
    members = turn(store, id, *"abcdef")
    held = {member: claimed(store, member) for member in members}
    answers = together(
        [
            lambda one=one: write(store, lambda s: claims.settle(s, held[one], "succeeded"))  # type: ignore[misc]
            for one in members
        ]
    )
    assert answers == [None] * 6
    assert due(store, id)
    claimed(store, id)
    assert messages(store, id) == []  # however many there were
    assert set(looked(store, id).values()) == {"succeeded"}


def test_one_turn_is_taken_for_all_members_that_ended_before_it(store: Store) -> None:
    """Each end sends a message where the one before has left the outbox; those that arrive after
    the turn find no news.
    """
    id = family(store)
    *ended, last = turn(store, id, *"abcd")
    for one in ended:
        end(store, one, "succeeded")
        assert len(messages(store, id)) == 1
        quiet(store, id)  # in the broker's queue now
    mine = claimed(store, id)
    write(store, lambda s: families.park(s, mine, looked(store, id)))
    assert [claim(store, id) for _ in ended] == [None] * 3
    assert (read_job(store, id).owner, read_job(store, id).fence) == (PARKED, 2)
    end(store, last, "failed")
    mine = claimed(store, id)
    assert mine.fence == 3
    request(store, last, "retry")
    write(store, lambda s: families.park(s, mine, {**looked(store, id), last: "failed"}))
    assert claim(store, id) is None
    end(store, last, "failed")  # as it had before
    assert claimed(store, id).fence == 4


@pytest.mark.parametrize("published", [False, True])
def test_a_member_that_ends_during_a_turn_is_not_missed(store: Store, published: bool) -> None:
    id = family(store)
    [one, two] = turn(store, id, "a", "b")
    end(store, one, "succeeded")
    mine = claimed(store, id)
    seen = looked(store, id)
    end(store, two, "failed")
    if published:  # who takes it finds the family held, and the message is gone
        quiet(store, id)
        assert claim(store, id, "other") is None
    write(store, lambda s: families.park(s, mine, seen))
    assert due(store, id)
    assert len(messages(store, id)) == 1
    assert claimed(store, id).fence == 3


def test_a_member_that_is_made_and_ends_during_a_turn_is_not_missed(store: Store) -> None:
    id = family(store)
    mine = claimed(store, id)
    [one] = write(store, lambda s: families.start_members(s, mine, wanted("a")))
    end(store, one, "cancelled while queued")
    quiet(store, id)
    write(store, lambda s: families.park(s, mine, {}))
    assert due(store, id)


def last_turn(store: Store) -> tuple[str, str, claims.Claim, dict[str, str]]:
    """A family, its member that failed, the turn that has seen both members' ends, and what it
    saw.
    """
    id = family(store)
    one, two = turn(store, id, "a", "b")
    end(store, one, "succeeded")
    end(store, two, "failed")
    return id, two, claimed(store, id), looked(store, id)


@pytest.mark.parametrize("status", ["queued", "running", "paused", "succeeded", "cancelled"])
def test_a_family_does_not_end_beside_a_member_that_was_tried_again(
    store: Store, status: str
) -> None:
    id, two, mine, seen = last_turn(store)
    request(store, two, "retry")
    if status in jobs.TERMINAL:
        end(store, two, status)
        quiet(store, id)
    elif status == "running":
        claimed(store, two)
    elif status == "paused":
        request(store, two, "pause")
    write(store, lambda s: families.finish(s, mine, seen, {"x": 1}))
    job = read_job(store, id)
    assert (job.status, job.owner, job.lease_until, job.finished_at) == (
        "running",
        PARKED,
        None,
        None,
    )
    assert read_job(store, two).status == status
    assert due(store, id) == (status in jobs.TERMINAL)  # else it is woken when the member ends
    if status in jobs.TERMINAL:
        claimed(store, id)
        with pytest.raises(claims.LostError):
            write(store, lambda s: families.finish(s, mine, seen, None))
    assert gapless(store, id)


def test_a_family_ends_once_its_last_turn_has_seen_every_member(store: Store) -> None:
    id, _, mine, seen = last_turn(store)
    write(store, lambda s: families.finish(s, mine, seen, {"x": 1}))
    job = read_job(store, id)
    assert (job.status, job.summary, job.owner, messages(store, id)) == (
        "succeeded",
        {"x": 1},
        None,
        [],
    )
    with pytest.raises(claims.LostError):
        write(store, lambda s: families.finish(s, mine, seen, None))


@pytest.mark.parametrize(("verb", "after"), [("cancel", "cancelled"), ("pause", "paused")])
def test_what_was_asked_of_a_family_holds_while_it_would_end(
    store: Store, verb: str, after: str
) -> None:
    id = family(store)
    [one] = turn(store, id, "a")
    end(store, one, "failed")
    mine = claimed(store, id)
    seen = looked(store, id)
    request(store, one, "retry")
    request(store, id, verb)
    write(store, lambda s: families.finish(s, mine, seen, None))
    assert (read_job(store, id).status, read_job(store, one).status) == (after, after)


def test_a_retry_and_the_end_of_the_family_at_once_lose_no_member(store: Store) -> None:
    for _ in range(5):
        id, two, mine, seen = last_turn(store)
        answers = together(
            [
                lambda two=two: request(store, two, "retry"),
                lambda mine=mine, seen=seen: write(  # type: ignore[misc]
                    store, lambda s: families.finish(s, mine, seen, None)
                ),
            ]
        )
        assert answers == [None, None]
        assert read_job(store, two).status == "queued"
        assert read_job(store, id).status in ("running", "queued")
        assert gapless(store, id)


def test_ends_and_turns_at_once_lose_no_member(store: Store) -> None:
    """However they interleave, once all is quiet the last turn has seen every member or another is
    due.
    """
    id = family(store)
    members = turn(store, id, *"abcdefgh")
    held = {member: claimed(store, member) for member in members}
    last: dict[str, str] = {}

    def turns() -> None:
        for _ in range(12):
            mine = claim(store, id, "turn")
            if mine is not None:
                last.update(looked(store, id))
                write(store, lambda s, mine=mine: families.park(s, mine, dict(last)))

    def relay() -> None:
        for _ in range(12):
            quiet(store, id)

    answers = together(
        [
            turns,
            relay,
            *(
                lambda one=one: write(store, lambda s: claims.settle(s, held[one], "succeeded"))
                for one in members
            ),
        ]
    )  # type: ignore[misc]
    assert not [answer for answer in answers if isinstance(answer, Exception)], answers
    assert read_job(store, id).owner == PARKED
    if set(last.values()) != {"succeeded"} and not due(store, id):
        long_ago(store, id, 1000.0)
        sweep(store)
    assert set(last.values()) == {"succeeded"} or due(store, id)
    assert gapless(store, id)


def test_a_familys_messages_go_before_those_of_its_members(store: Store) -> None:
    for priority, ahead in ((0, 1), (4, 5), (9, 9)):
        id = family(store, priority=priority)
        assert [message.priority for message in messages(store, id)] == [ahead]
        [one] = turn(store, id, "a")
        assert [message.priority for message in messages(store, one)] == [priority]
        end(store, one, "succeeded")
        assert [message.priority for message in messages(store, id)] == [ahead]


def test_a_lost_wake_is_mended_once_nobody_is_left_to_wake(store: Store) -> None:
    id = family(store)
    [one, two] = turn(store, id, "a", "b")
    quiet(store, one, two)
    end(store, one, "succeeded")
    write(store, lambda s: s.execute(delete(Outbox).where(Outbox.job_id == id)))
    long_ago(store, id, claims.REPUBLISH_S + 10)
    sweep(store)
    assert not due(store, id)  # the other member will
    end(store, two, "succeeded")
    write(store, lambda s: s.execute(delete(Outbox).where(Outbox.job_id == id)))
    long_ago(store, id, claims.REPUBLISH_S - 10)
    sweep(store)
    assert not due(store, id)
    long_ago(store, id, claims.REPUBLISH_S + 10)
    sweep(store)
    assert due(store, id)
    claimed(store, id)


def test_a_family_that_no_worker_takes_floods_no_broker(store: Store) -> None:
    id = family(store)
    [one] = turn(store, id, "a")
    quiet(store, one)
    end(store, one, "succeeded")
    for pause in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        quiet(store, id)
        long_ago(store, id, pause - 10)
        sweep(store)
        assert not due(store, id), pause
        long_ago(store, id, pause + 10)
        sweep(store)
        assert due(store, id), pause


def test_a_deadline_ends_a_parked_family_and_its_members(store: Store) -> None:
    id = family(store, deadline_s=1000.0)
    queued, running, paused, done = turn(store, id, *"abcd")
    end(store, done, "succeeded")
    quiet(store, id)
    request(store, paused, "pause")
    mine = claimed(store, running)
    change(store, id, deadline_at=1.0)
    sweep(store)
    job = read_job(store, id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.owner, messages(store, id)) == ("deadline_exceeded", None, [])
    assert write(store, families.cancel_stragglers) == 3
    assert [read_job(store, one).status for one in (queued, running, paused, done)] == [
        "cancelled",
        "cancelling",
        "cancelled",
        "succeeded",
    ]
    assert write(store, families.cancel_stragglers) == 0
    write(store, lambda s: claims.settle(s, mine, "cancelled"))
    assert messages(store, id) == []  # nobody waits
    assert claim(store, id) is None


def test_who_cancels_a_family_may_die_before_its_members_know(store: Store) -> None:
    id, other = family(store), family(store)
    members = turn(store, id, *"abc")
    [live] = turn(store, other, "a")
    write(store, lambda s: jobs.request(s, "default", id, "cancel"))
    assert {read_job(store, one).status for one in members} == {"queued"}
    assert write(store, families.cancel_stragglers) == 3
    assert {read_job(store, one).status for one in members} == {"cancelled"}
    assert read_job(store, live).status == "queued"


def test_a_member_that_is_tried_again_by_itself_is_let_be(store: Store) -> None:
    id = family(store)
    retried, resumed, left = turn(store, id, *"abc")
    request(store, resumed, "pause")
    end(store, retried, "failed")
    write(store, lambda s: jobs.request(s, "default", id, "cancel"))
    request(store, retried, "retry")
    request(store, resumed, "resume")
    assert write(store, families.cancel_stragglers) == 1
    assert [read_job(store, one).status for one in (retried, resumed, left)] == [
        "queued",
        "queued",
        "cancelled",
    ]
    quiet(store, id)
    end(store, retried, "succeeded")
    assert not due(store, id)
    assert read_job(store, id).status == "cancelled"


def succeeded(store: Store, id: str, *ends: str) -> list[str]:
    """The members of a family that succeeds once they have ended so."""
    found = turn(store, id, *map(str, range(len(ends))))
    for one, status in zip(found, ends, strict=True):
        end(store, one, status)
    mine = claimed(store, id)
    write(store, lambda s: families.finish(s, mine, looked(store, id), {"x": 1}))
    assert read_job(store, id).status == "succeeded"
    return found


def test_a_member_that_is_tried_again_after_its_family_succeeded_has_it_report_anew(
    store: Store,
) -> None:
    id = family(store, spec={**SPEC, "deadline_s": 1000.0}, deadline_s=1000.0)
    _, failed, cancelled = succeeded(store, id, "succeeded", "failed", "cancelled while queued")
    change(store, id, deadline_at=5.0)
    request(store, failed, "retry")
    job = read_job(store, id)
    assert (job.status, job.finished_at, job.attempt, job.summary) == ("queued", None, 1, {"x": 1})
    assert job.deadline_at is not None
    assert job.deadline_at > 1000
    assert len(messages(store, id)) == len(messages(store, failed)) == 1
    request(store, failed, "retry")  # once more is harmless
    request(store, cancelled, "retry")
    assert len(messages(store, id)) == 1
    turn(store, id)  # which has them to wait for
    assert (read_job(store, id).owner, due(store, id)) == (PARKED, False)
    end(store, failed, "succeeded")
    assert due(store, id)
    turn(store, id)
    end(store, cancelled, "failed")
    mine = claimed(store, id)
    write(store, lambda s: families.finish(s, mine, looked(store, id), {"x": 2}))
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


def test_a_family_that_succeeded_without_a_member_is_tried_again_with_it(store: Store) -> None:
    id, whole = family(store), family(store)
    done, failed = succeeded(store, id, "succeeded", "failed")
    request(store, id, "retry")
    assert [read_job(store, one).status for one in (id, done, failed)] == [
        "queued",
        "succeeded",
        "queued",
    ]
    assert statuses(store, id) == ["queued", "running", "succeeded", "queued"]
    turn(store, id)
    request(store, id, "cancel")
    assert [read_job(store, one).status for one in (id, done, failed)] == [
        "cancelled",
        "succeeded",
        "cancelled",
    ]
    one, _ = succeeded(store, whole, "succeeded", "succeeded")
    for refused in (whole, one):
        with pytest.raises(TransitionError):
            request(store, refused, "retry")
    for verb in ("cancel", "pause", "resume"):
        with pytest.raises(TransitionError):
            request(store, whole, verb)


def test_members_tried_again_at_once_have_their_family_run_again_once(store: Store) -> None:
    id = family(store)
    members = succeeded(store, id, *["failed"] * 5)
    answers = together(
        [lambda one=one: request(store, one, "retry") for one in (*members, *members)]
    )  # type: ignore[misc]
    assert answers == [None] * 10
    assert statuses(store, id) == ["queued", "running", "succeeded", "queued"]
    assert len(messages(store, id)) == 1
    assert set(looked(store, id).values()) == {"queued"}


@pytest.mark.parametrize("how", ["crash", "hand back"])
def test_a_member_that_comes_back_to_the_queue_by_itself_is_cancelled_all_the_same(
    store: Store, how: str
) -> None:
    """A worker that crashed, or was stopped, after the family ended asks for nothing."""
    id = family(store)
    [one] = turn(store, id, "a")
    mine = claimed(store, one)
    write(store, lambda s: jobs.request(s, "default", id, "cancel"))
    write(
        store,
        lambda s: (
            claims.hand_back(s, mine)
            if how == "hand back"
            else claims.crash(s, mine, "x", max_attempts=5)
        ),
    )
    assert read_job(store, one).status == "queued"
    assert write(store, families.cancel_stragglers) == 1
    assert read_job(store, one).status == "cancelled"


def test_a_family_that_was_tried_again_and_ends_again_takes_its_members_along(store: Store) -> None:
    id = family(store)
    members = turn(store, id, *"ab")
    request(store, id, "cancel")
    request(store, id, "retry")
    assert {read_job(store, one).status for one in (id, *members)} == {"queued"}
    assert write(store, families.cancel_stragglers) == 0
    turn(store, id)
    write(store, lambda s: jobs.request(s, "default", id, "cancel"))
    assert write(store, families.cancel_stragglers) == 2


def test_what_is_asked_of_a_family_its_members_are_asked_too(store: Store) -> None:
    id = family(store)
    _, running, done, cancelled = members = turn(store, id, *"abcd")
    end(store, done, "succeeded")
    end(store, cancelled, "cancelled while queued")
    mine = claimed(store, running)

    def look() -> list[str]:
        return [read_job(store, one).status for one in (id, *members)]

    request(store, id, "pause")
    assert look() == ["paused", "paused", "pausing", "succeeded", "cancelled"]
    assert read_job(store, id).owner is None
    write(store, lambda s: claims.hand_back(s, mine))
    assert claim(store, id) is None  # the message of the member that ended may still arrive
    request(store, id, "pause")
    request(store, id, "resume")
    assert look() == ["queued", "queued", "queued", "succeeded", "cancelled"]
    assert due(store, id)
    turn(store, id)
    request(store, id, "retry")  # of those that were cancelled; the family itself goes on
    assert look() == ["running", "queued", "queued", "succeeded", "queued"]
    request(store, id, "cancel")
    request(store, id, "cancel")
    assert look() == ["cancelled", "cancelled", "cancelled", "succeeded", "cancelled"]
    assert read_job(store, id).finished_at is not None
    with pytest.raises(TransitionError):
        request(store, id, "resume")
    request(store, id, "retry")
    assert look() == ["queued", "queued", "queued", "succeeded", "queued"]
    assert all(gapless(store, one) for one in (id, *members))


def test_a_family_is_cancelled_during_a_turn(store: Store) -> None:
    id = family(store)
    mine = claimed(store, id)
    [one] = write(store, lambda s: families.start_members(s, mine, wanted("a")))
    request(store, id, "cancel")
    assert (read_job(store, id).status, read_job(store, one).status) == ("cancelling", "cancelled")
    assert write(store, lambda s: claims.heartbeat(s, mine, 60.0)) == "cancelling"
    write(store, lambda s: families.park(s, mine, {}))
    assert read_job(store, id).status == "cancelled"
    assert statuses(store, id) == ["queued", "running", "cancelling", "cancelled"]


def test_a_paused_turn_goes_on(store: Store) -> None:
    id = family(store)
    [one] = turn(store, id, "a")
    end(store, one, "succeeded")
    mine = claimed(store, id)
    request(store, id, "pause")
    assert read_job(store, id).status == "pausing"
    write(store, lambda s: claims.hand_back(s, mine))
    assert read_job(store, id).status == "paused"
    request(store, id, "resume")
    assert due(store, id)
    assert claimed(store, id).attempt == 1


def test_what_is_asked_of_one_member_concerns_no_other(store: Store) -> None:
    id = family(store)
    one, two = turn(store, id, "a", "b")
    request(store, one, "pause")
    assert (
        read_job(store, one).status,
        read_job(store, two).status,
        read_job(store, id).status,
    ) == ("paused", "queued", "running")
    assert not due(store, id)  # it has not ended
    request(store, one, "cancel")
    assert due(store, id)
    quiet(store, id)
    request(store, one, "retry")
    assert not due(store, id)
    end(store, one, "succeeded")
    assert due(store, id)


def test_a_family_goes_with_its_members(store: Store) -> None:
    id, other = family(store), family(store)
    members, [theirs] = turn(store, id, "a", "b"), turn(store, other, "a")
    end(store, members[0], "succeeded")
    for one in (id, *members):
        with pytest.raises(InUseError):
            write(store, lambda s, one=one: jobs.remove(s, "default", one))
    with pytest.raises(NotFoundError):
        write(store, lambda s: jobs.remove(s, "theirs", id))
    request(store, id, "cancel")
    assert write(store, lambda s: jobs.remove(s, "default", members[1])) == [members[1]]
    assert sorted(write(store, lambda s: jobs.remove(s, "default", id))) == sorted([id, members[0]])
    with store.read() as session:
        assert {job.id for job in session.query(Job)} == {other, theirs}
        assert {row.job_id for row in session.query(FamilyMember)} == {theirs}
        assert {row.job_id for row in session.query(Outbox)} <= {other, theirs}


def test_an_ended_family_stays_while_a_member_is_live(store: Store) -> None:
    id = family(store)
    [one] = turn(store, id, "a")
    request(store, id, "cancel")
    request(store, one, "retry")
    with pytest.raises(InUseError):
        write(store, lambda s: jobs.remove(s, "default", id))


def test_lists_by_parent(store: Store) -> None:
    id, alone = family(store), create(store).id
    members = turn(store, id, *"abcde")
    request(store, members[1], "cancel")

    def pages(limit: int, **filters: Any) -> list[str]:
        found: list[str] = []
        cursor = None
        while True:
            with store.read() as session:
                page = jobs.read_page(
                    session,
                    "default",
                    limit=limit,
                    cursor=cursor,
                    filters=jobs.JobFilter(**filters),
                )
            assert len(page.data) <= limit
            found += [job.id for job in page.data]
            cursor = page.next_cursor
            if cursor is None:
                return found

    for limit in (1, 2, 5, 100):
        assert pages(limit, parent=id) == members[::-1]
        assert pages(limit, parent=jobs.NOBODY) == [alone, id]
        assert pages(limit) == [*members[::-1], alone, id]
        assert pages(limit, parent=id, status="cancelled") == [members[1]]
        assert (
            pages(limit, parent=alone)
            == pages(limit, parent=members[0])
            == pages(limit, parent="job_nothing")
            == []
        )
    with store.read() as session:
        assert (
            jobs.read_page(
                session, "theirs", limit=5, cursor=None, filters=jobs.JobFilter(parent=id)
            ).data
            == []
        )
        cursor = jobs.read_page(
            session, "default", limit=2, cursor=None, filters=jobs.JobFilter(parent=id)
        ).next_cursor
        for parent in (None, jobs.NOBODY, alone):
            with pytest.raises(CursorError):
                jobs.read_page(
                    session,
                    "default",
                    limit=2,
                    cursor=cursor,
                    filters=jobs.JobFilter(parent=parent),
                )


def test_progress_is_that_of_the_members(store: Store) -> None:
    id, empty = family(store), family(store)
    one, two, three = turn(store, id, *"abc")
    end(store, one, "succeeded")
    change(store, one, progress_done=5.0)
    mine = claimed(store, two)
    write(store, lambda s: claims.record_progress(s, mine, done=2.0, total=7.0))
    with store.read() as session:
        assert families.sum_progress(session, [id, empty, one]) == {id: (7.0, 17.0, 1, 0, 3)}
        assert families.sum_progress(session, []) == {}
        assert set(families.find_memberships(session, [id, one, three])) == {one, three}


def test_a_member_ends_while_its_family_is_held_and_neither_waits(postgresql: Postgresql) -> None:
    """The member's message refers to the family's row: were that locked against references too,
    they would wait in turn.
    """
    store = Store(postgresql.new_database())
    try:
        store.create_tables()
        id = family(store)
        first, one = turn(store, id, "a", "b")
        end(store, first, "succeeded")
        mine, member = claimed(store, id), claimed(store, one)
        held, ended, wrong = threading.Event(), threading.Event(), list[BaseException]()

        def hold() -> None:
            try:
                with store.write() as session:
                    session.execute(text("SET LOCAL lock_timeout = '2s'"))
                    claims.record_progress(session, mine, stage="predict")
                    session.flush()
                    held.set()
                    assert ended.wait(20)
                    families.start_members(session, mine, wanted("c"))
                    families.park(session, mine, {first: "succeeded", one: "running"})
            except BaseException as error:
                wrong.append(error)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert held.wait(20)
            with store.write() as session:
                session.execute(text("SET LOCAL lock_timeout = '2s'"))
                claims.settle(session, member, "succeeded")
            assert len(messages(store, id)) == 1
        finally:
            ended.set()
            holder.join(30)
        assert wrong == []
        assert read_job(store, id).owner == PARKED
        assert due(store, id)
    finally:
        store.close()


@pytest.mark.parametrize("spec", [[], "family", {}, {"type": ["family"]}])
def test_a_corrupt_spec_holds_up_no_sweep(store: Store, spec: Any) -> None:
    id, other = create(store).id, family(store)
    change(store, id, spec=spec)
    quiet(store, id, other)
    for one in (id, other):
        long_ago(store, one, 1e4)
        change(store, one, available_at=0.0)
    assert sweep(store) == 2
    assert len(messages(store, id)) == len(messages(store, other)) == 1
