"""Jobs whose images do not fit into memory: the results of those that do, few images at a time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.analysis import class_damage
from pruning.data.arrays import Arrays
from pruning.errors import DataError
from pruning.measurement import measure
from pruning.pipeline import run_job as job_runner
from pruning.pipeline.estimate_job import estimate_job
from pruning.schemas.report import Report
from tests.support.replicate_runs import Silent
from tests.support.stored_photos import HeldImages, make_pixels

SPEC: dict[str, Any] = {
    "type": "prune",
    "model": {
        "architecture": "mlp",
        "kwargs": {"hidden": [6]},
        "train": {"epochs": 2, "batch_size": 4, "keep": "best"},
    },
    "dataset": {"id": "dst_00000000", "shifted": [{"id": "dst_00000001", "name": "own"}]},
    "targets": {"sparsity": [0.5]},
    "criterion": {"name": "taylor"},
    "retrain": {"batch_size": 4},
    "evaluations": [
        {"name": "accuracy"},
        {"name": "class_damage"},
        {"name": "robustness", "params": {"corruptions": ["contrast"], "images": 4}},
    ],
}


def describe(arrays: Arrays) -> dict[str, Any]:
    """A dataset as the store knows it."""
    return {
        "shape": list(arrays.shape),
        "sizes": arrays.describe_sizes(),
        "classes": list(arrays.classes),
        "counts": arrays.counts,
        "task": arrays.task,
        "normalize": None,
    }


def run(folder: Path, most: int | None, monkeypatch: pytest.MonkeyPatch) -> tuple[Report, Any]:
    """Run the job with this much memory for images; its report and the digests of its files."""
    folder.mkdir()
    (folder / "stages").mkdir()
    make_pixels(test=40).save(folder / "data.safetensors")
    make_pixels(test=14).save(folder / "shifted-0.safetensors")

    def write_json(report: Report, where: Path, written: Any) -> None:
        (where / "report.json").write_text(report.model_dump_json())

    monkeypatch.setattr(job_runner, "write_report", write_json)
    job = {
        "id": "job_00000000",
        "spec": SPEC,
        "checkpoint_steps": 10_000,
        "cache": {"folder": str(folder), "bytes": 0},
        "threads": 1,
        "model": {"normalize": None, "classes": None, "sha256": None}
        | {name: SPEC["model"][name] for name in ("architecture", "kwargs")},
        "dataset": {"name": "pixels", "sha256": "", "normalize": None},
        "most_data_bytes": most,
    }
    job_runner.run_job(folder, job, Silent())
    files = sorted((folder / "files").glob("*.safetensors"))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return Report.model_validate_json((folder / "files" / "report.json").read_text()), digests


def read_results(report: Report) -> Any:
    """What a report says of the networks, but for what depends on the time or the memory."""
    document = json.loads(report.model_dump_json())
    for checkpoint in (document["baseline"], document["control"], *document["checkpoints"]):
        checkpoint["latency_ms"] = None
    return {
        name: document[name]
        for name in ("data", "baseline", "control", "checkpoints", "sections", "failures")
    }


@pytest.mark.slow
def test_a_job_that_reads_from_the_disk_gives_the_bytes_of_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "EVAL_BATCH", 4)
    monkeypatch.setattr(class_damage, "AT_ONCE", 4)
    wanted, files = run(tmp_path / "memory", None, monkeypatch)
    held = HeldImages()
    held.watch(monkeypatch)
    report, digests = run(tmp_path / "disk", 0, monkeypatch)
    assert files
    assert digests == files
    assert read_results(report) == read_results(wanted)
    assert wanted.failures == ()
    notes = [text for text in report.warnings if "does not fit into the memory" in text]
    assert len(notes) == 2
    assert not [text for text in wanted.warnings if "memory" in text]
    assert held.largest <= 24, "all images to train on at most, and never those to test on"


def test_what_does_not_fit_is_read_from_the_disk_and_said() -> None:
    arrays = make_pixels()
    shifted = make_pixels(test=14)
    known = describe(arrays), [describe(shifted)]
    image = 3 * 28 * 28
    needed = estimate_job(SPEC, None, *known)["data_bytes"]
    assert needed == (34 + 38) * image

    def plan(most: int) -> tuple[int, list[str]]:
        estimate = estimate_job(SPEC, None, *known, most_data_bytes=most)
        notes = [text for text in estimate["warnings"] if "SECATEUR_JOB_DATA_BYTES" in text]
        return estimate["data_bytes"], notes

    assert plan(needed) == (needed, [])
    held, notes = plan(needed - 1)
    assert held == 34 * image
    assert "the shifted set 'own' does not fit into the memory" in notes[0]
    held, notes = plan(33 * image)
    assert held == 12 * image, "test images and a tenth of the others, which decide"
    assert "its images to train on are read from the disk" in notes[0]
    held, notes = plan(11 * image)
    assert held == 0
    assert "the dataset does not fit into the memory for images (25.9 kB" in notes[0]


def test_masks_that_do_not_fit_are_refused() -> None:
    images = np.zeros((4, 3, 32, 32), np.uint8)
    masks = np.indices((4, 32, 32)).sum(0).astype(np.uint8) % 2
    scenes = Arrays(
        {"train": images, "test": images}, {"train": masks, "test": masks}, ("even", "odd")
    )
    spec = {
        **SPEC,
        "model": {
            "architecture": "torchvision_segmentation",
            "kwargs": {"name": "lraspp_mobilenet_v3_large"},
            "train": {"epochs": 1},
        },
        "dataset": {"id": "dst_00000000"},
        "evaluations": [],
    }
    with pytest.raises(DataError, match="images with masks are not read from the disk") as caught:
        estimate_job(spec, None, describe(scenes), [], most_data_bytes=1000)
    assert caught.value.pointer == "/dataset"
