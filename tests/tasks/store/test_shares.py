"""Threads of jobs that run beside each other: no more than cores, and the same for ever."""

from __future__ import annotations

import pytest

from tasks import owners
from tasks.store import Store, claims, shares
from tests.support.job_world import change, claim, create, read_job


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("concurrency", [1, 2, 3, 8])
def test_no_core_has_two_threads_while_there_are_no_more_jobs(cores: int, concurrency: int) -> None:
    taken = 0
    for _ in range(min(cores, concurrency)):
        taken += shares.divide_cores(cores, concurrency, taken)
    assert taken <= cores
    assert shares.divide_cores(cores, concurrency, cores) == 1
    assert shares.divide_cores(cores, 1, 0) == cores


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a machine of four cores."""
    monkeypatch.setattr(shares, "count_cores", lambda: 4)
    return owners.identify_host()


def start(store: Store, host: str, concurrency: int = 1, owner: str = "") -> str:
    """Return a job that was claimed on the host, or by the owner, and has its threads."""
    id = create(store).id
    assert claim(store, id, owner or f"{host}/1/1") is not None
    with store.write() as session:
        shares.assign_threads(session, id, host, concurrency)
    return id


def test_a_job_has_what_others_on_its_machine_leave(store: Store, host: str) -> None:
    first = start(store, host, concurrency=2)
    change(store, start(store, host, owner="elsewhere/boot/1/1"), threads=4)
    assert read_job(store, first).threads == 2
    assert read_job(store, start(store, host)).threads == 2
    last = start(store, host)
    assert read_job(store, last).threads == 1
    change(store, first, status="succeeded")
    with store.write() as session:
        shares.assign_threads(session, last, host, 1)
    assert read_job(store, last).threads == 1, "a job keeps its number"
    assert read_job(store, start(store, host)).threads == 1


def test_paused_jobs_take_no_cores(store: Store, host: str) -> None:
    first = start(store, host)
    assert read_job(store, first).threads == 4
    assert claims.HELD == ("running", "pausing", "cancelling")
    change(store, first, status="paused")
    assert read_job(store, start(store, host)).threads == 4
