"""Segmentation networks that start from the backbone of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from pruning.errors import ParameterError
from pruning.networks.backbone import FROM_SCRATCH, take_backbone
from pruning.networks.loading import build_outline, resolve
from pruning.pipeline.estimate_job import estimate_job
from pruning.pipeline.run_job import _start_from_backbone
from pruning.schemas.job import JobSpec
from pruning.seeding import seeded


def build_stem(stem: str) -> nn.Module:
    parts = nn.ModuleDict({stem: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))})
    parts["head"] = nn.Conv2d(4, 2, 1)
    return parts


@dataclass(frozen=True)
class Tiny:
    """A network with a backbone of one convolution."""

    backbone_prefix: ClassVar[str] = "backbone."
    input_shape = (3, None, None)
    outputs = 2

    def build(self) -> nn.Module:
        return build_stem("backbone")


def test_the_backbone_is_the_classifiers_and_the_head_is_new(tmp_path: Path) -> None:
    with seeded(1):
        classifier = build_stem("features")
    path = tmp_path / "backbone.safetensors"
    save_file(classifier.state_dict(), path)
    with seeded(2):
        network = _start_from_backbone(Tiny(), path)()
    with seeded(2):
        fresh = _start_from_backbone(Tiny(), tmp_path / "none.safetensors")()
    for name, value in classifier.state_dict().items():
        started = network.state_dict().get(name.replace("features", "backbone"))
        assert started is not None
        if name.startswith("features"):
            assert torch.equal(started, value)
        else:
            assert torch.equal(started, fresh.state_dict()[name])
    weights = [net.get_parameter("backbone.0.weight") for net in (network, fresh)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("network", "classifier"),
    [
        pytest.param("deeplabv3_resnet50", "resnet50", marks=pytest.mark.slow),
        ("lraspp_mobilenet_v3_large", "mobilenet_v3_large"),
    ],
)
def test_torchvisions_classifiers_fit(network: str, classifier: str) -> None:
    architecture = resolve("torchvision_segmentation", {"name": network})
    wanted = build_outline(architecture).state_dict()
    for name, fits in ((classifier, True), ("resnet18", False)):
        source = build_outline(resolve("torchvision", {"name": name, "classes": 1000}))
        if fits:
            taken = take_backbone(architecture, wanted, source.state_dict())
            assert set(taken) == {key for key in wanted if key.startswith("backbone.")}
        else:
            with pytest.raises(ParameterError, match="the backbone does not fit") as caught:
                take_backbone(architecture, wanted, source.state_dict())
            assert caught.value.pointer == "/model/backbone"


def job(**model: Any) -> dict[str, Any]:
    return {
        "type": "prune",
        "preset": "deeplabv3_resnet50",
        "dataset": {"id": "dst_00000000"},
        "targets": {"sparsity": [0.2]},
        "evaluations": [],
        "model": model,
    }


def test_a_job_says_where_its_backbone_comes_from() -> None:
    dataset = {
        "shape": [3, 33, 33],
        "classes": [str(number) for number in range(21)],
        "counts": {"train": 40, "test": 10},
        "task": "segmentation",
        "normalize": None,
    }
    name = {"name": "lraspp_mobilenet_v3_large", "aux": False}
    uploaded = {"architecture": "torchvision", "kwargs": {"name": "mobilenet_v3_large"}}
    scratch = estimate_job(job(kwargs=name), None, dataset, [])
    assert FROM_SCRATCH in scratch["warnings"]
    given = job(kwargs=name, backbone="mdl_00000000")
    assert FROM_SCRATCH not in estimate_job(given, None, dataset, [], uploaded)["warnings"]
    with pytest.raises(ParameterError, match="does not fit"):
        estimate_job(given, None, dataset, [], uploaded | {"kwargs": {"name": "resnet18"}})
    with pytest.raises(ValidationError, match="backbone has no effect with an uploaded network"):
        JobSpec.model_validate(job(id="mdl_00000000", backbone="mdl_00000001"))
    with pytest.raises(ParameterError, match="the network has no backbone"):
        take_backbone(resolve("mlp", {}), {}, {})
