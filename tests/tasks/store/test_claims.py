"""Jobs as workers see them, on both databases: claim, fence, lease, attempts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from tasks.store import Store, claims, jobs, outbox
from tasks.store.tables import Outbox
from tests.support.family_turns import write
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
    results,
    stages,
    statuses,
    sweep,
    together,
)

FILE = claims.SavedFile("a", "0" * 64, 1)
OTHER = claims.SavedFile("b", "1" * 64, 2)


def test_twenty_threads_race_for_a_job_and_one_wins(store: Store) -> None:
    id = create(store).id
    answers = together([partial(claim, store, id, str(number)) for number in range(20)])
    won = [answer for answer in answers if answer is not None]
    assert len(won) == 1, answers
    job = read_job(store, id)
    assert (job.status, job.fence, job.attempt) == ("running", 1, 1)
    assert statuses(store, id) == ["queued", "running"]
    assert messages(store, id) == []


def test_twenty_threads_race_for_a_dead_owners_job_and_one_wins(store: Store) -> None:
    id = create(store).id
    claimed(store, id, "dead", lease_s=-1.0)
    answers = together([partial(claim, store, id, str(number)) for number in range(20)])
    assert read_job(store, id).attempt == 2
    # A thread that is late by more than the pause after a crash may have claimed the job already.
    if read_job(store, id).status == "queued":
        due_now(store, id)
    answers += together([partial(claim, store, id, str(number)) for number in range(20)])
    assert sum(answer is not None for answer in answers) == 1
    assert (read_job(store, id).status, read_job(store, id).attempt) == ("running", 2)
    assert read_job(store, id).fence == 2
    assert gapless(store, id)


def test_what_is_held_or_ended_or_not_due_is_not_to_be_had(store: Store) -> None:
    assert claim(store, "job_nothing") is None
    id = create(store).id
    change(store, id, available_at=read_job(store, id).created_at + 1000.0)
    assert claim(store, id) is None
    due_now(store, id)
    claimed(store, id)
    assert claim(store, id, "other") is None
    for status in ("paused", "succeeded", "failed", "cancelled"):
        change(store, id, status=status, lease_until=None, owner=None)
        assert claim(store, id, "other") is None
        assert read_job(store, id).status == status


def test_an_expired_lease_is_taken_over_and_counts(store: Store) -> None:
    id = create(store).id
    first = claimed(store, id, "one", lease_s=-1.0)
    assert claim(store, id, "two") is None  # freed, to be had after a pause
    due_now(store, id)
    second = claimed(store, id, "two")
    assert (first.fence, second.fence) == (1, 2)
    assert (first.attempt, second.attempt) == (1, 2)
    assert statuses(store, id) == ["queued", "running", "queued", "running"]
    assert gapless(store, id)


def test_a_dead_owner_is_not_waited_for(store: Store) -> None:
    id = create(store).id
    claimed(store, id, "dead", lease_s=1e6)
    assert claim(store, id, "two", gone=False) is None
    assert read_job(store, id).status == "running"
    claim(store, id, "two", gone=True)
    job = read_job(store, id)
    assert (job.status, job.attempt, job.owner) == ("queued", 2, None)
    assert job.available_at - job.updated_at < 1.0
    assert len(messages(store, id)) == 1
    due_now(store, id)
    assert claimed(store, id, "two", gone=True).attempt == 2


WRITES: dict[str, Callable[[Session, claims.Claim], Any]] = {
    "heartbeat": lambda session, held: claims.heartbeat(session, held, 60.0),
    "progress": lambda session, held: claims.record_progress(
        session, held, stage="prune", done=1.0, total=2.0
    ),
    "note": lambda session, held: claims.record_event(session, held, "warning", {"message": "x"}),
    "save_stage": lambda session, held: claims.save_stage(session, held, "late", FILE),
    "drop_stage": lambda session, held: claims.drop_stage(session, held, "kept"),
    "save_result": lambda session, held: claims.save_result(session, held, "late", "sparse", FILE),
    "settle": lambda session, held: claims.settle(session, held, "succeeded", summary={"x": 1}),
    "hand_back": claims.hand_back,
    "crash": lambda session, held: claims.crash(session, held, "x", max_attempts=5),
}


@pytest.mark.parametrize("verb", WRITES)
def test_an_old_fence_writes_nothing(store: Store, verb: str) -> None:
    id = create(store).id
    old = claimed(store, id, "old")
    write(store, claims.save_stage, old, "kept", FILE)
    claim(store, id, "new", gone=True)
    due_now(store, id)

    def look() -> Any:
        job = read_job(store, id)
        return (
            {held.name: getattr(job, held.name) for held in job.__table__.columns},
            len(history(store, id)),
            list(stages(store, id)),
            list(results(store, id)),
            len(messages(store, id)),
        )

    def refused() -> None:
        before = look()
        with pytest.raises(claims.LostError), store.write() as session:
            WRITES[verb](session, old)
        assert look() == before

    refused()  # nobody holds it
    new = claimed(store, id, "new")
    refused()  # another holds it
    write(store, claims.settle, new, "failed", error={"code": "x"})
    refused()  # it has ended
    with pytest.raises(claims.LostError), store.write() as session:
        WRITES[verb](session, new)
    write(store, jobs.remove, "default", id)
    with pytest.raises(claims.LostError), store.write() as session:
        WRITES[verb](session, old)


def test_the_holder_beats_and_learns_what_is_asked(store: Store) -> None:
    id = create(store).id
    held = claimed(store, id, lease_s=1.0)
    assert write(store, claims.heartbeat, held, 500.0) == "running"
    lease = read_job(store, id).lease_until
    assert lease is not None
    assert lease > read_job(store, id).created_at + 400.0
    write(store, jobs.request, "default", id, "pause")
    assert write(store, claims.heartbeat, held, 500.0) == "pausing"
    write(store, jobs.request, "default", id, "cancel")
    assert write(store, claims.heartbeat, held, 500.0) == "cancelling"


@pytest.mark.parametrize(
    ("verb", "after"), [(None, "queued"), ("pause", "paused"), ("cancel", "cancelled")]
)
def test_handing_back_counts_no_attempt(store: Store, verb: str | None, after: str) -> None:
    id = create(store).id
    held = claimed(store, id)
    if verb is not None:
        write(store, jobs.request, "default", id, verb)
    write(store, claims.hand_back, held)
    job = read_job(store, id)
    assert (job.status, job.attempt, job.owner, job.lease_until) == (after, 1, None, None)
    assert (job.finished_at is not None) == (after == "cancelled")
    assert len(messages(store, id)) == (after == "queued")
    if after == "queued":
        assert claimed(store, id).attempt == 1


def test_saved_work_lets_the_attempts_start_again(store: Store) -> None:
    id = create(store).id
    for _ in range(3):
        write(store, claims.crash, claimed(store, id), "x", max_attempts=5)
        due_now(store, id)
    assert read_job(store, id).attempt == 4
    held = claimed(store, id)
    assert write(store, claims.save_stage, held, "one", FILE) is None
    assert read_job(store, id).attempt == 1
    assert write(store, claims.save_stage, held, "one", OTHER) == FILE.artifact
    assert write(store, claims.drop_stage, held, "one") == OTHER.artifact
    assert write(store, claims.drop_stage, held, "one") is None


def test_the_same_work_done_again_is_no_progress(store: Store) -> None:
    id = create(store).id
    for attempt in range(1, 4):
        held = claimed(store, id, max_attempts=3)
        assert held.attempt == attempt
        again = claims.SavedFile(f"attempts/{attempt}", FILE.sha256, 1)
        write(store, claims.save_stage, held, "rewind", again)
        write(store, claims.crash, held, "x", max_attempts=3)
        due_now(store, id)
    assert read_job(store, id).status == "failed"


def test_at_most_so_many_attempts_without_progress(store: Store) -> None:
    id = create(store).id
    for attempt in range(1, 4):
        held = claimed(store, id, max_attempts=3)
        assert held.attempt == attempt
        write(store, claims.crash, held, "it broke", max_attempts=3)
        due_now(store, id)
    job = read_job(store, id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"], job.error["attempt"]) == (
        "worker_lost",
        True,
        3,
    )
    assert "it broke" in job.error["message"]
    assert "3 attempts" in job.error["message"]
    assert messages(store, id) == []
    assert job.finished_at is not None
    write(store, jobs.request, "default", id, "retry")
    assert claimed(store, id, max_attempts=3).attempt == 1


@pytest.mark.parametrize("way", ["sweep", "claim"])
def test_a_job_whose_owners_die_fails_without_one_that_reports_it(store: Store, way: str) -> None:
    id = create(store).id
    for _ in range(3):
        claimed(store, id, "dead", lease_s=-1.0, max_attempts=3)
        if way == "sweep":
            assert sweep(store, max_attempts=3) == 1
        else:
            assert claim(store, id, max_attempts=3) is None
        due_now(store, id)
    job = read_job(store, id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert sweep(store, max_attempts=3) == 0


def test_the_pause_after_a_crash_doubles(store: Store) -> None:
    id = create(store).id
    pauses = []
    for _ in range(9):
        write(store, claims.crash, claimed(store, id), "x", max_attempts=99)
        job = read_job(store, id)
        pauses.append(job.available_at - job.updated_at)
        assert [message.due_at for message in messages(store, id)] == [job.available_at]
        assert claim(store, id) is None
        due_now(store, id)
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0], abs=0.4)


def test_a_claim_and_a_crash_while_the_relay_publishes_lose_no_message(store: Store) -> None:
    id = create(store).id
    [sent] = messages(store, id)
    write(store, claims.hand_back, claimed(store, id))
    write(store, outbox.mark_published, sent)
    assert len(messages(store, id)) == 1


def test_messages_become_due_in_their_order(store: Store) -> None:
    ids = [create(store, priority=number).id for number in (1, 9, 5)]
    with store.write() as session:
        session.execute(
            update(Outbox).where(Outbox.job_id == ids[1]).values(due_at=Outbox.due_at + 1000.0)
        )
    with store.read() as session:
        assert [message.job_id for message in outbox.list_due_messages(session)] == [ids[0], ids[2]]
        assert len(outbox.list_due_messages(session, 1)) == 1


def test_events_have_no_gaps_under_many_writers(store: Store) -> None:
    id = create(store).id
    held = claimed(store, id)

    def tell(index: int) -> None:
        for number in range(10):
            write(store, claims.record_event, held, "warning", {"message": f"{index}.{number}"})

    answers = together([partial(tell, number) for number in range(6)])
    assert answers == [None] * 6
    assert gapless(store, id)
    events = history(store, id)
    assert [event.at for event in events] == sorted(event.at for event in events)
    messages_sent = [event.data["message"] for event in events if event.type == "warning"]
    assert len(set(messages_sent)) == 60
    with store.read() as session:
        assert [event.seq for event in jobs.list_events(session, id, after=5, limit=3)] == [6, 7, 8]


def test_a_settled_job_keeps_its_results_and_its_summary(store: Store) -> None:
    id = create(store).id
    held = claimed(store, id)
    write(store, claims.save_stage, held, "one", FILE)
    for file in (FILE, OTHER):
        write(store, claims.save_result, held, "c", "sparse", file)
    write(store, claims.settle, held, "succeeded", summary={"x": 1})
    job = read_job(store, id)
    assert (job.status, job.summary, job.error, job.owner) == ("succeeded", {"x": 1}, None, None)
    assert stages(store, id) == {}
    assert {key: row.artifact for key, row in results(store, id).items()} == {
        ("c", "sparse"): OTHER.artifact
    }
    assert sweep(store, gone=True) == 0


def test_a_failure_keeps_the_stages_for_a_retry(store: Store) -> None:
    id = create(store).id
    held = claimed(store, id)
    write(store, claims.save_stage, held, "one", FILE)
    write(store, claims.settle, held, "failed", error={"code": "x"})
    assert list(stages(store, id)) == ["one"]
    assert read_job(store, id).error == {"code": "x"}
