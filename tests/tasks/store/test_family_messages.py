"""Messages of families in the store: every member that ends wakes its family."""

from __future__ import annotations

from functools import partial

import pytest

from pruning.schemas.job import TERMINAL
from tasks.store import Store, claims, families
from tasks.store.jobs import PARKED
from tests.support.family_turns import (
    ask,
    create_family,
    describe_members,
    end_member,
    is_due,
    lose_messages,
    make_old,
    publish_messages,
    read_statuses,
    take_turn,
    write,
)
from tests.support.job_world import claim, claimed, messages, read_job, sweep, together


@pytest.mark.parametrize(
    "how", ["succeeded", "failed", "cancelled", "cancelled while queued", "failed by the reaper"]
)
def test_every_end_of_a_member_wakes_its_family(store: Store, how: str) -> None:
    id, other = create_family(store), create_family(store)
    [member, _] = take_turn(store, id, "a", "b")
    take_turn(store, other, "a")
    end_member(store, member, how)
    assert read_job(store, member).status in TERMINAL
    assert is_due(store, id)
    assert not is_due(store, other)
    assert len(messages(store, id)) == 1
    held = claimed(store, id)
    assert messages(store, id) == []
    assert read_statuses(store, id)[member] == how.split()[0]
    write(store, families.park, held, read_statuses(store, id))
    assert not is_due(store, id)  # it has been seen


def test_members_that_end_at_once_leave_a_due_message(store: Store) -> None:
    id = create_family(store)
    members = take_turn(store, id, *"abcdef")
    held = {member: claimed(store, member) for member in members}
    answers = together(
        [partial(write, store, claims.settle, held[member], "succeeded") for member in members]
    )
    assert answers == [None] * 6
    assert is_due(store, id)
    claimed(store, id)
    assert messages(store, id) == []  # however many there were
    assert set(read_statuses(store, id).values()) == {"succeeded"}


def test_one_turn_is_taken_for_all_members_that_ended_before_it(store: Store) -> None:
    """Each end sends a message when the one before has left the outbox.

    Messages that arrive after the turn find nothing to do.
    """
    id = create_family(store)
    *ended, last = take_turn(store, id, *"abcd")
    for member in ended:
        end_member(store, member, "succeeded")
        assert len(messages(store, id)) == 1
        publish_messages(store, id)  # in the broker's queue now
    held = claimed(store, id)
    write(store, families.park, held, read_statuses(store, id))
    assert [claim(store, id) for _ in ended] == [None] * 3
    assert (read_job(store, id).owner, read_job(store, id).fence) == (PARKED, 2)
    end_member(store, last, "failed")
    held = claimed(store, id)
    assert held.fence == 3
    ask(store, last, "retry")
    write(store, families.park, held, {**read_statuses(store, id), last: "failed"})
    assert claim(store, id) is None
    end_member(store, last, "failed")  # as it had before
    assert claimed(store, id).fence == 4


@pytest.mark.parametrize("published", [False, True])
def test_a_member_that_ends_during_a_turn_is_not_missed(store: Store, published: bool) -> None:
    id = create_family(store)
    [first, second] = take_turn(store, id, "a", "b")
    end_member(store, first, "succeeded")
    held = claimed(store, id)
    known_statuses = read_statuses(store, id)
    end_member(store, second, "failed")
    if published:  # who takes it finds the family held, and the message is gone
        publish_messages(store, id)
        assert claim(store, id, "other") is None
    write(store, families.park, held, known_statuses)
    assert is_due(store, id)
    assert len(messages(store, id)) == 1
    assert claimed(store, id).fence == 3


def test_a_member_that_is_made_and_ends_during_a_turn_is_not_missed(store: Store) -> None:
    id = create_family(store)
    held = claimed(store, id)
    [member] = write(store, families.start_members, held, describe_members("a"))
    end_member(store, member, "cancelled while queued")
    publish_messages(store, id)
    write(store, families.park, held, {})
    assert is_due(store, id)


def test_a_familys_messages_go_before_those_of_its_members(store: Store) -> None:
    for priority, ahead in ((0, 1), (4, 5), (9, 9)):
        id = create_family(store, priority=priority)
        assert [message.priority for message in messages(store, id)] == [ahead]
        [member] = take_turn(store, id, "a")
        assert [message.priority for message in messages(store, member)] == [priority]
        end_member(store, member, "succeeded")
        assert [message.priority for message in messages(store, id)] == [ahead]


def test_sweep_replaces_a_lost_message_once_no_member_is_live(store: Store) -> None:
    id = create_family(store)
    [first, second] = take_turn(store, id, "a", "b")
    publish_messages(store, first, second)
    end_member(store, first, "succeeded")
    write(store, lose_messages, id)
    make_old(store, id, claims.REPUBLISH_S + 10)
    sweep(store)
    assert not is_due(store, id)  # the other member will
    end_member(store, second, "succeeded")
    write(store, lose_messages, id)
    make_old(store, id, claims.REPUBLISH_S - 10)
    sweep(store)
    assert not is_due(store, id)
    make_old(store, id, claims.REPUBLISH_S + 10)
    sweep(store)
    assert is_due(store, id)
    claimed(store, id)


def test_sweep_republishes_an_unclaimed_family_ever_less_often(store: Store) -> None:
    id = create_family(store)
    [member] = take_turn(store, id, "a")
    publish_messages(store, member)
    end_member(store, member, "succeeded")
    for pause in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        publish_messages(store, id)
        make_old(store, id, pause - 10)
        sweep(store)
        assert not is_due(store, id), pause
        make_old(store, id, pause + 10)
        sweep(store)
        assert is_due(store, id), pause
