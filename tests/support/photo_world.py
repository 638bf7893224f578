"""Small photos that differ in size, as zips and as files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pruning.data.arrays import Arrays
from pruning.data.uploads import read_dataset
from pruning.pipeline import run_job as job_runner
from pruning.schemas.report import Report
from tests.support.replicate_runs import Silent

CLASSES = ("bird", "cat", "dog", "fish")
TINTS = ((70, -40, -40), (-40, 70, -40), (-40, -40, 70), (50, 50, -60))
"""The colour that is added to the photos of each class."""


def make_photo(rng: np.random.Generator, label: int, low: int = 60, high: int = 150) -> Image.Image:
    """A photo of any size, smooth with noise, whose colour tells its class."""
    width, height = (int(side) for side in rng.integers(low, high + 1, 2))
    coarse = rng.integers(60, 190, (4, 5, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    pixels = pixels.astype(np.int64) + rng.integers(-12, 13, pixels.shape)
    pixels += np.array(TINTS[label])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """The bytes of the file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def make_files(count: int = 40, seed: int = 0, test: int = 12) -> dict[str, bytes]:
    """Photos in folders of classes, the last ones for testing; one of them is a PNG in grey."""
    rng = np.random.default_rng(seed)
    files = {}
    for number in range(count):
        label = number % len(CLASSES)
        split = "test" if number >= count - test else "train"
        image = make_photo(rng, label)
        if number == 5:
            files[f"{split}/{CLASSES[label]}/{number:03}.png"] = encode(image.convert("L"), "PNG")
        else:
            files[f"{split}/{CLASSES[label]}/{number:03}.jpg"] = encode(image)
    return files


def write_zip(files: Mapping[str, bytes], path: Path) -> Path:
    """A zip of the files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def read_files(files: Mapping[str, bytes], folder: Path, most: int = 2**30) -> Arrays:
    """The dataset of a zip of the files."""
    return read_dataset(write_zip(files, folder / "photos.zip"), "photos.zip", most)


def run_job(
    folder: Path, arrays: Arrays, spec: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Report:
    """Run a job to its report as JSON: other formats take longer than the job. It goes on from the
    stages that are in the folder.
    """
    (folder / "stages").mkdir(exist_ok=True)
    arrays.save(folder / "data.safetensors")

    def write_json(report: Report, where: Path, written: Any) -> None:
        (where / "report.json").write_text(report.model_dump_json())

    monkeypatch.setattr(job_runner, "write_report", write_json)
    job_runner.run_job(
        folder,
        {
            "id": "job_00000000",
            "spec": spec,
            "checkpoint_steps": 10_000,
            "cache": {"folder": str(folder), "bytes": 0},
            "threads": 1,
            "model": {
                "architecture": spec["model"]["architecture"],
                "kwargs": spec["model"]["kwargs"],
                "normalize": None,
                "classes": None,
                "sha256": None,
            },
            "dataset": {"name": "photos", "sha256": "", "normalize": None},
        },
        Silent(),
    )
    return Report.model_validate_json((folder / "files" / "report.json").read_text())
