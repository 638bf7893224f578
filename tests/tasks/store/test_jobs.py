"""Jobs as clients see them, on both databases: creation, lists, transitions, deletion."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from tasks.store import Store, assets, claims, jobs, outbox
from tasks.store.errors import (
    CursorError,
    IdempotencyError,
    InUseError,
    NotFoundError,
    TransitionError,
)
from tasks.store.tables import (
    Event,
    Idempotency,
    Job,
    JobLabel,
    Model,
    Outbox,
    ResultFile,
    StageFile,
)
from tests.support.job_world import (
    change,
    claimed,
    create,
    gapless,
    history,
    messages,
    read_job,
    statuses,
    together,
)

STATUSES = (
    "queued",
    "running",
    "pausing",
    "paused",
    "cancelling",
    "succeeded",
    "failed",
    "cancelled",
)


def test_a_job_comes_with_its_message_and_its_first_event(store: Store) -> None:
    job = create(
        store, spec={"a": [1, None, "ü"]}, labels={"team": "x"}, priority=7, deadline_s=60.0
    )
    job_row = read_job(store, job.id)
    assert (job_row.status, job_row.attempt, job_row.fence, job_row.spec) == (
        "queued",
        1,
        0,
        {"a": [1, None, "ü"]},
    )
    assert job_row.deadline_at == pytest.approx(job_row.created_at + 60.0)
    [event] = history(store, job.id)
    assert (event.seq, event.type, event.data) == (1, "status", {"status": "queued"})
    assert [(message.job_id, message.priority) for message in messages(store, job.id)] == [
        (job.id, 7)
    ]


def test_a_rollback_leaves_neither_job_nor_message(store: Store) -> None:
    def create_and_fail() -> None:
        with store.write() as session:
            jobs.create(
                session,
                jobs.NewJob(
                    project="default",
                    spec={},
                    model_id=None,
                    rewind_model_id=None,
                    dataset_id=None,
                    priority=4,
                    deadline_s=None,
                    labels={"a": "b"},
                ),
                idempotency_key="k",
            )
            raise RuntimeError("after the insert")

    with pytest.raises(RuntimeError, match="after the insert"):
        create_and_fail()
    with store.read() as session:
        for table in (Job, Outbox, JobLabel, Event, Idempotency):
            assert session.scalar(select(func.count()).select_from(table)) == 0


def test_another_projects_job_is_not_found(store: Store) -> None:
    job = create(store, "theirs")
    with store.read() as session:
        for project, id in (("mine", job.id), ("theirs", "job_nothing")):
            with pytest.raises(NotFoundError):
                jobs.get(session, project, id)
    with store.write() as session, pytest.raises(NotFoundError):
        jobs.request(session, "mine", job.id, "cancel")
    with store.write() as session, pytest.raises(NotFoundError):
        jobs.remove(session, "mine", job.id)


def test_pages_hold_every_job_once_newest_first(store: Store) -> None:
    made = [create(store, labels={"n": str(index % 2)}).id for index in range(7)]
    create(store, "other")
    ids: list[str] = []
    cursor = None
    while True:
        with store.read() as session:
            page = jobs.read_page(session, "default", limit=3, cursor=cursor)
        ids += [job.id for job in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert ids == sorted(made, reverse=True)


def test_a_page_that_ends_with_the_list_has_no_cursor(store: Store) -> None:
    for _ in range(3):
        create(store)
    with store.read() as session:
        assert jobs.read_page(session, "default", limit=3, cursor=None).next_cursor is None
        assert jobs.read_page(session, "default", limit=2, cursor=None).next_cursor is not None
        assert jobs.read_page(session, "nobody", limit=2, cursor=None).data == []


def test_a_job_made_between_two_pages_shifts_nothing(store: Store) -> None:
    made = [create(store).id for _ in range(4)]
    with store.read() as session:
        first = jobs.read_page(session, "default", limit=2, cursor=None)
    create(store)
    with store.read() as session:
        second = jobs.read_page(session, "default", limit=2, cursor=first.next_cursor)
    assert {job.id for job in (*first.data, *second.data)} == set(made)


def test_filters_by_status_and_label(store: Store) -> None:
    labelled = create(store, labels={"team": "a", "x": "1"}).id
    two = create(store, labels={"team": "b"}).id
    claimed(store, two)
    with store.read() as session:

        def ids(**filters: Any) -> list[str]:
            return [
                job.id
                for job in jobs.read_page(
                    session, "default", limit=9, cursor=None, filters=jobs.JobFilter(**filters)
                ).data
            ]

        assert ids(label=("team", "a")) == [labelled]
        assert ids(label=("a", "team")) == []
        assert ids(status="running") == [two]
        assert ids(status="queued", label=("team", "b")) == []


def test_a_cursor_belongs_to_its_list(store: Store) -> None:
    for _ in range(3):
        create(store)
    with store.read() as session:
        cursor = jobs.read_page(session, "default", limit=1, cursor=None).next_cursor
        assert cursor is not None
        for bad in ("", "x", "éé", "e30", cursor[:-3], "W10", "bnVsbA"):
            with pytest.raises(CursorError):
                jobs.read_page(session, "default", limit=1, cursor=bad)
        for other in ({"status": "queued"}, {"label": ("a", "b")}):
            with pytest.raises(CursorError):
                jobs.read_page(
                    session, "default", limit=1, cursor=cursor, filters=jobs.JobFilter(**other)
                )
        with pytest.raises(CursorError):
            jobs.read_page(session, "elsewhere", limit=1, cursor=cursor)
        with pytest.raises(CursorError):
            assets.read_page(session, Model, "default", limit=1, cursor=cursor)


def test_an_idempotency_key_makes_one_job(store: Store) -> None:
    first = create(store, key="k", request="r")
    assert create(store, key="k", request="r").id == first.id
    assert create(store, "other", key="k", request="r").id != first.id
    with pytest.raises(IdempotencyError):
        create(store, key="k", request="another")
    with store.read() as session:
        assert len(jobs.read_page(session, "default", limit=9, cursor=None).data) == 1


def test_the_same_key_twice_at_once_makes_one_job(store: Store) -> None:
    answers = together([lambda: create(store, key="k", request="r").id] * 6)
    made = {answer for answer in answers if isinstance(answer, str)}
    assert len(made) == 1
    assert all(isinstance(answer, (str, IntegrityError)) for answer in answers), answers
    assert create(store, key="k", request="r").id in made
    with store.read() as session:
        for table in (Job, Outbox, Event):
            assert session.scalar(select(func.count()).select_from(table)) == 1


ALLOWED = {
    "cancel": {
        "queued": "cancelled",
        "running": "cancelling",
        "pausing": "cancelling",
        "paused": "cancelled",
        "cancelling": "cancelling",
        "cancelled": "cancelled",
    },
    "pause": {"queued": "paused", "running": "pausing", "pausing": "pausing", "paused": "paused"},
    "resume": {"paused": "queued", "queued": "queued", "running": "running"},
    "retry": {"failed": "queued", "cancelled": "queued", "queued": "queued", "running": "running"},
}


@pytest.mark.parametrize("verb", ALLOWED)
def test_transitions_from_every_status(store: Store, verb: str) -> None:
    for status in STATUSES:
        job = create(store)
        change(store, job.id, status=status, attempt=3, error={"code": "x"}, fence=1)
        expected = ALLOWED[verb].get(status)
        before = len(history(store, job.id))
        if expected is None:
            with store.write() as session, pytest.raises(TransitionError, match=status):
                jobs.request(session, "default", job.id, verb)
            assert read_job(store, job.id).status == status
            assert len(history(store, job.id)) == before
            continue
        with store.write() as session:
            jobs.request(session, "default", job.id, verb)
        with store.write() as session:
            jobs.request(session, "default", job.id, verb)
        job_row = read_job(store, job.id)
        assert job_row.status == expected
        assert statuses(store, job.id)[1:] == ([] if expected == status else [expected])
        assert gapless(store, job.id)
        if expected == "cancelled" and status != "cancelled":
            assert job_row.finished_at is not None
        if expected == "queued" and status != "queued":
            assert (job_row.attempt, job_row.error, job_row.finished_at) == (1, None, None)
            assert len(messages(store, job.id)) == 1


def test_a_retry_sets_the_deadline_anew(store: Store) -> None:
    job = create(store, spec={"deadline_s": 60.0}, deadline_s=60.0)
    change(store, job.id, status="failed", deadline_at=1.0)
    with store.write() as session:
        jobs.request(session, "default", job.id, "retry")
    job_row = read_job(store, job.id)
    assert job_row.deadline_at == pytest.approx(job_row.updated_at + 60.0, abs=1.0)


def test_a_job_asked_for_again_does_not_wait_for_an_old_pause(store: Store) -> None:
    job = create(store)
    with store.write() as session:
        for message in session.scalars(select(Outbox)):
            message.due_at += 1000.0  # the pause after a crash
        jobs.request(session, "default", job.id, "pause")
        jobs.request(session, "default", job.id, "resume")
    with store.read() as session:
        assert [message.job_id for message in outbox.list_due_messages(session)] == [job.id]


def test_cancel_and_claim_at_once_leave_one_truth(store: Store) -> None:
    for _ in range(5):
        id = create(store).id

        def cancel(id: str = id) -> str:
            with store.write() as session:
                return jobs.request(session, "default", id, "cancel").status

        def take(id: str = id) -> bool:
            with store.write() as session:
                return claims.claim(session, id, "me", 60.0, max_attempts=5) is not None

        answer, taken = together([cancel, take])
        assert (answer, taken) in [("cancelled", False), ("cancelling", True)]
        assert read_job(store, id).status == answer
        assert gapless(store, id)


def test_a_live_job_is_not_deleted_and_an_ended_one_goes_whole(store: Store) -> None:
    job = create(store, labels={"a": "b"}, key="k")
    claim = claimed(store, job.id)
    file = claims.SavedFile("key", "0" * 64, 1)
    with store.write() as session:
        claims.save_stage(session, claim, "s", file)
        claims.save_result(session, claim, "c", "sparse", file)
    with store.write() as session, pytest.raises(InUseError):
        jobs.remove(session, "default", job.id)
    with store.write() as session:
        claims.settle(session, claim, "failed", error={"code": "x"})
    with store.write() as session:
        jobs.remove(session, "default", job.id)
    with store.read() as session:
        for table in (Job, Outbox, JobLabel, Event, Idempotency, StageFile, ResultFile):
            assert session.scalar(select(func.count()).select_from(table)) == 0
    assert create(store, key="k").id != job.id
