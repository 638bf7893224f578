"""The commands of docs/how-to.md, as they stand, on a small network and the digits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PAGE = Path(__file__).parents[2] / "docs" / "how-to.md"
KWARGS: dict[str, Any] = {"depth": 8, "width": 0.5, "channels": 1, "classes": 10}


@pytest.fixture(scope="module")
def environment(service: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables that the page speaks of; the working folder has `pruned.pth`."""
    folder = tmp_path_factory.mktemp("user")
    data = prepare(datasets.create("digits").load(), limit=Limit(), seed=0, normalize=None)
    torch.manual_seed(0)
    network = load_model("cifar_resnet", **KWARGS)
    schedule = Training(epochs=6, batch_size=32, optimizer=Optimizer(lr=0.1))
    train_(network, data, schedule, seed=0, name="how-to")
    path = folder / "net.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(
        [(module, "weight") for module in layers], prune.L1Unstructured, amount=0.3
    )
    torch.save(network.state_dict(), folder / "pruned.pth")
    model = service.client.models.upload(
        path, "cifar_resnet", kwargs=KWARGS, normalize={"mean": data.mean, "std": data.std}
    )
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SECATEUR_URL": service.url,
        "MODEL": model.id,
        "DATASET": "builtin:digits",
        "PWD": str(folder),
    }


def read_block(heading: str, place: int = 0) -> str:
    """A block of commands below a heading."""
    text = PAGE.read_text(encoding="utf-8")
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[place]


def run_block(code: str, environment: dict[str, str]) -> tuple[str, str]:
    """What a block prints as results, and to the person who runs it."""
    done = subprocess.run(
        ["bash", "-uo", "pipefail", "-c", code],
        cwd=environment["PWD"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_half_the_flops(environment: dict[str, str], service: Running) -> None:
    out, _ = run_block(read_block("Half the FLOPs"), environment)
    assert "would be accepted: 1 round," in out
    assert "training" in out
    job = next(iter(service.client.jobs.list(limit=1)))
    report = service.client.jobs.results(job.id).parsed_report()
    (checkpoint,) = report.checkpoints
    assert 0.4 < checkpoint.flops / report.baseline.flops <= 0.5
    out, errors = run_block(read_block("Half the FLOPs", 1), environment)
    assert out == "refused\n"
    assert "/targets/flops/0" in errors


def test_at_most_so_much_worse(environment: dict[str, str], service: Running) -> None:
    code = read_block("At most one point worse").replace("0.01", "0.05")
    run_block(code, environment)
    job = next(iter(service.client.jobs.list(limit=1)))
    report = service.client.jobs.results(job.id).parsed_report()
    (checkpoint,) = report.checkpoints
    assert checkpoint.val_error_increase.value <= 0.05
    assert 1 <= len(report.rounds) <= 6


def test_some_layers_are_left(environment: dict[str, str], service: Running) -> None:
    run_block(read_block("These layers not, and those only by half"), environment)
    job = next(iter(service.client.jobs.list(limit=1)))
    (checkpoint,) = service.client.jobs.results(job.id).parsed_report().checkpoints
    layers = {layer.name: layer for layer in checkpoint.layers}
    assert layers["conv1.weight"].kept == layers["conv1.weight"].total
    halves = [layer for name, layer in layers.items() if name.startswith("layer1.")]
    pruned = [layer for layer in halves if layer.kept < layer.total]
    assert pruned
    assert all(layer.kept == pytest.approx(layer.total / 2, abs=1) for layer in pruned)


def test_a_file_is_judged_and_jobs_are_compared(
    environment: dict[str, str], service: Running
) -> None:
    _, errors = run_block(
        read_block("The file that another tool pruned: is it any good?"), environment
    )
    assert "max_error_increase" in errors
    job = next(iter(service.client.jobs.list(limit=1)))
    (checkpoint,) = service.client.jobs.results(job.id).parsed_report().checkpoints
    assert checkpoint.sparsity == pytest.approx(0.3, abs=1e-3)
    out, _ = run_block(read_block("Which of two jobs is better?"), environment)
    assert "differences of errors on 397 test images" in out
    assert "fewest FLOPs for their validation error" in out
