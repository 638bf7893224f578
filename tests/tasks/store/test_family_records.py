"""The records of families in the store: lists, progress, deletion, corrupt specs."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.store import Store, claims, families, jobs
from tasks.store.errors import CursorError, InUseError, NotFoundError
from tasks.store.tables import FamilyMember, Job, Outbox
from tests.support.family_turns import (
    ask,
    create_family,
    end_member,
    make_old,
    publish_messages,
    take_turn,
    write,
)
from tests.support.job_world import (
    change,
    claimed,
    create,
    messages,
    sweep,
)


def test_remove_deletes_a_family_with_its_members(store: Store) -> None:
    id, other = create_family(store), create_family(store)
    members, [theirs] = take_turn(store, id, "a", "b"), take_turn(store, other, "a")
    end_member(store, members[0], "succeeded")
    for job_id in (id, *members):
        with pytest.raises(InUseError):
            write(store, jobs.remove, "default", job_id)
    with pytest.raises(NotFoundError):
        write(store, jobs.remove, "theirs", id)
    ask(store, id, "cancel")
    assert write(store, jobs.remove, "default", members[1]) == [members[1]]
    assert sorted(write(store, jobs.remove, "default", id)) == sorted([id, members[0]])
    with store.read() as session:
        assert {job.id for job in session.query(Job)} == {other, theirs}
        assert {row.job_id for row in session.query(FamilyMember)} == {theirs}
        assert {row.job_id for row in session.query(Outbox)} <= {other, theirs}


def test_remove_refuses_an_ended_family_while_a_member_is_live(store: Store) -> None:
    id = create_family(store)
    [member] = take_turn(store, id, "a")
    ask(store, id, "cancel")
    ask(store, member, "retry")
    with pytest.raises(InUseError):
        write(store, jobs.remove, "default", id)


def test_read_page_filters_by_parent(store: Store) -> None:
    id, alone = create_family(store), create(store).id
    members = take_turn(store, id, *"abcde")
    ask(store, members[1], "cancel")

    def pages(limit: int, **filters: Any) -> list[str]:
        ids: list[str] = []
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
            ids += [job.id for job in page.data]
            cursor = page.next_cursor
            if cursor is None:
                return ids

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


def test_sum_progress_adds_up_the_members(store: Store) -> None:
    id, empty = create_family(store), create_family(store)
    first, second, third = take_turn(store, id, *"abc")
    end_member(store, first, "succeeded")
    change(store, first, progress_done=5.0)
    held = claimed(store, second)
    write(store, claims.record_progress, held, done=2.0, total=7.0)
    with store.read() as session:
        assert families.sum_progress(session, [id, empty, first]) == {id: (7.0, 17.0, 1, 0, 3)}
        assert families.sum_progress(session, []) == {}
        assert set(families.find_memberships(session, [id, first, third])) == {first, third}


@pytest.mark.parametrize("spec", [[], "family", {}, {"type": ["family"]}])
def test_sweep_skips_no_job_because_of_a_corrupt_spec(store: Store, spec: Any) -> None:
    id, other = create(store).id, create_family(store)
    change(store, id, spec=spec)
    publish_messages(store, id, other)
    for job_id in (id, other):
        make_old(store, job_id, 1e4)
        change(store, job_id, available_at=0.0)
    assert sweep(store) == 2
    assert len(messages(store, id)) == len(messages(store, other)) == 1
