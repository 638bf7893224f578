"""Networks as people have them go through upload, pruning, retraining, evaluation and export, and
their files are loaded again; where structured pruning is refused, the refusal names the reason.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.channels.compaction import load_compact
from pruning.networks.loading import load_model
from pruning.pipeline import run_job as job_runner
from pruning.schemas.report import Report
from tests.support.known_networks import (
    SEGFORMER_CONFIG,
    VIT_CONFIG,
    Passed,
    measure_error,
    run_through,
)

Case = tuple[str, dict[str, Any]]
STRUCTURED = "taylor_filter"
"""A criterion of channels, beside `magnitude` for single weights."""
CASES: dict[str, Case] = {
    "resnet18": ("torchvision", {"name": "resnet18"}),
    "mobilenet_v3": ("torchvision", {"name": "mobilenet_v3_small"}),
    "timm vit": (
        "timm",
        {
            "name": "vit_tiny_patch16_224",
            "image_size": 32,
            "options": {"depth": 1, "embed_dim": 24, "num_heads": 2},
        },
    ),
    "timm efficientnet": ("timm", {"name": "test_efficientnet"}),
    "hugging face vit": ("huggingface", {"config": VIT_CONFIG}),
    "swin_t": ("torchvision", {"name": "swin_t"}),
    "vgg16_bn": ("torchvision", {"name": "vgg16_bn"}),
    "regnet": ("torchvision", {"name": "regnet_x_400mf"}),
    "deeplabv3": ("torchvision_segmentation", {"name": "deeplabv3_mobilenet_v3_large"}),
    "segformer": ("huggingface", {"config": SEGFORMER_CONFIG}),
}
REFUSED = ("timm vit", "hugging face vit", "swin_t", "segformer")
"""The networks from which channels cannot be removed to this density."""
REFUSAL = r"cannot be reached by removing channels.*a LayerNorm uses them"
SEGMENTERS = ("deeplabv3", "segformer")


def write_json(report: Report, folder: Path, on_file: Any) -> None:
    """Write the report as JSON alone: other formats take longer than the job."""
    (folder / "report.json").write_text(report.model_dump_json())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_network_goes_all_the_way(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_runner, "write_report", write_json)
    architecture, kwargs = CASES[case]
    own = architecture == "huggingface"
    spec = {
        "criterion": [{"name": "magnitude"}, {"name": STRUCTURED}],
        "targets": {"sparsity": [0.5]},
        "retrain": {"epochs": 1, "batch_size": 6, "optimizer": {"lr": 0.001}},
        "evaluations": [] if case in SEGMENTERS else [{"name": "accuracy"}],
        "export": ["onnx", "huggingface"] if own else ["onnx"],
    }
    passed = run_through(tmp_path, architecture, kwargs | {"classes": 3}, spec, side=32)
    assert passed.network["architecture"] == architecture
    assert passed.report.baseline.error.value < 0.4
    criteria = [checkpoint.criterion.name for checkpoint in passed.report.checkpoints]
    if case in REFUSED:
        assert criteria == ["magnitude"]
        (failure,) = passed.report.failures
        assert failure.name == STRUCTURED
        assert re.search(REFUSAL, failure.message), failure.message
    else:
        assert criteria == ["magnitude", STRUCTURED]
        assert not passed.report.failures
    check_files(passed, own=own, segmentation=case in SEGMENTERS)


def check_files(passed: Passed, *, own: bool, segmentation: bool) -> None:
    """Every file gives the error of the report in its own runtime."""
    for checkpoint in passed.report.checkpoints:
        reported = checkpoint.error.value
        state = passed.folder / f"{checkpoint.id}.dense.safetensors"
        arch = passed.folder / f"{checkpoint.id}.arch.json"
        assert arch.exists() == (checkpoint.criterion.name == STRUCTURED)
        if arch.exists():
            network = load_compact(arch, state)
        else:
            network = load_model(passed.network["architecture"], state, **passed.network["kwargs"])
        assert measure_error(network.eval(), passed.arrays) == pytest.approx(reported)
        assert checkpoint.onnx is not None, checkpoint.warnings
        assert checkpoint.onnx.error.value == pytest.approx(reported, abs=0.01)
        assert checkpoint.flops < 0.7 * passed.report.baseline.flops
        if own:
            folder = passed.folder / "unpacked"
            shutil.unpack_archive(passed.folder / f"{checkpoint.id}.huggingface.zip", folder)
            network_of_others = load_with_transformers(folder, segmentation)
            assert measure_error(network_of_others, passed.arrays) == pytest.approx(reported)
            card = (folder / "README.md").read_text()
            assert f'"value": {1 - reported}' in card


def load_with_transformers(folder: Path, segmentation: bool) -> Callable[..., torch.Tensor]:
    """The network of a folder as its documentation loads it, with its own post-processing."""
    import transformers

    if not segmentation:
        loader = transformers.AutoModelForImageClassification
        network = loader.from_pretrained(folder).eval()
        return lambda images: network(pixel_values=images).logits
    network = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    return partial(post_process, network, transformers.SegformerImageProcessor())


def post_process(network: Any, processor: Any, images: torch.Tensor) -> torch.Tensor:
    """The answers of a segmentation network, one hot (N, classes, H, W)."""
    outputs = network(pixel_values=images)
    sizes = [tuple(images.shape[-2:])] * len(images)
    answers = torch.stack(processor.post_process_semantic_segmentation(outputs, sizes))
    return torch.nn.functional.one_hot(answers, 3).movedim(-1, 1)
