"""One turn of a job with replicates, in a job process of its own.

The same replicates make the same turn, so a turn that died is simply taken again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruning.replicates.plan import Run, build_replicate_job
from pruning.replicates.turn import take_turn
from pruning.reporting.files import write_report
from tasks.processes.pipe import Pipe


def run_turn(folder: Path, job: dict[str, Any], pipe: Pipe) -> None:
    """Read the runs of `job.json`, write the report, start replicates, and wait for them or end."""
    document = job["spec"]
    runs = [Run.model_validate(run) for run in job["runs"]]
    statuses = {run.job: run.status for run in runs}
    pipe.stage("predict", "replicates")
    state = take_turn(folder, job["id"], document, runs)
    if state.report is not None:
        recommendation = state.report.recommendation.model_dump(mode="json")
        gates = [gate.model_dump(mode="json") for gate in state.report.gates]
        pipe.summary({"recommendation": recommendation, "gates": gates})
        (folder / "files").mkdir(exist_ok=True)
        write_report(state.report, folder / "files", pipe.file)
    if state.start:
        units = job["units"] / document["replicates"]
        new_members = [
            {
                "key": member.key,
                "member": member.model_dump(mode="json"),
                "spec": build_replicate_job(document, member),
                "units": units,
            }
            for member in state.start
        ]
        pipe.send("members", start=new_members)
    if state.failure is not None:
        pipe.send("error", code="too_few_replicates", message=state.failure, retryable=True)
    else:
        pipe.send("done" if state.finished else "wait", seen=statuses)
