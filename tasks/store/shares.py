"""The cores of a machine, shared by the jobs that run on it.

Threads that share a core slow each other down: a job's step waits for its slowest thread. So all
jobs of a machine have no more threads than it has cores, as long as there are no more jobs.
"""

from __future__ import annotations

import os

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tasks.store.claims import HELD
from tasks.store.tables import Job


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def divide_cores(cores: int, concurrency: int, taken: int) -> int:
    """Return max(1, min(cores // concurrency, cores - taken)): the threads of a job that starts
    beside others with `taken` threads, on a worker that runs `concurrency` jobs at a time.

    >>> divide_cores(8, 1, 0), divide_cores(8, 1, 6), divide_cores(8, 4, 0), divide_cores(2, 2, 2)
    (8, 2, 2, 1)
    """
    return max(1, min(cores // concurrency, cores - taken))


def assign_threads(session: Session, id: str, host: str, concurrency: int) -> None:
    """Record the threads of a job that was just claimed on a host, where it has none yet.

    A job keeps its number for good: sums of another number of threads are rounded otherwise, and a
    resumed job is to end with the same bytes.
    """
    job = session.get(Job, id)
    if job is None or job.threads is not None:
        return
    on_host = Job.owner.startswith(f"{host}/", autoescape=True)
    others = select(func.sum(Job.threads)).where(Job.status.in_(HELD), on_host, Job.id != id)
    taken = int(session.scalar(others) or 0)
    job.threads = divide_cores(count_cores(), concurrency, taken)
