"""Jobs that judge networks which were pruned elsewhere, run in this process on images in three
colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils import prune

from pruning.networks.loading import load_model
from pruning.pipeline import run_job as job_runner
from pruning.schemas.report import Report
from tasks.processes.helper import check_model
from tests.support.known_networks import Uploaded, make_images, upload
from tests.support.replicate_runs import Silent

SMALL: dict[str, Any] = {"depth": 8, "width": 0.5, "shortcut": "B", "classes": 3}
NAMES = ("architecture", "kwargs", "normalize", "preprocessing", "classes", "zeros")


def upload_dense(folder: Path) -> Uploaded:
    """A small ResNet that tells the colours apart, checked as an upload is."""
    folder.mkdir(parents=True)
    uploaded = upload(folder, "cifar_resnet", SMALL)
    return replace(uploaded, arrays=make_images("classification", 16, train=90, test=60))


def prune_with_torch(dense: Uploaded, amount: float) -> nn.Module:
    """The dense network, pruned by torch.nn.utils.prune, whose masks are still at work."""
    model = load_model("cifar_resnet", dense.state, **dense.network["kwargs"])
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(
        [(module, "weight") for module in layers], prune.L1Unstructured, amount=amount
    )
    return model


def check_file(path: Path, **payload: Any) -> dict[str, Any]:
    """What the store would keep of an uploaded file, with the `path` of its weights."""
    output = path.with_name(f"{path.name}.checked")
    network = check_model(
        {"path": str(path), "architecture": None, "kwargs": {}, "output": str(output), **payload}
    )
    return network | {"path": output if network["rewritten"] else path}


def judge(
    folder: Path,
    dense: Uploaded,
    pruned: Mapping[str, dict[str, Any]],
    watcher: Any = None,
    **spec: Any,
) -> Report:
    """Run a job that judges networks by name, and return its report."""
    (folder / "stages").mkdir(parents=True, exist_ok=True)
    if not (folder / "model.safetensors").exists():
        (folder / "model.safetensors").hardlink_to(dense.state)
        dense.arrays.save(folder / "data.safetensors")
        for number, network in enumerate(pruned.values()):
            (folder / f"pruned-{number}.safetensors").hardlink_to(network["path"])
    references = [
        {"id": f"mdl_0000000{number}", "name": name} for number, name in enumerate(pruned, 1)
    ]
    job_runner.run_job(
        folder,
        {
            "id": "job_00000000",
            "spec": {
                "type": "evaluate",
                "model": {"id": "mdl_00000000"},
                "dataset": {"id": "dst_00000000"},
                "pruned": references,
                **spec,
            },
            "checkpoint_steps": 10_000,
            "cache": {"folder": str(folder), "bytes": 0},
            "threads": 1,
            "model": {name: dense.network[name] for name in NAMES}
            | {"source": "given", "sha256": None},
            "pruned": [
                {name: network.get(name) for name in ("architecture", "kwargs", "modules")}
                for network in pruned.values()
            ],
            "dataset": {"name": "colours", "sha256": "", "normalize": None},
        },
        watcher or Silent(),
    )
    return Report.model_validate_json((folder / "files" / "report.json").read_text())
