"""The reaper's sweep on both databases: stale leases, lost messages, deadlines."""

from __future__ import annotations

from functools import partial

import pytest

from tasks.store import Store, assets, claims, jobs, outbox
from tests.support.family_turns import write
from tests.support.job_world import (
    change,
    claim,
    claimed,
    create,
    due_now,
    gapless,
    messages,
    read_job,
    statuses,
    sweep,
    together,
)


def published_ago(store: Store, id: str, seconds: float) -> None:
    """Publish the messages that wait, and let that be this long ago."""
    with store.write() as session:
        for message in messages(store, id):
            outbox.mark_published(session, message)
    change(store, id, published_at=write(store, assets.read_clock) - seconds, available_at=0.0)


def test_an_unclaimed_job_is_published_again_ever_more_rarely(store: Store) -> None:
    id = create(store).id
    assert sweep(store) == 1  # never published: the message waits already
    assert len(messages(store, id)) == 1
    for pause in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        published_ago(store, id, pause - 10)
        assert sweep(store) == 0
        assert messages(store, id) == []
        published_ago(store, id, pause + 10)
        assert sweep(store) == 1
        assert len(messages(store, id)) == 1
        assert sweep(store) == 1
        assert len(messages(store, id)) == 1


def test_republishing_starts_again_with_every_claim(store: Store) -> None:
    id = create(store).id
    for _ in range(8):
        published_ago(store, id, 5000)
        sweep(store)
    published_ago(store, id, 0)
    write(store, claims.hand_back, claimed(store, id))
    published_ago(store, id, 70)
    assert sweep(store) == 1
    assert len(messages(store, id)) == 1


@pytest.mark.parametrize("status", ["queued", "paused"])
def test_a_deadline_ends_a_job_that_waits(store: Store, status: str) -> None:
    late, early, free = (
        create(store, deadline_s=1000.0).id,
        create(store, deadline_s=1000.0).id,
        create(store).id,
    )
    for id in (late, early, free):
        change(store, id, status=status)
    change(store, late, deadline_at=1.0)
    sweep(store)
    assert [read_job(store, id).status for id in (late, early, free)] == ["failed", status, status]
    job = read_job(store, late)
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("deadline_exceeded", False)
    assert messages(store, late) == []


@pytest.mark.parametrize(("verb", "after"), [("cancel", "cancelled"), ("pause", "paused")])
@pytest.mark.parametrize("way", ["sweep", "claim"])
def test_what_was_asked_of_a_dead_owner_is_done(
    store: Store, verb: str, after: str, way: str
) -> None:
    id = create(store).id
    claimed(store, id, "dead")
    write(store, jobs.request, "default", id, verb)
    if way == "sweep":
        assert sweep(store, gone=False) == 0
        assert sweep(store, gone=True) == 1
    else:
        assert claim(store, id, "two", gone=True) is None
    job = read_job(store, id)
    assert (job.status, job.attempt, job.owner) == (after, 1, None)
    assert messages(store, id) == []


def test_a_sweep_leaves_those_alone_that_live(store: Store) -> None:
    live, dead = create(store).id, create(store).id
    claimed(store, live)
    claimed(store, dead, lease_s=-1.0)
    assert sweep(store) == 1
    assert [read_job(store, id).status for id in (live, dead)] == ["running", "queued"]
    assert read_job(store, live).attempt == 1


def test_sweepers_at_once_touch_each_job_once(store: Store) -> None:
    for _ in range(3):
        ids = [create(store).id for _ in range(10)]
        for id in ids:
            claimed(store, id, "dead", lease_s=-1.0)
        answers = together([lambda: sweep(store)] * 4)
        assert all(isinstance(answer, int) for answer in answers), answers
        for id in ids:
            assert (read_job(store, id).status, read_job(store, id).attempt) == ("queued", 2)
            assert statuses(store, id) == ["queued", "running", "queued"]
            assert len(messages(store, id)) == 1
            due_now(store, id)


def test_sweepers_and_claimants_and_holders_at_once(store: Store) -> None:
    ids = [create(store).id for _ in range(6)]
    held = {id: claimed(store, id) for id in ids[:3]}
    for id in ids[3:]:
        claimed(store, id, "dead", lease_s=-1.0)

    def beat(id: str) -> None:
        for done in range(10):
            write(store, claims.record_progress, held[id], done=float(done), total=10.0)
            write(store, claims.heartbeat, held[id], 60.0)

    def take(id: str) -> None:
        for _ in range(5):
            claim(store, id, "other")

    answers = together(
        [
            *(partial(beat, id) for id in ids[:3]),
            *(partial(take, id) for id in ids),
            *[lambda: [sweep(store) for _ in range(5)]] * 2,
        ]
    )
    assert not [answer for answer in answers if isinstance(answer, Exception)], answers
    for id in ids:
        assert gapless(store, id)
        assert read_job(store, id).attempt == (1 if id in held else 2)
