"""Jobs over HTTP on what a client uploaded: networks, datasets, shifted sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.data.builtin import datasets
from pruning.data.tensors import prepare
from pruning.library import load_model, read_compressed, read_sparse
from pruning.measurement.measure import measure_network
from pruning.schemas.outputs import FileFormat
from pruning.schemas.recipe import Limit
from secateur import ApiError, JobFailed
from tests.support.running import Running
from tests.support.service_jobs import BASE, SMALL, run_job

pytestmark = pytest.mark.slow


def test_uploaded_model_and_dataset_come_back_exactly(service: Running, tmp_path: Path) -> None:
    digits = datasets.create("digits").load()
    np.savez(
        tmp_path / "digits.npz",
        train_x=digits.images["train"],
        train_y=digits.labels["train"],
        test_x=digits.images["test"],
        test_y=digits.labels["test"],
    )
    torch.manual_seed(0)
    net = load_model("lenet_300_100", height=8, width=8)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    dataset = service.client.datasets.upload(
        tmp_path / "digits.npz", normalize={"mean": [0.3], "std": [0.4]}
    )
    model = service.client.models.upload(
        tmp_path / "net.safetensors", "lenet_300_100", kwargs={"height": 8, "width": 8}
    )
    job = service.client.jobs.submit(
        {
            "type": "prune",
            "model": {"id": model.id, "train": {"epochs": 5}},
            "dataset": {"id": dataset.id, "limit": SMALL["limit"]},
            "targets": {"sparsity": [0.9]},
            "retrain": {"epochs": 2},
            "evaluations": [{"name": "accuracy"}],
            "export": ["compressed"],
            "device": "cpu",
        }
    )
    service.client.jobs.wait(job.id, timeout_s=150, interval_s=0.2)
    report = service.client.jobs.results(job.id).parsed_report()
    limit = Limit.model_validate(SMALL["limit"])
    data = prepare(digits, limit=limit, seed=0, normalize={"mean": [0.3], "std": [0.4]})
    readers: dict[FileFormat, Callable[[Path], dict[str, Tensor]]] = {
        "sparse": read_sparse,
        "dense": load_file,
        "compressed": read_compressed,
    }
    for format, read in readers.items():
        path = service.client.jobs.download(
            job.id, "magnitude-0.9", tmp_path / format, format=format
        )
        again = measure_network(
            load_model("lenet_300_100", read(path), height=8, width=8), data
        ).document()
        assert again.error == report.checkpoints[0].error
        uploaded = service.client.models.upload(path)
        assert uploaded.architecture == "lenet_300_100"
        assert uploaded.document()["sparsity"] == report.checkpoints[0].sparsity
    html = service.client.jobs.report(job.id, format="html").decode()
    assert "magnitude-0.9" in html


def test_shifted_sets_count_as_distributions(service: Running, tmp_path: Path) -> None:
    digits = datasets.create("digits").load()
    inputs, labels = digits.images["test"], digits.labels["test"]
    np.savez(tmp_path / "night.npz", test_x=inputs // 3, test_y=labels)
    np.savez(tmp_path / "zeros.npz", test_x=255 - inputs[labels == 0], test_y=labels[labels == 0])
    night, zeros = (
        service.client.datasets.upload(tmp_path / f"{name}.npz").id for name in ("night", "zeros")
    )
    report = run_job(
        service,
        BASE
        | {
            "dataset": {
                **SMALL,
                "shifted": [
                    {"name": "night", "id": night},
                    {"name": "inverted-zeros", "id": zeros},
                ],
            },
            "evaluations": [
                {"name": name, "params": {"corruptions": ["fog"]}}
                for name in ("robustness", "prune_potential")
            ],
            "shifts": {"knowledge": "partly_modelled"},
        },
    )
    assert report.failures == ()
    rows = {
        (row["network"], row["shift"]): row["error"]
        for row in report.sections["robustness"].details["errors_by_shift"]
    }
    assert rows["control", "night"]["n"] == len(labels) - len(labels) // 2
    assert rows["control", "inverted-zeros"]["n"] == -(-int((labels == 0).sum()) // 2)
    assert rows["control", "inverted-zeros"]["value"] > rows["control", "nominal"]["value"]
    potentials = report.sections["prune_potential"].details["potential_by_distribution"]
    assert {
        row["group"] for row in potentials if row["distribution"] in ("night", "inverted-zeros")
    } == {"shifted set"}
    assert "inverted-zeros" in service.client.jobs.report(report.job_id, format="html").decode()


def test_a_shifted_set_that_does_not_fit_is_told_at_once(service: Running, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", test_x=np.zeros((4, 8, 9), np.uint8), test_y=np.arange(4))
    wide = service.client.datasets.upload(tmp_path / "wide.npz").id
    with pytest.raises(ApiError, match="9x8 pixels") as caught:
        service.client.jobs.submit(
            BASE | {"dataset": {**SMALL, "shifted": [{"name": "wide", "id": wide}]}}
        )
    assert [fault.pointer for fault in caught.value.errors] == ["/dataset/shifted/0/id"]


def test_a_network_at_chance_stops_the_job(service: Running, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(load_model("mlp", height=8, width=8).state_dict(), tmp_path / "net.safetensors")
    model = service.client.models.upload(
        tmp_path / "net.safetensors", "mlp", kwargs={"height": 8, "width": 8}
    )
    job = service.client.jobs.submit(BASE | {"model": {"id": model.id}})
    with pytest.raises(JobFailed, match="chance"):
        service.client.jobs.wait(job.id, timeout_s=60, interval_s=0.2)
    error = service.client.jobs.get(job.id).error
    assert error is not None
    assert error.code == "baseline_mismatch"
