"""A new method of any kind is one file: a folder of them is all that a job needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pruning.schemas.report import Report

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "support" / "plugins"

RUN = """
import json, sys
from pathlib import Path
from tasks.processes.helper import build_catalogue
from pruning.pipeline.run_job import run_job

class Watcher:
    def stage(self, stage, name): pass
    def progress(self, done, total): pass
    def warn(self, message): pass
    def saved(self, name, path): pass
    def dropped(self, name): pass
    def file(self, checkpoint, format, path): pass
    def checkpoint(self, id, sparsity, error): pass
    def summary(self, summary): pass

catalogue = build_catalogue({}).items()
names = {kind: [entry["name"] for entry in entries] for kind, entries in catalogue}
print(json.dumps(names))
for folder in map(Path, sys.argv[1:]):
    run_job(folder, json.loads((folder / "job.json").read_text()), Watcher())
"""
"""Prints the names of the catalogue, then runs the jobs of the folders; a process takes longer to
start than a job to run.
"""

ADDED = {
    "criteria": "smallest_last",
    "allocations": "first_layers",
    "sparsifiers": "signs_only",
    "schedules": "halfway",
    "evaluations": "sign_agreement",
    "corruptions": "dim",
    "architectures": "one_layer",
    "granularities": "columns",
}


def run_with_plugins(*folders: Path) -> str:
    """What a fresh process with the plug-ins prints that runs the jobs of the folders."""
    environment = os.environ | {"SECATEUR_PLUGIN_PATH": str(PLUGINS), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, folders)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_job(folder: Path, spec: dict[str, Any]) -> None:
    """Write a job on the bundled digits into a folder of its own."""
    job = {
        "id": "job_00000000",
        "spec": {
            "type": "prune",
            "model": {
                "architecture": "one_layer",
                "train": {"epochs": 8, "corrupt": {"names": ["dim"]}},
            },
            "dataset": {"builtin": "digits", "limit": {"train": 300, "test": 100}},
            "retrain": {"mode": "none"},
            "targets": {"sparsity": [0.5]},
        }
        | spec,
        "model": {
            "architecture": "one_layer",
            "kwargs": {"channels": 1, "height": 8, "width": 8, "classes": 10},
            "normalize": None,
            "classes": None,
            "sha256": None,
        },
        "dataset": {"name": "digits", "sha256": "", "normalize": None},
        "threads": 1,
        "cache": {"bytes": 0, "folder": ""},
        "checkpoint_steps": 1000,
    }
    (folder / "stages").mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(job))


METHODS: dict[str, dict[str, Any]] = {
    "weights": {"allocation": {"name": "first_layers"}, "sparsifier": {"name": "signs_only"}},
    "columns": {"granularity": {"name": "columns"}},
}


@pytest.mark.slow
def test_the_catalogue_lists_what_the_folder_adds_and_jobs_run_with_it(tmp_path: Path) -> None:
    for name, method in METHODS.items():
        write_job(
            tmp_path / name,
            method
            | {
                "criterion": {"name": "smallest_last"},
                "schedule": {"name": "halfway"},
                "evaluations": [
                    {"name": "sign_agreement"},
                    {"name": "robustness", "params": {"corruptions": ["dim"], "severities": [5]}},
                ],
            },
        )
    catalogue = json.loads(run_with_plugins(*(tmp_path / name for name in METHODS)).splitlines()[0])
    for kind, name in ADDED.items():
        assert name in catalogue[kind]
    for name in METHODS:
        check_report((tmp_path / name / "files" / "report.json").read_text())


def check_report(text: str) -> None:
    """Assert that the plug-ins did their part."""
    report = Report.model_validate_json(text)
    assert not report.failures
    (checkpoint,) = report.checkpoints
    assert checkpoint.round == 2  # the schedule's second
    assert checkpoint.sparsity >= 0.5
    sections = report.sections
    agreement = sections["sign_agreement"].scalars[f"agreement/{checkpoint.id}"]
    assert agreement.value == 1.0
    rows = sections["robustness"].details["errors_by_shift"]
    assert any("dim" in row["shift"] for row in rows)
