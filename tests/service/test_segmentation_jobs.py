"""Semantic segmentation over HTTP on a real worker, from a dataset like VOC to the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.data import uploads
from pruning.data.tensors import prepare
from pruning.library import load_model, read_sparse
from pruning.measurement.measure import measure_network
from pruning.schemas.outputs import FileFormat
from pruning.schemas.recipe import Limit
from secateur import ApiError
from tests.support.running import Running
from tests.support.segmentation_world import MOST, pairs, upload

pytestmark = pytest.mark.slow

CLASSES = 4
COUNTS = {"train": 6, "val": 1, "test": 2}


def spec(dataset: str, name: str, epochs: int, **changes: Any) -> dict[str, Any]:
    training = {
        "epochs": epochs,
        "batch_size": 4,
        "optimizer": {"lr": 0.02},
        "lr_schedule": {"name": "poly"},
    }
    return {
        "type": "prune",
        "dataset": {"id": dataset},
        "targets": {"sparsity": [0.5]},
        "model": {
            "architecture": "torchvision_segmentation",
            "kwargs": {"name": name} | changes.pop("kwargs", {}),
            "train": training,
        },
        "retrain": {"mode": "lr_rewind"},
        "evaluations": [
            {"name": "accuracy"},
            {"name": "robustness", "params": {"corruptions": ["contrast"]}},
        ],
    } | changes


def send(
    service: Running, folder: Path, layout: str, counts: dict[str, int], side: int
) -> tuple[str, Path]:
    path = upload(pairs(layout, counts, CLASSES, side), folder)
    dataset = service.client.datasets.upload(path, name="scenes")
    assert dataset.model_extra is not None
    assert (dataset.task, len(dataset.model_extra["classes"])) == ("segmentation", CLASSES)
    assert any("padded" in note for note in dataset.notes)
    return dataset.id, path


def test_a_segmentation_job_from_upload_to_checkpoint(service: Running, tmp_path: Path) -> None:
    """The reported error, 1 - IoU, is that of the downloaded checkpoint in a fresh network."""
    name = "lraspp_mobilenet_v3_large"
    id, path = send(service, tmp_path, "images/{split}", COUNTS, 48)
    job = service.client.jobs.submit(spec(id, name, 3))
    service.client.jobs.wait(job.id, timeout_s=800, interval_s=0.2)
    results = service.client.jobs.results(job.id)
    report, (checkpoint,) = results.parsed_report(), results.checkpoints
    assert report.failures == ()
    assert (report.data.fit, report.data.val, report.data.test) == tuple(COUNTS.values())
    reported = report.checkpoints[0]
    assert reported.sparsity == pytest.approx(0.5, abs=1e-4)
    assert 0 < reported.error.value < 1
    assert reported.error.n == COUNTS["test"]
    assert any("padded to" in warning for warning in report.warnings)
    section = report.sections["accuracy"]
    assert section.curves["mean_iou/magnitude"].y[0].value < 1
    assert any("1 - its mean IoU" in note for note in section.notes)
    preprocessing = report.model.preprocessing
    assert preprocessing is not None
    assert preprocessing.source == "imagenet"
    data = prepare(
        uploads.read_dataset(path, path.name, MOST),
        limit=Limit(),
        seed=0,
        normalize={"mean": preprocessing.mean, "std": preprocessing.std},
    )
    readers: dict[FileFormat, Callable[[Path], dict[str, Tensor]]] = {
        "dense": load_file,
        "sparse": read_sparse,
    }
    for format, read in readers.items():
        file = service.client.jobs.download(job.id, checkpoint.id, tmp_path / format, format=format)
        model = load_model("torchvision_segmentation", read(file), name=name, classes=CLASSES)
        measured = measure_network(model, data).document()
        assert measured.error.value == pytest.approx(reported.error.value, abs=1e-6)
        assert measured.val_error.value == pytest.approx(reported.val_error.value, abs=1e-6)
    page = service.client.jobs.report(job.id, format="html")
    assert "mean IoU" in (page if isinstance(page, str) else page.decode())


def test_a_backbone_comes_from_an_uploaded_classifier(service: Running, tmp_path: Path) -> None:
    """At a learning rate near zero the trained network still has the classifier's backbone."""
    classifier = load_model("torchvision", name="mobilenet_v3_large", classes=5)
    save_file(classifier.state_dict(), tmp_path / "classifier.safetensors")
    normalize = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    backbone = service.client.models.upload(
        tmp_path / "classifier.safetensors",
        "torchvision",
        kwargs={"name": "mobilenet_v3_large", "classes": 5},
        normalize=normalize,
    )
    id, _ = send(service, tmp_path, "images/{split}", {"train": 4, "val": 1, "test": 1}, 32)
    job = spec(id, "lraspp_mobilenet_v3_large", 1, evaluations=[], targets={"sparsity": [0.1]})
    job["model"]["train"]["optimizer"] = {"lr": 1e-12, "weight_decay": 0}
    job["model"]["backbone"] = backbone.id
    submitted = service.client.jobs.submit(job)
    service.client.jobs.wait(submitted.id, timeout_s=300, interval_s=0.2)
    report = service.client.jobs.results(submitted.id).parsed_report()
    assert not any("the backbone starts from random weights" in text for text in report.warnings)
    preprocessing = report.model.preprocessing
    assert preprocessing is not None
    assert (preprocessing.source, preprocessing.std) == ("given", (0.25, 0.25, 0.25))
    checkpoint = report.checkpoints[0].id
    file = service.client.jobs.download(submitted.id, checkpoint, tmp_path / "c", format="dense")
    pruned = load_file(file)["backbone.4.block.0.0.weight"]
    given = classifier.state_dict()["features.4.block.0.0.weight"]
    kept = pruned != 0
    assert kept.float().mean() > 0.5
    torch.testing.assert_close(pruned[kept], given[kept])


def test_without_splits_the_report_says_what_was_set_aside(
    service: Running, tmp_path: Path
) -> None:
    id, _ = send(service, tmp_path, "images", {"": 10}, 32)
    view = service.client.datasets.get(id)
    assert view.model_extra is not None
    assert view.model_extra["counts"] == {"train": 8, "val": 0, "test": 2}
    assert any("2 of 10 images" in note for note in view.notes)


@pytest.fixture(scope="module")
def scenes(service: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the id of a small dataset for segmentation."""
    folder = tmp_path_factory.mktemp("scenes")
    return send(service, folder, "{split}/images", {"train": 4, "test": 1}, 32)[0]


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (
            {"model": {"architecture": "torchvision", "kwargs": {"name": "resnet18"}, "train": {}}},
            "/dataset",
            "the network is made for classification",
        ),
        (
            {"evaluations": [{"name": "accuracy"}, {"name": "bounds"}]},
            "/evaluations/1",
            "names? one class for each image",
        ),
        ({"kwargs": {"aux": True}}, "/model/kwargs/aux", "no auxiliary head"),
    ],
)
def test_what_does_not_fit_is_told_at_once(
    service: Running, scenes: str, change: dict[str, Any], place: str, message: str
) -> None:
    with pytest.raises(ApiError, match=message) as refused:
        service.client.jobs.submit(spec(scenes, "lraspp_mobilenet_v3_large", 1, **change))
    assert refused.value.status == 422
    assert [fault.pointer for fault in refused.value.errors] == [place]
