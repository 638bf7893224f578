"""Networks as people have them, and what becomes of one from its upload to its reloaded files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.data.arrays import Arrays
from pruning.measurement.iou import compute_image_errors, count_overlaps
from pruning.networks.layers import forward_hooks
from pruning.networks.loading import load_model, resolve
from pruning.pipeline import run_job as job_runner
from pruning.schemas.report import Report
from pruning.seeding import seeded
from tasks.processes.helper import check_model
from tests.support.replicate_runs import Silent

CLASSES = ("red", "green", "blue")
NORMALIZE = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
VIT_CONFIG: dict[str, Any] = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
    "id2label": {"0": "red", "1": "green", "2": "blue"},
    "label2id": {"red": 0, "green": 1, "blue": 2},
}
SEGFORMER_CONFIG: dict[str, Any] = {
    "model_type": "segformer",
    "architectures": ["SegformerForSemanticSegmentation"],
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [4, 8, 8, 8],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 8,
    "id2label": {"0": "red", "1": "green", "2": "blue"},
    "label2id": {"red": 0, "green": 1, "blue": 2},
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "image_mean": NORMALIZE["mean"],
    "image_std": NORMALIZE["std"],
}


@dataclass(frozen=True)
class Uploaded:
    """A network as the check of its upload leaves it, and images that it classifies."""

    network: dict[str, Any]
    """The answer of the check."""
    state: Path
    arrays: Arrays


@dataclass(frozen=True)
class Passed:
    """A job on an uploaded network: its report, and the folder of its files."""

    uploaded: Uploaded
    report: Report
    folder: Path


def make_images(task: str, side: int, train: int = 12, test: int = 9) -> Arrays:
    """Images in the colour of their class, with noise; for segmentation, each half in one."""
    rng = np.random.default_rng(0)
    images, labels = {}, {}
    for split, count in (("train", train), ("test", test)):
        label = np.arange(count) % 3
        classes = np.repeat(label[:, None, None], side, 1).repeat(side, 2)
        if task == "segmentation":
            classes[:, :, side // 2 :] = ((label + 1) % 3)[:, None, None]
        tints = np.where(np.arange(3)[None, :, None, None] == classes[:, None], 190, 60)
        noise = rng.integers(-40, 41, tints.shape)
        images[split] = (tints + noise).astype(np.uint8)
        labels[split] = classes.astype(np.uint8) if task == "segmentation" else label
    return Arrays(images, labels, CLASSES)


def scale(images: np.ndarray[Any, Any]) -> Tensor:
    """Images as a network sees them."""
    return (torch.from_numpy(images).float() / 255 - 0.5) / 0.25


def fit_head_(network: nn.Module, arrays: Arrays) -> None:
    """Fit the last layer, which classifies, to the training images by least squares, in place."""
    layers = [
        module
        for module in network.modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == len(CLASSES)
    ]
    head, seen = layers[-1], []
    with torch.no_grad(), forward_hooks([head], lambda module, inputs, out: seen.append(inputs[0])):
        network.eval()(scale(arrays.images["train"]))
    labels = torch.from_numpy(arrays.labels["train"].astype(np.int64))
    features = seen[0]
    if features.dim() == 4 and isinstance(head, nn.Conv2d):
        labels = F.interpolate(labels[:, None].float(), features.shape[-2:]).long()
        features = features.movedim(1, -1)
    rows = features.reshape(-1, features.shape[-1]).double()
    mean, deviation = rows.mean(0), rows.std(0) + 1e-3 * rows.std() + 1e-9
    rows = (rows - mean) / deviation
    targets = F.one_hot(labels.reshape(-1), len(CLASSES)).double() - 1 / 3
    gram = rows.T @ rows + 0.1 * torch.eye(rows.shape[1], dtype=torch.double)
    weight = 5 * torch.linalg.solve(gram, rows.T @ targets).T / deviation
    with torch.no_grad():
        head.weight.copy_(weight.reshape(head.weight.shape))
        if head.bias is not None:
            head.bias.copy_(-(weight @ mean))


def write_upload(
    folder: Path, architecture: str, kwargs: Mapping[str, Any], arrays: Arrays
) -> Path:
    """Write a network with drawn weights and a fitted head as it is uploaded."""
    with seeded(0):
        if architecture != "huggingface":
            network = load_model(architecture, **kwargs)
            fit_head_(network, arrays)
            torch.save({"state_dict": network.state_dict()}, folder / "network.pth")
            return folder / "network.pth"
        wrapped = load_model(architecture, **kwargs)
        fit_head_(wrapped, arrays)
        own: Any = resolve(architecture, kwargs).build_own()  # type: ignore[attr-defined]
    own.load_state_dict(wrapped.state_dict())
    own.save_pretrained(folder / "net")
    config = json.loads((folder / "net" / "config.json").read_text())
    labels = {key: kwargs["config"][key] for key in ("id2label", "label2id")}
    (folder / "net" / "config.json").write_text(json.dumps(config | labels))
    (folder / "net" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with zipfile.ZipFile(folder / "net.zip", "w") as archive:
        for file in (folder / "net").iterdir():
            archive.write(file, f"net/{file.name}")
    return folder / "net.zip"


def upload(
    folder: Path, architecture: str, kwargs: Mapping[str, Any], *, side: int = 32
) -> Uploaded:
    """Write a network that classifies the images, and check it as an upload is checked."""
    resolved = resolve(architecture, kwargs)
    arrays = make_images(getattr(resolved, "task", "classification"), side)
    own = architecture == "huggingface"
    network = check_model(
        {
            "path": str(write_upload(folder, architecture, kwargs, arrays)),
            "architecture": None if own else architecture,
            "kwargs": {} if own else {key: kwargs[key] for key in kwargs if key != "classes"},
            "output": str(folder / "model.safetensors"),
        }
    )
    if not own:
        network |= {"normalize": NORMALIZE, "preprocessing": None}
    return Uploaded(network, folder / "model.safetensors", arrays)


def run_uploaded(folder: Path, uploaded: Uploaded, spec: Mapping[str, Any]) -> Passed:
    """Run a job on an uploaded network to its report."""
    (folder / "stages").mkdir(parents=True)
    (folder / "model.safetensors").hardlink_to(uploaded.state)
    uploaded.arrays.save(folder / "data.safetensors")
    ids = {"model": {"id": "mdl_00000000"}, "dataset": {"id": "dst_00000000"}}
    names = ("architecture", "kwargs", "normalize", "preprocessing", "classes", "zeros")
    job_runner.run_job(
        folder,
        {
            "id": "job_00000000",
            "spec": {"type": "prune", **ids, **spec},
            "checkpoint_steps": 10_000,
            "cache": {"folder": str(folder), "bytes": 0},
            "threads": 1,
            "model": {name: uploaded.network[name] for name in names}
            | {"source": "given", "sha256": None},
            "dataset": {"name": "colours", "sha256": "", "normalize": None},
        },
        Silent(),
    )
    report = Report.model_validate_json((folder / "files" / "report.json").read_text())
    return Passed(uploaded, report, folder / "files")


@torch.no_grad()
def measure_error(network: Callable[[Tensor], Tensor], arrays: Arrays) -> float:
    """The fraction of test images, or of 1 - mean IoU of an image, that a network errs on."""
    outputs = network(scale(arrays.images["test"]))
    answers = outputs.argmax(1)
    answers[~outputs.isfinite().all(1)] = -1  # counted as wrong, as in reports
    labels = torch.from_numpy(arrays.labels["test"])
    if labels.dim() == 1:
        return float((answers != labels).double().mean())
    return float(compute_image_errors(count_overlaps(answers, labels, len(CLASSES))).mean())
