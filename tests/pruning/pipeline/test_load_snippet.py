"""The load snippet of a checkpoint, executed: it gives the reported error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.data.arrays import Arrays
from pruning.data.tensors import Data, prepare
from pruning.measurement.measure import measure_network
from pruning.networks.loading import load_model, read_parameters, resolve
from pruning.pipeline.exports import Origin
from pruning.pipeline.load_snippet import write_load_snippet
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Results
from pruning.schemas.recipe import Limit, Recipe
from pruning.schemas.report import Checkpoint
from pruning.storage.checkpoints import write_dense
from pruning.storage.file_info import read_file_info
from pruning.storage.stages import Stages
from tests.support.pipelines import CPU, Listener


def images_of_two_classes(size: int, seed: int = 0) -> Data:
    """Colour images whose upper or lower half is bright, with constants of their own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    images = rng.integers(0, 120, (40, 3, size, size), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, label * size // 2 : (label + 1) * size // 2] += 100
    images[:4] = rng.integers(0, 255, images[:4].shape, dtype=np.uint8)  # some are wrong
    arrays = Arrays(
        {"train": images, "test": images}, {"train": labels, "test": labels}, ("a", "b")
    )
    normalize = {"mean": [0.2, 0.3, 0.4], "std": [0.21, 0.22, 0.23]}
    return prepare(arrays, limit=Limit(), seed=0, normalize=normalize)


def describe_origin(architecture: str, kwargs: dict[str, Any]) -> Origin:
    return Origin(
        job_id="job_x",
        spec={},
        architecture=architecture,
        kwargs=kwargs,
        model_sha256=None,
        dataset_name="d",
        dataset_sha256="",
    )


def finish(
    folder: Path, data: Data, architecture: str, kwargs: dict[str, Any], **fields: Any
) -> Checkpoint:
    """Train, prune and export one network, and return its checkpoint as the report has it."""
    network = resolve(architecture, kwargs, shape=data.shape, classes=2)
    recipe = Recipe.model_validate(
        {
            "targets": {"sparsity": [0.5]},
            "train": {"epochs": 4, "batch_size": 8, "optimizer": {"lr": 0.02}, "augment": "none"},
            "retrain": {"mode": "none"},
            "evaluations": [],
        }
        | fields
    )
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(network.build),
        data=data,
        stages=Stages(folder / "stages", recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    pipeline.run()
    origin = describe_origin(architecture, read_parameters(network))
    results = Results(pipeline, origin, folder)
    results.export(pipeline.done[0])
    report = results.report()
    assert report.model.preprocessing == data.preprocessing
    (checkpoint,) = report.checkpoints
    return checkpoint


@pytest.mark.parametrize(
    ("architecture", "kwargs", "fields"),
    [
        ("mlp", {"hidden": [8]}, {}),
        ("mlp", {"hidden": [8]}, {"criterion": {"name": "filter_norm"}}),
    ],
    ids=["own", "compact"],
)
def test_the_snippet_gives_the_reported_error(
    architecture: str,
    kwargs: dict[str, Any],
    fields: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = images_of_two_classes(6)
    checkpoint = finish(tmp_path, data, architecture, kwargs, **fields)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(checkpoint.load_snippet, names)
    measured = names["error"](data.test.images, data.test.labels)
    assert measured == pytest.approx(checkpoint.error.value, abs=1e-12)
    normalised = names["mean"].flatten().tolist()
    assert normalised == pytest.approx([0.2, 0.3, 0.4])


def test_the_snippet_loads_networks_of_torchvision_with_torchvision_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = images_of_two_classes(32)
    kwargs: dict[str, Any] = {"name": "mnasnet0_5", "classes": 2}
    torch.manual_seed(0)
    network = load_model("torchvision", **kwargs)
    write_dense(tmp_path / "x.dense.safetensors", network.state_dict())
    origin = describe_origin("torchvision", kwargs)
    snippet = write_load_snippet("x", origin, data, compacted=False)
    assert "pruning" not in snippet
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)
    wrong = measure_network(network, data).wrong
    measured = names["error"](data.test.images, data.test.labels)
    assert measured == pytest.approx(float(wrong.double().mean()), abs=1e-12)


def test_a_file_says_what_it_is_and_is_read_back_sparse_too(tmp_path: Path) -> None:
    data = images_of_two_classes(6)
    checkpoint = finish(tmp_path, data, "mlp", {"hidden": [8]})
    networks = []
    for format in ("dense", "sparse"):
        path = tmp_path / f"{checkpoint.id}.{format}.safetensors"
        info = read_file_info(path)
        assert (info.format, info.architecture, info.classes) == (format, "mlp", ["a", "b"])
        assert info.arguments is not None
        assert info.normalize is not None
        assert info.normalize.mean == pytest.approx((0.2, 0.3, 0.4))
        networks.append(load_model("mlp", path, **info.arguments))
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04."])
def test_other_files_say_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert read_file_info(path).architecture is None
