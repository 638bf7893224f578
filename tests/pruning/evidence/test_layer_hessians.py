"""The Hessians of the layers' outputs, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pruning.evidence.layer_hessians
from pruning.criteria.exact_obs import ExactOBS
from pruning.criteria.obs import OBS
from pruning.errors import EvidenceError, OutOfMemoryError, ScoreError
from pruning.evidence.evidence import Evidence
from pruning.evidence.layer_hessians import compute_layer_hessians
from tests.support.quadratic_cases import (
    CONVOLUTIONS,
    EVERYTHING,
    build_double,
    build_evidence,
    compute_row_jacobian,
    count_images,
)
from tests.support.seeds import make_generator

pytestmark = pytest.mark.usefixtures("same_layers")


@pytest.mark.parametrize("elements", [1, 2**23])
@pytest.mark.parametrize("case", [*EVERYTHING, "mixed_modes", *CONVOLUTIONS])
def test_hessians_are_those_of_the_layers_outputs(
    case: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning.evidence.layer_hessians, "ELEMENTS", elements)
    evidence = build_evidence(case)
    hessians = compute_layer_hessians(evidence)
    assert set(hessians) == set(evidence.weights)
    for name, weight in evidence.weights.items():
        for row in range(len(weight)):
            jacobian = compute_row_jacobian(evidence, name, row)
            group = row * len(hessians[name]) // len(weight)
            torch.testing.assert_close(
                hessians[name][group], 2 / count_images(evidence) * jacobian.T @ jacobian
            )


def test_hessians_of_a_sequence_sum_over_its_positions() -> None:
    layer = nn.Linear(2, 1).double()
    words = torch.randn(3, 4, 2, generator=make_generator(), dtype=torch.float64)
    expected = 2 / 3 * words.flatten(0, 1).T @ words.flatten(0, 1)
    torch.testing.assert_close(
        compute_layer_hessians(Evidence(layer, batches=[(words, torch.zeros(3))]))["weight"][0],
        expected,
    )


def test_hessians_of_float32_models_are_accumulated_in_float64() -> None:
    layer = nn.Linear(2, 1)
    images = torch.tensor([[3000.0, 1.0], [1.0, 0.001]])
    hessian = compute_layer_hessians(Evidence(layer, batches=[(images, torch.zeros(2))]))["weight"][
        0
    ]
    torch.testing.assert_close(hessian, images.double().T @ images.double(), rtol=1e-15, atol=0)


class Hidden(nn.Module):
    """A network that uses a weight without calling its layer."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x, self.layer.weight) if self.used else x)


class TwoShapes(nn.Module):
    """A network in which a dense and a grouped convolution share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 1)
        self.second = nn.Conv2d(4, 4, 1, groups=2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean((2, 3))


BATCH = [(torch.randn(4, 2, generator=make_generator()), torch.tensor([0, 1, 0, 1]))]


def test_what_cannot_be_known_of_a_layer_is_refused_by_name() -> None:
    with pytest.raises(EvidenceError, match=r"layer.weight is used without a call of its layer"):
        ExactOBS().score(Evidence(Hidden(True), batches=BATCH))
    with pytest.raises(EvidenceError, match=r"layer.weight is used without a call of its layer"):
        OBS().score(Evidence(Hidden(True), batches=BATCH))
    with pytest.raises(EvidenceError, match="matrices of two shapes"):
        compute_layer_hessians(
            Evidence(TwoShapes(), batches=[(torch.ones(2, 2, 2, 2), torch.tensor([0, 1]))])
        )
    with pytest.raises(ScoreError, match=r"weight: the inputs of its layer are not finite"):
        compute_layer_hessians(
            Evidence(
                nn.Linear(2, 2), batches=[(torch.tensor([[1.0, math.inf]]), torch.tensor([0]))]
            )
        )
    with pytest.raises(ScoreError, match=r"weight: the gradients of the loss are not finite"):
        OBS().score(
            Evidence(
                nn.Linear(2, 2), batches=[(torch.tensor([[1.0, math.nan]]), torch.tensor([0]))]
            )
        )


def test_a_layer_that_is_never_called_goes_first() -> None:
    scores = ExactOBS().score(Evidence(Hidden(False), batches=BATCH))
    assert float(scores["layer.weight"].max()) < 1e-300 < float(scores["head.weight"].min())


def test_layers_of_too_many_inputs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning.evidence.layer_hessians, "INPUTS", 3)
    with pytest.raises(OutOfMemoryError, match=r"1\.weight: 4 inputs make a Hessian"):
        ExactOBS().score(build_double("plain"))
    compute_layer_hessians(
        Evidence(nn.Linear(3, 2), batches=[(torch.ones(2, 3), torch.tensor([0, 1]))])
    )
    scores = ExactOBS(block_size=3).score(build_double("plain"))
    assert scores["1.weight"].shape == (5, 4)


@pytest.mark.parametrize("case", ["plain", "grouped", "depthwise", "tied", "uneven"])
def test_blocks_are_those_on_the_diagonal_of_the_whole_hessian(case: str) -> None:
    evidence = build_evidence(case)
    whole = compute_layer_hessians(evidence)
    for size in (1, 3, 5, 1000):
        in_blocks = compute_layer_hessians(evidence, size)
        for name, hessian in whole.items():
            groups, inputs = hessian.shape[:2]
            width = min(size, inputs)
            by_group = in_blocks[name].reshape(groups, -1, width, width)
            for group in range(groups):
                blocks = torch.block_diag(*by_group[group])[:inputs, :inputs]
                number = torch.arange(inputs) // width
                expected = hessian[group] * (number[:, None] == number[None, :])
                torch.testing.assert_close(blocks, expected)
