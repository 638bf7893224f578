"""Jobs as scripts run them: submitted, waited for, and their reports saved in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruning.schemas.report import Report
from secateur import Client
from secateur.wire import Job


def run(client: Client, spec: dict[str, Any], out: Path) -> Job:
    """Submit the job, wait for its end and save its reports; raises `JobFailed` or
    `JobCancelled`.
    """
    job = client.jobs.submit(spec)
    print(f"submitted {job.id}", flush=True)
    job = client.jobs.wait(job.id)
    print(f"{job.id} {job.status}", flush=True)
    save_reports(client, job.id, out)
    return job


def save_reports(client: Client, job_id: str, out: Path) -> Report:
    """Save the report as `report.html`, `report.md` and `report.json` in the folder; return it."""
    out.mkdir(parents=True, exist_ok=True)
    for format in ("html", "md", "json"):
        (out / f"report.{format}").write_bytes(client.jobs.report(job_id, format=format))
    return Report.model_validate_json((out / "report.json").read_bytes())
