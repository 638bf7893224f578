"""The presets of ImageNet and VOC, shortened, on small folders in the layout of these datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.data.uploads import read_dataset
from pruning.pipeline import exports, latencies
from pruning.schemas.job import JobSpec
from pruning.schemas.presets import expand_preset
from tests.support.photo_world import CLASSES, encode, make_photo, run_job, write_zip
from tests.support.segmentation_world import pairs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SYNSETS = ("n01440764", "n01443537", "n01484850", "n01491361")


def make_imagenet(folder: Path) -> Path:
    """A zip of a folder as ImageNet comes: synsets under train and val, names ending in .JPEG."""
    rng = np.random.default_rng(0)
    files = {}
    for split, count in (("train", 40), ("val", 12)):
        for number in range(count):
            synset = SYNSETS[number % len(SYNSETS)]
            path = f"CLS-LOC/{split}/{synset}/{synset}_{number}.JPEG"
            files[path] = encode(make_photo(rng, number % len(CLASSES), low=150, high=300))
    return write_zip(files, folder / "imagenet.zip")


def run_preset(
    folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any
) -> tuple[Any, JobSpec]:
    """Run a preset's job on an uploaded file; return its report, and the completed job."""
    spec = expand_preset(
        {
            "type": "prune",
            "dataset": {"id": "dst_00000000"},
            "targets": {"sparsity": [0.3]},
            "evaluations": [],
        }
        | fields
    )
    # What files weigh and how fast networks are takes longer than all else; other tests hold it.
    monkeypatch.setattr(exports, "measure_file_sizes", lambda *args, **named: {})
    monkeypatch.setattr(latencies, "measure_latency", lambda *args, **named: [])
    arrays = read_dataset(path, path.name, 2**30)
    return run_job(folder, arrays, spec, monkeypatch), JobSpec.model_validate(spec)


def test_the_imagenet_preset_trains_by_random_resized_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, job = run_preset(
        tmp_path,
        make_imagenet(tmp_path),
        monkeypatch,
        preset="resnet18",
        epochs_scale=0.045,
        criterion={"name": "filter_norm"},
        model={"train": {"batch_size": 5, "optimizer": {"lr": 0.02}}},
        dataset={"id": "dst_00000000", "preprocessing": {"resize": 72, "crop": 64}},
    )
    assert job.model.train is not None
    assert (job.model.train.epochs, job.model.train.augment) == (4, "random_resized_crop")
    assert report.failures == ()
    assert report.model.preprocessing.crop == 64
    assert (report.data.fit + report.data.val, report.data.test) == (40, 12)
    assert [row.requested_sparsity for row in report.checkpoints] == [0.3]
    for row in report.checkpoints:
        assert row.sparsity == pytest.approx(row.requested_sparsity, abs=0.02)


def test_the_voc_preset_trains_by_scaled_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pairs("images/{split}", {"train": 4, "val": 1, "test": 1}, 4, side=40)
    report, job = run_preset(
        tmp_path,
        write_zip(files, tmp_path / "voc.zip"),
        monkeypatch,
        preset="deeplabv3_resnet50",
        epochs_scale=0.02,
        criterion={"name": "magnitude"},
        model={"train": {"batch_size": 4, "scaled_crop": {"sides": [24, 48], "crop": 33}}},
    )
    assert job.model.train is not None
    assert (job.model.train.epochs, job.model.train.augment) == (1, "scaled_crop")
    assert report.failures == ()
    assert [row.requested_sparsity for row in report.checkpoints] == [0.3]
    assert all(0 < row.error.value < 1 for row in report.checkpoints)
    assert not np.isnan([row.error.value for row in report.checkpoints]).any()
