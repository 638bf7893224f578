"""A turn of a job with replicates: which of them to start, and the report of those that ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.replicates.finished import FEWEST, read_finished
from pruning.replicates.plan import Member, Run, list_members
from pruning.replicates.report import build_report
from pruning.schemas.job import JobSpec
from pruning.schemas.report import Report


@dataclass(frozen=True)
class State:
    """The job after a turn."""

    start: tuple[Member, ...]
    """The replicates to be started now."""
    finished: bool
    """Whether nothing is under way and nothing is left to run."""
    report: Report | None
    """None while fewer than two replicates have succeeded."""
    failure: str | None
    """The reason why there is nothing to pool, where all have ended."""


def take_turn(folder: Path, job_id: str, document: Mapping[str, Any], runs: Sequence[Run]) -> State:
    """The state of the job whose replicates stand as in `runs`; it depends on nothing else but the
    files of those that have succeeded, in `folder`.
    """
    spec = JobSpec.model_validate(document)
    known = {run.member.key for run in runs}
    start = tuple(member for member in list_members(spec) if member.key not in known)
    has_ended = not start and all(run.ended for run in runs)
    succeeded = [run for run in runs if run.status == "succeeded"]
    if len(succeeded) < FEWEST:
        failure = _explain_failure(spec, runs) if has_ended else None
        return State(start, has_ended, None, failure)
    report = build_report(job_id, document, runs, read_finished(folder, runs))
    return State(start, has_ended, report, None)


def _explain_failure(spec: JobSpec, runs: Sequence[Run]) -> str:
    """The number of replicates that succeeded, with the reason of the first that did not."""
    unsuccessful = [run for run in runs if run.status != "succeeded"]
    first = unsuccessful[0]
    reason = first.error or f"it was {first.status}"
    succeeded = len(runs) - len(unsuccessful)
    return (
        f"{succeeded} of {spec.replicates} replicates succeeded, and pooling takes {FEWEST}; job "
        f"{first.job} did not, because: {reason}"
    )
