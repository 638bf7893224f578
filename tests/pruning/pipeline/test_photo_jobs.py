"""Jobs on photos of any size, from the file of an upload to a checkpoint that runs elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.data.arrays import Arrays
from pruning.data.tensors import prepare
from pruning.errors import DataError, ParameterError
from pruning.library import load_model
from pruning.measurement.measure import measure_network
from pruning.pipeline.estimate_job import estimate_job
from pruning.pipeline.exports import Origin
from pruning.pipeline.load_snippet import write_load_snippet
from pruning.schemas.preprocessing import IMAGENET, GivenPreprocessing
from pruning.schemas.recipe import Limit
from pruning.schemas.training import Corrupt, Optimizer, Training
from pruning.storage.checkpoints import write_dense
from pruning.storage.file_info import read_file_info
from pruning.training.loop import Controls, train_
from tests.support.photo_world import CLASSES, make_files, read_files, run_job

CROP = {"resize": 40, "crop": 36}
SPEC: dict[str, Any] = {
    "type": "prune",
    "model": {
        "architecture": "torchvision",
        "kwargs": {"name": "squeezenet1_1"},
        "train": {
            "epochs": 12,
            "batch_size": 8,
            "optimizer": {"name": "adamw", "lr": 0.0005},
            "augment": "none",
        },
    },
    "dataset": {"id": "dst_00000000", "preprocessing": CROP},
    "targets": {"sparsity": [0.5]},
    "retrain": {"batch_size": 8, "optimizer": {"lr": 0.001}},
    "evaluations": [],
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return make_files()


@pytest.fixture(scope="module")
def photos(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    return read_files(files, tmp_path_factory.mktemp("upload"))


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


def write_test_photos(files: Mapping[str, bytes], folder: Path) -> tuple[list[str], Tensor]:
    """Write the test photos into a folder; return their paths and classes."""
    paths, labels = [], []
    for name in sorted(name for name in files if name.startswith("test/")):
        photo = folder / name.replace("/", "-")
        photo.write_bytes(files[name])
        paths.append(str(photo))
        labels.append(CLASSES.index(name.split("/")[1]))
    return paths, torch.tensor(labels)


def test_the_snippet_reproduces_the_error_from_the_files_of_photos(
    files: dict[str, bytes], photos: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resizing = GivenPreprocessing.model_validate(CROP).resizing
    data = prepare(photos, limit=Limit(), seed=0, normalize=IMAGENET, resizing=resizing)
    kwargs: dict[str, Any] = {"name": "squeezenet1_1", "classes": 4}
    torch.manual_seed(1)
    network = load_model("torchvision", **kwargs)
    write_dense(tmp_path / "x.dense.safetensors", network.state_dict())
    origin = Origin(
        job_id="job_x",
        spec={},
        architecture="torchvision",
        kwargs=kwargs,
        model_sha256=None,
        dataset_name="photos",
        dataset_sha256="",
    )
    paths, labels = write_test_photos(files, tmp_path)
    assert torch.equal(labels, data.test.labels)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(write_load_snippet("x", origin, data, compacted=False), names)
    loaded = torch.stack([names["load_photo"](path) for path in paths])
    assert torch.equal(loaded, data.test.images)
    answers = [names["predict"](loaded[place : place + 1]) for place in range(3)]
    assert torch.equal(torch.cat(answers), network(data.normalize(loaded[:3])).argmax(1))
    wrong = measure_network(network, data).wrong
    assert names["photo_error"](paths, labels) == float(wrong.double().mean())


@pytest.mark.slow
def test_a_job_on_photos_gives_a_checkpoint_that_a_plain_script_measures_alike(
    files: dict[str, bytes], photos: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run_job(tmp_path, photos, SPEC, monkeypatch)
    known = report.model.preprocessing
    assert known is not None
    assert (known.resize, known.crop, known.interpolation) == (40, 36, "bilinear")
    assert (known.size_source, known.source) == ("given", "imagenet")
    assert report.data.shape == (3, 36, 36)
    (checkpoint,) = report.checkpoints
    path = tmp_path / "files" / f"{checkpoint.id}.dense.safetensors"
    info = read_file_info(path)
    assert info.preprocessing == known
    paths, labels = write_test_photos(files, tmp_path)
    monkeypatch.chdir(path.parent)
    names: dict[str, Any] = {}
    assert "pruning" not in checkpoint.load_snippet
    exec(checkpoint.load_snippet, names)
    measured = names["photo_error"](paths, labels)
    assert measured == pytest.approx(checkpoint.error.value, abs=1e-12)


def test_a_validated_job_shows_its_preprocessing(photos: Arrays) -> None:
    estimate = estimate_job(SPEC, None, describe(photos), [])
    planned = estimate["preprocessing"]
    assert (planned["resize"], planned["crop"], planned["shape"]) == (40, 36, [3, 36, 36])
    own = SPEC | {"dataset": {"id": "dst_00000000"}}
    planned = estimate_job(own, None, describe(photos), [])["preprocessing"]
    assert (planned["resize"], planned["crop"], planned["shape"]) == (256, 224, [3, 224, 224])
    assert (planned["source"], planned["size_source"]) == ("imagenet", "imagenet")
    json.dumps(planned)


def test_photos_are_never_resized_in_silence(photos: Arrays) -> None:
    model = {"architecture": "vgg", "kwargs": {}, "train": {"epochs": 1}}
    spec = SPEC | {"dataset": {"id": "dst_00000000"}, "model": model}
    with pytest.raises(DataError, match="says nothing of the size that it takes") as caught:
        estimate_job(spec, None, describe(photos), [])
    assert caught.value.pointer == "/dataset"
    spec["dataset"] = {"id": "dst_00000000", "preprocessing": {"crop": 32}}
    planned = estimate_job(spec, None, describe(photos), [])["preprocessing"]
    assert (planned["resize"], planned["shape"], planned["mean"]) == (32, [3, 32, 32], None)
    spec["dataset"]["preprocessing"] = {"mean": [0.5], "std": [0.5], "crop": 32}
    with pytest.raises(ParameterError, match="1 values, the images have 3 channels"):
        estimate_job(spec, None, describe(photos), [])


def test_photos_beyond_the_memory_of_a_job_are_read_from_the_disk(photos: Arrays) -> None:
    needed = estimate_job(SPEC, None, describe(photos), [])["data_bytes"]
    files = sum((photos.describe_sizes() or {})["bytes"].values())
    assert needed == files + (3 + 12) * 3 * 36 * 36
    fits = estimate_job(SPEC, None, describe(photos), [], most_data_bytes=needed)
    assert fits["data_bytes"] == needed
    larger = estimate_job(SPEC, None, describe(photos), [], most_data_bytes=needed - 1)
    assert larger["data_bytes"] == needed - files
    (notes,) = set(larger["warnings"]) - set(fits["warnings"])
    assert "its images to train on are read from the disk" in notes


class StoppedError(Exception):
    """The end of an interrupted training."""


class Keeper:
    """Keeps the last state, and stops the training at one of the saves."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.state: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.saves = 0
        self.stop_at = stop_at

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.state = ({name: value.clone() for name, value in tensors.items()}, dict(meta))
        self.saves += 1
        if self.saves == self.stop_at:
            raise StoppedError


@pytest.mark.parametrize("corrupt", [None, Corrupt(names=("brightness", "gaussian_noise"))])
def test_a_training_on_photos_goes_on_to_the_same_bytes(
    photos: Arrays, corrupt: Corrupt | None
) -> None:
    resizing = GivenPreprocessing.model_validate({"crop": 24}).resizing
    data = prepare(photos, limit=Limit(train=14), seed=0, normalize=None, resizing=resizing)
    training = Training(epochs=2, batch_size=4, optimizer=Optimizer(lr=0.05), corrupt=corrupt)

    def train(keeper: Keeper) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = load_model("mlp", hidden=[4], channels=3, height=24, width=24, classes=4)
        controls = Controls(saver=keeper, every_steps=1)
        train_(model, data, training, seed=5, name="t", controls=controls)
        return {name: value.clone() for name, value in model.state_dict().items()}

    undisturbed = train(Keeper())
    keeper = Keeper(stop_at=4)
    with pytest.raises(StoppedError):
        train(keeper)
    resumed = train(keeper)
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
