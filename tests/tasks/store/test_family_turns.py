"""Turns of families in the store: they start members, park, end, and are taken once."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from sqlalchemy import text

from tasks.store import Store, claims, families
from tasks.store.jobs import PARKED
from tasks.store.tables import JobLabel
from tests.support.family_turns import (
    ask,
    create_family,
    describe_members,
    end_member,
    is_due,
    make_old,
    publish_messages,
    read_statuses,
    take_last_turn,
    take_turn,
    write,
)
from tests.support.job_world import (
    claim,
    claimed,
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


def test_start_members_creates_no_member_twice(store: Store) -> None:
    id = create_family(store, labels={"team": "x"}, priority=6)
    held = claimed(store, id)
    first = write(store, families.start_members, held, describe_members("a", "b"))
    assert write(store, families.start_members, held, describe_members("a", "b")) == []
    assert len(write(store, families.start_members, held, describe_members("b", "c", "a"))) == 1
    assert len(read_statuses(store, id)) == 3
    write(store, claims.crash, held, "x", max_attempts=5)
    due_now(store, id)
    again = claimed(store, id)  # the same turn
    assert write(store, families.start_members, again, describe_members("a", "b", "c")) == []
    events = [event.data for event in history(store, id) if event.type == "member"]
    assert [event["job"] for event in events][:2] == first
    assert events[0] == {"job": first[0], "status": "queued", **describe_members("a")[0]["member"]}
    assert gapless(store, id)
    for member in first:
        job = read_job(store, member)
        assert (job.status, job.priority, job.progress_total, job.deadline_at) == (
            "queued",
            6,
            5.0,
            None,
        )
        assert len(messages(store, member)) == 1
        with store.read() as session:
            assert session.get(JobLabel, (member, "team")) is not None


def test_the_history_says_how_every_member_ended(store: Store) -> None:
    id = create_family(store)
    first, second = take_turn(store, id, "a", "b")
    end_member(store, first, "failed")
    take_turn(store, id)
    ask(store, first, "retry")
    end_member(store, second, "succeeded")
    take_turn(store, id)
    end_member(store, first, "succeeded")
    held = claimed(store, id)
    write(store, families.finish, held, read_statuses(store, id), None)
    events = [
        (event.data["job"], event.data["status"])
        for event in history(store, id)
        if event.type == "member"
    ]
    assert events == [
        (first, "queued"),
        (second, "queued"),
        (first, "failed"),
        (second, "succeeded"),
        (first, "succeeded"),
    ]
    assert [event.data["total"] for event in history(store, id) if event.type == "progress"] == [
        10.0
    ] * 3
    assert gapless(store, id)


def test_concurrent_turns_create_no_member_twice(store: Store) -> None:
    id = create_family(store)
    held = claimed(store, id)
    keys = [str(number) for number in range(8)]
    answers = together(
        [lambda: write(store, families.start_members, held, describe_members(*keys))] * 4
    )
    assert sorted(map(len, answers)) == [0, 0, 0, 8], answers
    assert len(read_statuses(store, id)) == 8


def test_an_old_turn_starts_nothing_and_does_not_park(store: Store) -> None:
    id = create_family(store)
    old = claimed(store, id, "old")
    claim(store, id, "new", gone=True)
    due_now(store, id)

    def refused() -> None:
        with pytest.raises(claims.LostError):
            write(store, families.start_members, old, describe_members("a"))
        with pytest.raises(claims.LostError):
            write(store, families.park, old, {})
        assert read_statuses(store, id) == {}

    refused()
    new = claimed(store, id, "new")
    refused()
    assert read_job(store, id).owner == "new"
    write(store, families.start_members, new, describe_members("a"))
    write(store, families.park, new, read_statuses(store, id))
    [member] = read_statuses(store, id)
    end_member(store, member, "succeeded")
    newest = claimed(store, id, "newest")
    with pytest.raises(claims.LostError):
        write(store, families.park, new, {})
    write(store, claims.settle, newest, "succeeded")
    with pytest.raises(claims.LostError):
        write(store, families.start_members, newest, describe_members("b"))


def test_a_parked_family_waits_and_is_not_stale(store: Store) -> None:
    id = create_family(store)
    members = take_turn(store, id, *"abcdefgh")
    job = read_job(store, id)
    assert (job.status, job.owner, job.lease_until, job.attempt, job.fence) == (
        "running",
        PARKED,
        None,
        1,
        1,
    )
    assert messages(store, id) == []
    publish_messages(store, *members)
    for gone in (False, True):
        sweep(store, gone=gone)
    make_old(store, id, 1e6)
    sweep(store)
    job = read_job(store, id)
    assert (job.status, job.owner, job.attempt, messages(store, id)) == ("running", PARKED, 1, [])
    before = statuses(store, id)
    # Every member that ends makes a turn, and none of the turns is in the history.
    for number, member in enumerate(members, 2):
        end_member(store, member, "failed")
        held = claimed(store, id, max_attempts=1)
        assert (held.fence, held.attempt, read_job(store, id).status) == (number, 1, "running")
        assert claim(store, id, "other") is None
        write(store, families.park, held, read_statuses(store, id))
    assert statuses(store, id) == before == ["queued", "running"]


def test_one_of_many_claims_takes_the_turn(store: Store) -> None:
    id = create_family(store)
    member, _ = take_turn(store, id, "a", "b")
    end_member(store, member, "succeeded")
    answers = together([partial(claim, store, id, str(number)) for number in range(12)])
    assert sum(answer is not None for answer in answers) == 1, answers
    assert read_job(store, id).fence == 2


def test_a_turn_whose_worker_dies_is_taken_again_and_counts(store: Store) -> None:
    id = create_family(store)
    first, second, _ = take_turn(store, id, "a", "b", "c")
    end_member(store, first, "succeeded")
    for attempt in (1, 2, 3):
        held = claimed(store, id, "dead")
        assert held.attempt == attempt
        assert sweep(store, gone=True) >= 1
        due_now(store, id)
    assert read_job(store, id).status == "queued"
    held = claimed(store, id)
    write(store, families.park, held, read_statuses(store, id))
    assert read_job(store, id).attempt == 1
    end_member(store, second, "succeeded")
    for _ in range(3):
        claimed(store, id, "dead")
        sweep(store, gone=True, max_attempts=3)
        due_now(store, id)
    assert read_job(store, id).status == "failed"


def test_a_family_ends_once_its_last_turn_has_seen_every_member(store: Store) -> None:
    id, _, held, known_statuses = take_last_turn(store)
    write(store, families.finish, held, known_statuses, {"x": 1})
    job = read_job(store, id)
    assert (job.status, job.summary, job.owner, messages(store, id)) == (
        "succeeded",
        {"x": 1},
        None,
        [],
    )
    with pytest.raises(claims.LostError):
        write(store, families.finish, held, known_statuses, None)


def test_ends_and_turns_at_once_lose_no_member(store: Store) -> None:
    """Once all is quiet, the last turn has seen every member or another turn is due."""
    id = create_family(store)
    members = take_turn(store, id, *"abcdefgh")
    held_members = {member: claimed(store, member) for member in members}
    last: dict[str, str] = {}

    def turns() -> None:
        for _ in range(12):
            held = claim(store, id, "turn")
            if held is not None:
                last.update(read_statuses(store, id))
                write(store, families.park, held, dict(last))

    def relay() -> None:
        for _ in range(12):
            publish_messages(store, id)

    answers = together(
        [
            turns,
            relay,
            *(
                partial(write, store, claims.settle, held_members[member], "succeeded")
                for member in members
            ),
        ]
    )
    assert not [answer for answer in answers if isinstance(answer, Exception)], answers
    assert read_job(store, id).owner == PARKED
    if set(last.values()) != {"succeeded"} and not is_due(store, id):
        make_old(store, id, 1000.0)
        sweep(store)
    assert set(last.values()) == {"succeeded"} or is_due(store, id)
    assert gapless(store, id)


def test_a_member_ends_while_its_family_is_held_and_neither_waits(postgresql: Postgresql) -> None:
    """The member's message refers to the family's row.

    If that row were locked against references too, the two transactions would wait for each other.
    """
    store = Store(postgresql.new_database())
    try:
        store.create_tables()
        id = create_family(store)
        first, second = take_turn(store, id, "a", "b")
        end_member(store, first, "succeeded")
        held, held_member = claimed(store, id), claimed(store, second)
        row_is_locked = threading.Event()
        has_ended = threading.Event()
        errors: list[BaseException] = []

        def hold() -> None:
            try:
                with store.write() as session:
                    session.execute(text("SET LOCAL lock_timeout = '2s'"))
                    claims.record_progress(session, held, stage="predict")
                    session.flush()
                    row_is_locked.set()
                    assert has_ended.wait(20)
                    families.start_members(session, held, describe_members("c"))
                    families.park(session, held, {first: "succeeded", second: "running"})
            except BaseException as error:
                errors.append(error)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert row_is_locked.wait(20)
            with store.write() as session:
                session.execute(text("SET LOCAL lock_timeout = '2s'"))
                claims.settle(session, held_member, "succeeded")
            assert len(messages(store, id)) == 1
        finally:
            has_ended.set()
            holder.join(30)
        assert errors == []
        assert read_job(store, id).owner == PARKED
        assert is_due(store, id)
    finally:
        store.close()
