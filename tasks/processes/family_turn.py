"""One turn of a family, in a job process of its own.

A turn looks at the members, writes the report, and names the members to run next.

The same members make the same turn, so a turn that died is simply taken again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pruning.errors import InsufficientPointsError, SecateurError
from pruning.family.members import Member, Run, build_member_job, list_members
from pruning.family.report import build_report
from pruning.family.sizes import Size
from pruning.family.turn import State, take_turn
from pruning.reporting.files import write_report
from pruning.schemas.family import FamilySpec
from tasks.processes.estimates import count_member_units, size_networks
from tasks.processes.pipe import Pipe

SIZES = "sizes.json"
"""The stage file with the sizes of the networks."""
REPORTED = "reported.json"
"""The stage file with the number of members that had ended at the last report."""
GROWTH = 0.05
"""The fraction of members that must have ended since the last report before the next one is due.

A report looks at all members, so it is not worth writing after each of them.
"""


def run_turn(folder: Path, job: dict[str, Any], pipe: Pipe) -> None:
    """Read the runs of `job.json`, write the report, ask for members, and wait for them or end."""
    spec = FamilySpec.model_validate(job["spec"])
    runs = [Run.model_validate(document) for document in job["runs"]]
    statuses = {run.job: run.status for run in runs}
    pipe.stage("predict", "members")
    if not _is_report_due(folder, spec, runs):
        pipe.send("wait", seen=statuses)
        return
    sizes = _read_or_build_sizes(folder, spec, job, pipe)
    state = take_turn(spec, sizes, runs)
    failure: SecateurError | None = None
    if state.finished and state.law is None:
        failure = state.refusal or InsufficientPointsError("no member was measured")
    report = build_report(state, job["id"], job["spec"], job["dataset"]["name"], failure=failure)
    gates = [gate.model_dump(mode="json") for gate in report.gates]
    recommendation = report.recommendation.model_dump(mode="json")
    pipe.summary({"recommendation": recommendation, "gates": gates})
    (folder / "files").mkdir(exist_ok=True)
    write_report(report, folder / "files", pipe.file)
    _save_stage(folder, REPORTED, sum(run.ended for run in runs), pipe)
    if state.start:
        new_members = [_describe_member(spec, member, sizes, job) for member in state.start]
        pipe.send("members", start=new_members)
    if failure is not None:
        message = _explain_failure(state, failure)
        pipe.send("error", code=failure.code, message=message, retryable=True)
    else:
        pipe.send("done" if state.finished else "wait", seen=statuses)


def _read_or_build_sizes(
    folder: Path, spec: FamilySpec, job: dict[str, Any], pipe: Pipe
) -> list[Size]:
    """Return the sizes of the networks.

    They need torch: the first turn computes them and keeps them for the others.
    """
    path = folder / "stages" / SIZES
    if path.exists():
        return [Size.model_validate(document) for document in json.loads(path.read_text())]
    sizes = size_networks(spec, job["data"])
    _save_stage(folder, SIZES, [size.model_dump(mode="json") for size in sizes], pipe)
    return list(sizes)


def _save_stage(folder: Path, name: str, value: Any, pipe: Pipe) -> None:
    """Save a value for later turns."""
    path = folder / "stages" / name
    path.write_text(json.dumps(value))
    pipe.saved(name, path)


def _is_report_due(folder: Path, spec: FamilySpec, runs: list[Run]) -> bool:
    """Return whether there is a member to start, the family to end, or enough news to report."""
    path = folder / "stages" / REPORTED
    ended = sum(run.ended for run in runs)
    if not path.exists() or spec.adaptive is not None:
        return True
    if ended == len(runs) or len(runs) < len(list_members(spec)):
        return True
    reported = int(json.loads(path.read_text()))
    return ended - reported >= GROWTH * len(runs)


def _describe_member(
    spec: FamilySpec, member: Member, sizes: list[Size], job: dict[str, Any]
) -> dict[str, Any]:
    """Return a member to start, as the store's `start_members` wants it."""
    size = next(size for size in sizes if size.depth == member.depth and size.width == member.width)
    document = build_member_job(spec, member, size.kwargs)
    return {
        "key": member.key,
        "member": member.model_dump(mode="json", exclude_none=True),
        "spec": document,
        "units": count_member_units(document, job["data"]),
    }


def _explain_failure(state: State, failure: Exception) -> str:
    """Return the failure, with the reason of the first member that did not succeed."""
    unsuccessful = [run for run in state.runs if run.status != "succeeded"]
    if not unsuccessful:
        return str(failure)
    first = unsuccessful[0]
    reason = first.error or f"it was {first.status}"
    return (
        f"{failure}; {len(unsuccessful)} of {len(state.runs)} members did not succeed, "
        f"the first because: {reason}"
    )
