"""A whole recipe on a CUDA device: everything lands where it belongs."""

from __future__ import annotations

import copy

import pytest
import torch

from pruning.library import load_model, prune
from pruning.masks import find_prunable
from tests.support import cases

DEVICES = ("cpu", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_initialisation_is_pruned_alike_on_cpu_and_cuda(criterion: str, precision: str) -> None:
    data = cases.make_data(shape=(3, 24, 24), fit=96)
    recipe = cases.recipe(
        0.5,
        0.8,
        criterion={"name": criterion},
        when="before_training",
        train={"epochs": 10, "batch_size": 8, "augment": "crop_flip", "precision": precision},
    )
    start = load_model("cifar_resnet", depth=8, classes=len(data.classes))
    cpu, cuda = (list(prune(copy.deepcopy(start).to(device), recipe, data)) for device in DEVICES)
    for on_cpu, on_gpu in zip(cpu, cuda, strict=True):
        assert on_cpu.sparsity == on_gpu.sparsity
        assert all((on_cpu.masks[name] == mask).all() for name, mask in on_gpu.masks.items())
        for name, weight in find_prunable(on_gpu.model).items():
            assert weight.device.type == DEVICES[1]
            assert not weight.detach().cpu()[~on_gpu.masks[name]].any()
