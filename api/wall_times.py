"""The time that a job will take, from the times of jobs that ran here."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.schemas.wall_times import WallTime
from pruning.schemas.environment import Timing
from tasks.store.tables import Job

JOBS_READ = 500
"""The number of jobs that succeeded last, among which comparable ones are looked for."""
MOST_COMPARED = 50
"""The largest number of jobs on a machine that an estimate is taken from."""
ENOUGH_OF_NETWORK = 3
"""The number of jobs of a network from which on no others are compared."""
UPPER = 0.9


def estimate_wall_times(session: Session, project: str, estimate: dict[str, Any]) -> list[WallTime]:
    """Return how long a job of this estimate should take, for each kind of machine that ran jobs of
    the project; those of others are theirs.

    Machines where most jobs ran come first.
    """
    machines: dict[tuple[str, str], list[Timing]] = defaultdict(list)
    for timing in _read_timings(session, project):
        machines[timing.device, timing.device_name].append(timing)
    ordered = sorted(machines.items(), key=lambda machine: -len(machine[1]))
    flops = float(estimate["flops"])
    image_flops = round(flops / estimate["units"]) if estimate["units"] else 0
    return [
        _compare(timings, device, name, flops=flops, image_flops=image_flops)
        for (device, name), timings in ordered
        if flops > 0
    ]


def _read_timings(session: Session, project: str) -> list[Timing]:
    """Return the times of the jobs of a project that succeeded last, newest first."""
    succeeded = select(Job.summary).where(Job.project == project, Job.status == "succeeded")
    summaries: Iterable[dict[str, Any] | None] = session.scalars(
        succeeded.order_by(Job.id.desc()).limit(JOBS_READ)
    )
    timings = []
    for summary in summaries:
        try:
            timing = Timing.model_validate((summary or {}).get("timing"))
        except ValidationError:
            continue  # a family, a job that was resumed, or one of an earlier version
        if timing.flops > 0 and timing.seconds > 0:
            timings.append(timing)
    return timings


def _compare(
    timings: Sequence[Timing], device: str, name: str, *, flops: float, image_flops: int
) -> WallTime:
    """The time from the jobs on one machine that are most like this one."""
    alike = [timing for timing in timings if timing.image_flops == image_flops]
    same_network = len(alike) >= ENOUGH_OF_NETWORK
    compared = sorted(
        alike if same_network else timings,
        key=lambda timing: abs(math.log(timing.flops / flops)),
    )[:MOST_COMPARED]
    seconds = [flops * timing.seconds / timing.flops for timing in compared]
    return WallTime(
        device=device,
        device_name=name,
        jobs=len(compared),
        same_network=same_network,
        p50_s=median(seconds),
        p90_s=find_upper_quantile(seconds, UPPER),
    )


def find_upper_quantile(values: Sequence[float], level: float) -> float | None:
    """Return the smallest of n values that one more of the same kind stays at or below with
    probability `level`; None where n are too few.

    The one more is as likely to fall into any of the n + 1 gaps, so the k-th smallest is not
    exceeded with probability k / (n + 1): k = ceil(level (n + 1)).

    >>> find_upper_quantile(range(1, 10), 0.9), find_upper_quantile(range(1, 9), 0.9)
    (9, None)
    """
    place = math.ceil(level * (len(values) + 1) - 1e-9)
    return sorted(values)[place - 1] if 1 <= place <= len(values) else None
