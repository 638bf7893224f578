"""Replicates of a small real job, run in this process, and the report that pools them."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

from pruning.evaluations import _lost_images, robustness
from pruning.pipeline import run_job as job_runner
from pruning.replicates.finished import Finished, read_finished
from pruning.replicates.plan import Member, Run, build_replicate_job, list_members
from pruning.replicates.report import build_report
from pruning.schemas.job import JobSpec, Status
from pruning.schemas.report import Picture, Report

JOB = "job_00000000"
DOCUMENT: dict[str, Any] = {
    "type": "prune",
    "model": {
        "architecture": "mlp",
        "kwargs": {"hidden": [16]},
        "train": {"epochs": 4, "batch_size": 32, "optimizer": {"lr": 0.05}},
    },
    "dataset": {"builtin": "digits", "limit": {"train": 400, "test": 150}},
    "targets": {"sparsity": [0.5, 0.7, 0.85, 0.95]},
    "retrain": {"epochs": 1, "batch_size": 32},
    "evaluations": [
        {"name": "class_damage"},
        {"name": "certificate"},
        {"name": "scaling_law"},
        {"name": "robustness", "params": {"corruptions": ["brightness"]}},
        {"name": "prune_potential", "params": {"corruptions": ["brightness"], "noise": [0.2]}},
    ],
    "gates": {
        "max_error_increase": 0.3,
        "max_class_increase": 0.9,
        "max_delta_excess_error": 0.5,
        "max_size_bytes": 10_000_000,
    },
    "seed": 3,
    "replicates": 2,
}


class Silent:
    """A watcher of a job that keeps nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **named: None


def run_replicate(document: dict[str, Any], member: Member, folder: Path) -> Run:
    """Run the job of a replicate, and leave its results as a turn finds them."""
    job = f"job_{member.seed:08d}"
    own = folder / job
    (own / "stages").mkdir(parents=True)
    spec = build_replicate_job(document, member)
    model = {
        "architecture": spec["model"]["architecture"],
        "kwargs": spec["model"]["kwargs"],
        "normalize": None,
        "classes": None,
        "sha256": None,
    }
    fields = {
        "id": job,
        "spec": spec,
        "checkpoint_steps": 10_000,
        "cache": {"folder": str(folder), "bytes": 0},
        "threads": 1,
        "model": model,
        "dataset": {"name": "digits", "sha256": "", "normalize": None},
        "keeps_pictures": True,
    }

    def write_json(report: Report, where: Path, written: Any) -> None:
        """Write the last report alone: other formats and pictures take longer than the job."""
        (folder / f"{job}.json").write_text(report.model_dump_json())

    with ExitStack() as stack:
        stack.enter_context(patch.object(job_runner, "write_report", write_json))
        for module in (_lost_images, robustness):
            stack.enter_context(patch.object(module, "draw_grid", skip_picture))
        job_runner.run_job(own, fields, Silent())
    (own / "files" / "report.images.safetensors").rename(folder / f"{job}.images")
    return Run(job=job, member=member, status="succeeded")


def skip_picture(tiles: Any, caption: str, **how: Any) -> Picture:
    """Return a picture without pixels."""
    return Picture(caption=caption, png="")


@cache
def run_replicates() -> tuple[Path, tuple[Run, ...]]:
    """Run the replicates of the small job once for all tests; return their folder and runs."""
    folder = Path(mkdtemp(prefix="secateur-replicates-"))
    members = list_members(JobSpec.model_validate(DOCUMENT))
    return folder, tuple(run_replicate(DOCUMENT, member, folder) for member in members)


def read_replicates() -> list[Finished]:
    """Return the finished replicates of the small job."""
    folder, runs = run_replicates()
    return read_finished(folder, runs)


@cache
def pool() -> Report:
    """Return the report of the small job."""
    _, runs = run_replicates()
    return build_report(JOB, DOCUMENT, runs, read_replicates())


def end(run: Run, status: Status, error: str = "") -> Run:
    """Return a run that has ended otherwise."""
    return run.model_copy(update={"status": status, "error": error})
