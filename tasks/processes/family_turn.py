"""One turn of a family, in a job process of its own: look at the members, report, and say what to
run next.

The same members give the same turn, so that one which died is simply taken again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pruning.errors import InsufficientPointsError
from pruning.family.members import Member, Run, build_member_job, list_members
from pruning.family.report import build_report
from pruning.family.sizes import Size
from pruning.family.turn import State, take_turn
from pruning.reporting.files import write_report
from pruning.schemas.family import FamilySpec
from tasks.processes.estimates import count_member_units, size_networks
from tasks.processes.pipe import Pipe

SIZES, REPORTED = "sizes.json", "reported.json"
GROWTH = 0.05
"""While members run, a new report is due once this fraction of them more has ended: a report looks
at all of them.
"""


def run_turn(folder: Path, job: dict[str, Any], pipe: Pipe) -> None:
    """Read `job.json`'s runs, publish the report, ask for members, and wait for them or end."""
    spec = FamilySpec.model_validate(job["spec"])
    runs = [Run.model_validate(one) for one in job["runs"]]
    pipe.stage("predict", "members")
    if not _is_report_due(folder, spec, runs):
        pipe.send("wait", seen={run.job: run.status for run in runs})
        return
    sizes = _read_or_build_sizes(folder, spec, job, pipe)
    state = take_turn(spec, sizes, runs)
    failure = None
    if state.finished and state.law is None:
        failure = state.refusal or InsufficientPointsError("no member was measured")
    found = build_report(state, job["id"], job["spec"], job["dataset"]["name"], failure=failure)
    pipe.summary({"recommendation": found.recommendation.model_dump(mode="json"), "gates": []})
    (folder / "files").mkdir(exist_ok=True)
    write_report(found, folder / "files", pipe.file)
    _save_stage(folder, REPORTED, sum(run.ended for run in runs), pipe)
    if state.start:
        pipe.send(
            "members", start=[_describe_member(spec, member, sizes, job) for member in state.start]
        )
    if failure is not None:
        pipe.send(
            "error", code=failure.code, message=_explain_failure(state, failure), retryable=True
        )
    else:
        pipe.send("done" if state.finished else "wait", seen={run.job: run.status for run in runs})


def _read_or_build_sizes(
    folder: Path, spec: FamilySpec, job: dict[str, Any], pipe: Pipe
) -> list[Size]:
    """What needs torch, computed by the first turn and kept for the others."""
    path = folder / "stages" / SIZES
    if path.exists():
        return [Size.model_validate(one) for one in json.loads(path.read_text())]
    sizes = size_networks(spec, job["data"])
    _save_stage(folder, SIZES, [one.model_dump(mode="json") for one in sizes], pipe)
    return list(sizes)


def _save_stage(folder: Path, name: str, value: Any, pipe: Pipe) -> None:
    """Save what later turns read."""
    path = folder / "stages" / name
    path.write_text(json.dumps(value))
    pipe.saved(name, path)


def _is_report_due(folder: Path, spec: FamilySpec, runs: list[Run]) -> bool:
    """Whether there is something to start, to end, or enough that is new to report."""
    path, ended = folder / "stages" / REPORTED, sum(run.ended for run in runs)
    if (
        not path.exists()
        or spec.adaptive is not None
        or ended == len(runs)
        or len(runs) < len(list_members(spec))
    ):
        return True
    return ended - int(json.loads(path.read_text())) >= GROWTH * len(runs)


def _describe_member(
    spec: FamilySpec, member: Member, sizes: list[Size], job: dict[str, Any]
) -> dict[str, Any]:
    size = next(one for one in sizes if (one.depth, one.width) == (member.depth, member.width))
    document = build_member_job(spec, member, size.kwargs)
    return {
        "key": member.key,
        "member": member.model_dump(mode="json", exclude_none=True),
        "spec": document,
        "units": count_member_units(document, job["data"]),
    }


def _explain_failure(state: State, failure: Exception) -> str:
    lost = [run for run in state.runs if run.status != "succeeded"]
    if not lost:
        return str(failure)
    return (
        f"{failure}; {len(lost)} of {len(state.runs)} members did not succeed, the first because: "
        + (lost[0].error or f"it was {lost[0].status}")
    )
