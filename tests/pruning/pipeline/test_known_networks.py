"""Networks as people have them go through upload, pruning, retraining, evaluation and export, and
their files are loaded again; where structured pruning is refused, the refusal names the reason.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.channels.compaction import load_compact
from pruning.errors import BudgetError
from pruning.networks.loading import load_model
from pruning.pipeline import exports, latencies
from pruning.pipeline import run_job as job_runner
from pruning.schemas.report import Report
from tests.support.known_networks import (
    SEGFORMER_CONFIG,
    VIT_CONFIG,
    Passed,
    measure_error,
    run_uploaded,
    upload,
)

Case = tuple[str, dict[str, Any]]
SPEC: dict[str, Any] = {
    "targets": {"sparsity": [0.5]},
    "retrain": {"epochs": 1, "batch_size": 6, "optimizer": {"lr": 1e-6}},
}
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
    "swin_t": (
        "timm",
        {
            "name": "swin_tiny_patch4_window7_224",
            "image_size": 32,
            "options": {
                "embed_dim": 8,
                "depths": [1, 1, 1, 1],
                "window_size": 2,
                "num_heads": [1, 1, 2, 2],
            },
        },
    ),
    "vgg16_bn": ("vgg", {"depth": 16, "width": 0.125}),
    "regnet": ("timm", {"name": "regnetx_002"}),
    "deeplabv3": ("torchvision_segmentation", {"name": "deeplabv3_mobilenet_v3_large"}),
    "segformer": ("huggingface", {"config": SEGFORMER_CONFIG}),
}
REFUSED = ("timm vit", "hugging face vit", "segformer")
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
    # What files weigh and how fast networks are takes longer than all else; other tests hold it.
    monkeypatch.setattr(exports, "measure_file_sizes", lambda *args, **named: {})
    monkeypatch.setattr(latencies, "measure_latency", lambda *args, **named: [])
    architecture, kwargs = CASES[case]
    own = architecture == "huggingface"
    uploaded = upload(tmp_path, architecture, kwargs | {"classes": 3})
    assert uploaded.network["architecture"] == architecture
    spec = SPEC | {"evaluations": [] if case in SEGMENTERS else [{"name": "accuracy"}]}
    # A network that loses channels is exported; the graph of one that loses weights is the dense
    # one's, and the export takes longer than everything else here.
    exported = ["onnx", "huggingface"] if own else ["onnx"] if case in REFUSED else []
    weights = run_uploaded(tmp_path / "weights", uploaded, spec | {"export": exported})
    assert weights.report.baseline.error.value < 0.4
    check_files(weights, exported, segmentation=case in SEGMENTERS)
    spec |= {"granularity": {"name": "channel", "params": {"round_to": 1}}, "export": ["onnx"]}
    if case in REFUSED:
        with pytest.raises(BudgetError, match=REFUSAL):
            run_uploaded(tmp_path / "channels", uploaded, spec)
    else:
        channels = run_uploaded(tmp_path / "channels", uploaded, spec)
        check_files(channels, ["onnx"], segmentation=case in SEGMENTERS)


def check_files(passed: Passed, exported: Sequence[str], *, segmentation: bool) -> None:
    """Every file gives the error of the report in its own runtime."""
    network, arrays = passed.uploaded.network, passed.uploaded.arrays
    (checkpoint,) = passed.report.checkpoints
    reported = checkpoint.error.value
    assert checkpoint.flops < passed.report.baseline.flops
    state = passed.folder / f"{checkpoint.id}.dense.safetensors"
    arch = passed.folder / f"{checkpoint.id}.arch.json"
    if arch.exists():
        again = load_compact(arch, state)
    else:
        again = load_model(network["architecture"], state, **network["kwargs"])
    assert measure_error(again.eval(), arrays) == pytest.approx(reported)
    if "onnx" in exported:
        assert checkpoint.onnx is not None, checkpoint.warnings
        assert checkpoint.onnx.error.value == pytest.approx(reported, abs=0.01)
    if "huggingface" in exported:
        folder = passed.folder / "unpacked"
        shutil.unpack_archive(passed.folder / f"{checkpoint.id}.huggingface.zip", folder)
        loaded = load_with_transformers(folder, segmentation)
        assert measure_error(loaded, arrays) == pytest.approx(reported)
        assert f'"value": {1 - reported}' in (folder / "README.md").read_text()


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
