"""The README's session with curl, executed as it stands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune

from pruning.architectures import architectures
from pruning.networks.loading import load_model
from pruning.storage.checkpoints import read_sparse
from tests.support.running import Running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def session(name: str = "session") -> str:
    """Return the block that follows the mark in the README."""
    block = re.search(
        rf"<!-- {name}:[^\n]*-->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert block is not None
    return block[1]


@pytest.mark.timeout(1300)
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_session_with_curl_on_resnet20(fresh: Callable[..., Running], tmp_path: Path) -> None:
    running = fresh(SECATEUR_CHECKPOINT_STEPS="200").start()
    environment = os.environ | {
        "URL": running.url,
        "DATA": str(DATA),
        "OUT": str(tmp_path),
        "TRAIN_IMAGES": "1000",
        "TEST_IMAGES": "2000",
        "SHIFTED_IMAGES": "20",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", session()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(" succeeded")

    results = json.loads((tmp_path / "results.json").read_text())
    report = results["report"]
    assert report["baseline"]["error"]["value"] == pytest.approx(0.19, abs=0.025)
    assert report["baseline"]["error"]["n"] == 2000
    assert report["control"]["error"]["value"] < report["baseline"]["error"]["value"]
    for checkpoint, sparsity in zip(report["checkpoints"], (0.5, 0.8, 0.9, 0.95), strict=True):
        assert checkpoint["sparsity"] == pytest.approx(sparsity, abs=2e-6)
        increase = checkpoint["error_increase"]
        counts = {"given_counts", "control_counts"}
        assert set(increase) == {"given", "control", "given_variance", "control_variance"} | counts
    errors = [checkpoint["pruned"]["error"]["value"] for checkpoint in report["checkpoints"]]
    assert errors == sorted(errors)

    sparse, dense = (
        tmp_path / "magnitude-0.95.sparse.safetensors",
        tmp_path / "magnitude-0.95.dense.safetensors",
    )
    assert sparse.stat().st_size <= 0.11 * (DATA / "resnet20-cifar10.safetensors").stat().st_size
    rebuilt, plain = read_sparse(sparse), load_file(dense)
    assert rebuilt.keys() == plain.keys()
    assert all((rebuilt[name] == plain[name]).all() for name in plain)
    architectures.create("cifar_resnet", {"depth": 20}).build().load_state_dict(plain)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert "magnitude-0.95" in text


@pytest.mark.timeout(600)
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
def test_a_file_that_another_tool_pruned_is_judged(service: Running, tmp_path: Path) -> None:
    weights = DATA / "resnet20-cifar10.safetensors"
    network = load_model("cifar_resnet", weights, depth=20)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    pairs = [(module, "weight") for module in layers]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.3)
    torch.save(network.state_dict(), tmp_path / "pruned.pth")
    constants = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    dense = service.client.models.upload(
        weights, "cifar_resnet", kwargs={"depth": 20}, normalize=constants
    )
    dataset = service.client.datasets.upload(DATA / "cifar10-jpeg.zip")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", session("judging")],
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SECATEUR_URL": service.url,
            "MODEL": dense.id,
            "DATASET": dataset.id,
            "OUT": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.endswith(" succeeded\n")
    assert "max_error_increase" in done.stderr
    job = next(iter(service.client.jobs.list(limit=1)))
    (checkpoint,) = service.client.jobs.results(job.id).parsed_report().checkpoints
    assert checkpoint.id == "torch-0.3"
    assert checkpoint.sparsity == pytest.approx(0.3, abs=1e-4)
