"""BatchNorm folded into the layer before it, and networks that are chains."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pruning.architectures.cifar_resnet import CifarResNet
from pruning.graphs.tracing import fold_batchnorm, is_chain
from pruning.masks import find_prunable
from tests.support.bound_cases import randomise

FOLDABLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()), (2, 4, 4), 0),
    "no bias": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False, groups=2), nn.BatchNorm2d(4), nn.ReLU()
        ),
        (2, 4, 4),
        0,
    ),
    "not affine": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, affine=False)),
        (2, 4, 4),
        0,
    ),
    "linear": (
        lambda: nn.Sequential(
            nn.Linear(5, 4),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.Linear(4, 2, bias=False),
            nn.BatchNorm1d(2, affine=False),
        ),
        (5,),
        0,
    ),
    "tokens": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3)), (3, 5), 1),
    "before": (lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)), (2, 4, 4), 1),
    "after an activation": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)),
        (2, 4, 4),
        1,
    ),
    "no statistics": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)),
        (2, 4, 4),
        1,
    ),
    "twice": (
        lambda: nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)),
        (2, 4, 4),
        1,
    ),
    "resnet": (
        lambda: CifarResNet(depth=8, width=0.25, shortcut="B", channels=2).build(),
        (2, 8, 8),
        0,
    ),
}


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@pytest.mark.parametrize("name", FOLDABLE)
def test_a_folded_network_answers_as_before(name: str) -> None:
    build, shape, left = FOLDABLE[name]
    model = randomise(build())
    folded = fold_batchnorm(model)
    x = torch.randn(6, *shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-10)
    assert set(find_prunable(folded)) == set(find_prunable(model))
    assert count_norms(folded) == left
    assert not folded.training


class Shared(nn.Module):
    """A convolution called twice, its weight's other name, one BatchNorm after both calls and one
    after one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.norm_after_once = nn.BatchNorm2d(2)
        self.norm_after_twice = nn.BatchNorm2d(2)
        self.last = nn.Conv2d(2, 2, 1)
        self.last_norm = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.last(self.norm_after_twice(self.conv(self.norm_after_once(self.conv(x)))))
        return self.last_norm(h) + h


def test_what_is_shared_is_not_folded() -> None:
    model = randomise(Shared())
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fold_batchnorm(model)(x), model(x), rtol=1e-10, atol=1e-10)
    assert count_norms(fold_batchnorm(model)) == 3


def test_a_network_in_training_keeps_its_mode_and_its_weights() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).train()
    before = copy.deepcopy(model.state_dict())
    fold_batchnorm(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_chain_is_layers_and_relu_alone() -> None:
    def between(module: nn.Module) -> bool:
        return is_chain(nn.Sequential(nn.Conv2d(1, 1, 1), module, nn.Flatten(), nn.Linear(4, 3)))

    assert between(nn.ReLU())
    assert not between(nn.MaxPool2d(1))
    assert not between(nn.Sigmoid())
    assert not is_chain(CifarResNet(depth=8).build())
    assert is_chain(fold_batchnorm(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU())))
