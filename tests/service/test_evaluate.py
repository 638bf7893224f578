"""Networks that were pruned elsewhere, judged over HTTP on a real worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from pruning.data.builtin import datasets
from pruning.data.tensors import prepare
from pruning.networks.loading import load_model
from pruning.schemas.outputs import FileFormat
from pruning.schemas.recipe import Limit
from pruning.schemas.training import Optimizer, Training
from pruning.storage.checkpoints import read_masks
from pruning.training.loop import train_
from secateur import ApiError
from tests.support.running import Running
from tests.support.service_jobs import SMALL, run_job

pytestmark = pytest.mark.slow
FORMATS: tuple[FileFormat, ...] = ("dense", "arch")
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


def prune_with_torch(dense: nn.Module, amount: float) -> nn.Module:
    """The network, pruned by torch.nn.utils.prune, whose masks are still at work."""
    model = load_model("mlp", dense.state_dict(), **MLP)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    prune.global_unstructured(
        [(module, "weight") for module in layers], prune.L1Unstructured, amount=amount
    )
    return model


def test_a_file_of_torch_prune_is_judged(
    service: Running, dense: nn.Module, dense_id: str, tmp_path: Path
) -> None:
    model = prune_with_torch(dense, 0.5)
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
    page = service.client.jobs.report(report.job_id, format="md").decode()
    assert "ship torch-0.5 (50 % sparse)" in page


def test_retraining_goes_on_from_a_pruned_file_with_its_masks(
    service: Running, dense: nn.Module, tmp_path: Path
) -> None:
    model = prune_with_torch(dense, 0.5)
    torch.save(model.state_dict(), tmp_path / "pruned.pth")
    pruned = service.client.models.upload(tmp_path / "pruned.pth", "mlp", kwargs=MLP)
    report = run_job(
        service,
        {
            "type": "prune",
            "model": {"id": pruned.id},
            "dataset": SMALL,
            "targets": {"sparsity": [0.5]},
            "retrain": {"mode": "fine_tune", "epochs": 1, "batch_size": 32},
            "evaluations": [{"name": "accuracy"}],
        },
    )
    path = service.client.jobs.download(
        report.job_id, "magnitude-0.5", tmp_path / "masks", format="masks"
    )
    masks = read_masks(path)
    assert masks
    for name, mask in model.named_buffers():
        assert torch.equal(masks[name.removesuffix("_mask")], mask.bool())


def test_a_network_that_lost_channels_is_sent_in_again_with_its_arch_json(
    service: Running, dense_id: str, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {
        "type": "prune",
        "model": {"id": dense_id},
        "dataset": SMALL,
        "criterion": {"name": "filter_norm"},
        "targets": {"sparsity": [0.4]},
        "retrain": {"mode": "none"},
        "evaluations": [{"name": "accuracy"}],
    }
    (own,) = run_job(service, spec).checkpoints
    job = next(iter(service.client.jobs.list(limit=1)))
    files = {
        format: service.client.jobs.download(job.id, own.id, tmp_path / format, format=format)
        for format in FORMATS
    }
    cut = service.client.models.upload(files["dense"], arch=files["arch"])
    shapes = {layer.name: layer.shape for layer in service.client.models.layers(cut.id).layers}
    state = load_file(files["dense"])
    assert shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}
    again = run_job(
        service,
        {
            "type": "evaluate",
            "model": {"id": dense_id},
            "pruned": [{"id": cut.id, "name": "cut"}],
            "dataset": SMALL,
            "evaluations": [{"name": "accuracy"}],
        },
    ).checkpoints[0]
    assert (again.error, again.loss, again.val_error) == (own.error, own.loss, own.val_error)
    assert (again.parameters, again.flops) == (own.parameters, own.flops)
    with pytest.raises(ApiError) as caught:
        service.client.jobs.submit(spec | {"model": {"id": cut.id}})
    assert caught.value.code == "cut_model"


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
