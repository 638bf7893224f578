"""Networks that were pruned elsewhere, judged over HTTP on a real worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from pruning.data.builtin import datasets
from pruning.data.tensors import prepare
from pruning.networks.loading import load_model
from pruning.schemas.recipe import Limit
from pruning.schemas.training import Optimizer, Training
from pruning.training.loop import train_
from tests.support.running import Running
from tests.support.service_jobs import SMALL, run_job

pytestmark = pytest.mark.slow
MLP: dict[str, Any] = {"hidden": [32], "channels": 1, "height": 8, "width": 8, "classes": 10}


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    """A network that tells most digits."""
    data = prepare(
        datasets.create("digits").load(), limit=Limit(train=600, test=200), seed=0, normalize=None
    )
    model = load_model("mlp", **MLP)
    schedule = Training(epochs=6, batch_size=16, optimizer=Optimizer(lr=0.05))
    train_(model, data, schedule, seed=0, name="given")
    return model.eval()


@pytest.fixture(scope="module")
def dense_id(service: Running, dense: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    save_file(dense.state_dict(), path)
    return service.client.models.upload(path, "mlp", kwargs=MLP).id


def test_a_file_of_torch_prune_is_judged(
    service: Running, dense: nn.Module, dense_id: str, tmp_path: Path
) -> None:
    model = load_model("mlp", dense.state_dict(), **MLP)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    prune.global_unstructured(
        [(module, "weight") for module in layers], prune.L1Unstructured, amount=0.5
    )
    torch.save(model.state_dict(), tmp_path / "pruned.pth")
    pruned = service.client.models.upload(tmp_path / "pruned.pth", "mlp", kwargs=MLP)
    spec: dict[str, Any] = {
        "type": "evaluate",
        "model": {"id": dense_id},
        "pruned": [{"id": pruned.id, "name": "torch-0.5"}],
        "dataset": SMALL,
        "evaluations": [{"name": "accuracy"}],
        "gates": {"max_error_increase": 0.2},
    }
    estimate = service.client.jobs.validate(spec)["estimate"]
    assert estimate["rounds"] == 1
    assert estimate["steps"] == 0
    report = run_job(service, spec)
    (checkpoint,) = report.checkpoints
    assert checkpoint.id == "torch-0.5"
    assert checkpoint.sparsity == pytest.approx(0.5, abs=1e-3)
    assert report.control.error == report.baseline.error
    assert [gate.outcome for gate in report.gates] == ["passed"]
    assert report.recommendation.checkpoint == "torch-0.5"
    assert report.failures == ()


@pytest.mark.parametrize("format", ["dense", "sparse"])
def test_our_own_checkpoint_sent_in_again_gives_the_same_numbers(
    service: Running, dense_id: str, tmp_path: Path, format: Literal["dense", "sparse"]
) -> None:
    spec = {
        "type": "prune",
        "model": {"id": dense_id},
        "dataset": SMALL,
        "targets": {"sparsity": [0.5, 0.8]},
        "retrain": {"mode": "fine_tune", "epochs": 1, "batch_size": 32},
        "evaluations": [{"name": "accuracy"}],
    }
    job = service.client.jobs.submit(spec, idempotency_key="evaluated-checkpoints")
    service.client.jobs.wait(job.id, timeout_s=150, interval_s=0.2)
    own_checkpoints = service.client.jobs.results(job.id).parsed_report().checkpoints
    pruned = []
    for checkpoint in own_checkpoints:
        path = service.client.jobs.download(
            job.id, checkpoint.id, tmp_path / checkpoint.id, format=format
        )
        model = service.client.models.upload(path)
        pruned.append({"id": model.id, "name": checkpoint.id})
    judged = run_job(
        service,
        {
            "type": "evaluate",
            "model": {"id": dense_id},
            "pruned": pruned,
            "dataset": SMALL,
            "evaluations": [{"name": "accuracy"}],
        },
    ).checkpoints
    for own, again in zip(own_checkpoints, judged, strict=True):
        assert (again.error, again.loss, again.val_error) == (own.error, own.loss, own.val_error)
        assert (again.sparsity, again.flops) == (own.sparsity, own.flops)
        assert again.error_increase.given == own.error_increase.given
