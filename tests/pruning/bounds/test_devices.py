"""Bounds on the device of the network: nothing goes back to the CPU, and results are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.analysis.bound_report import BoundReport, summarise_outcomes
from pruning.analysis.bound_study import Study
from pruning.evidence import sensitivities
from pruning.rounds.method import PruningMethod
from tests.pruning.bounds.test_coverage import NETWORKS, make_images
from tests.pruning.bounds.test_pre_activation import build
from tests.support import cases
from tests.support.bound_cases import DETERMINISTIC, SAMPLERS, seeded
from tests.support.other_device import OtherDevice

SHAPE = (1, 4, 4)
Move = Callable[[Tensor], Tensor]


def build_network(name: str) -> nn.Module:
    torch.manual_seed(7)
    if name == "one layer":
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    if name not in NETWORKS:
        return build(name)
    return NETWORKS[name][0]()


def report_bounds(model: nn.Module, method: dict[str, Any], move: Move) -> BoundReport:
    """Report the bounds of two prunings at three inputs."""
    recipe = cases.recipe(0.5, criterion=method)
    calibration, inputs = move(make_images(8, True, 1)), move(make_images(3, True, 2))
    labels = move(torch.arange(8) % 3)
    study = Study(
        model,
        PruningMethod.of(recipe, recipe.criteria[0]),
        [(calibration, labels)],
        SHAPE,
        seeded(),
    )
    pruned = [study.prune(0.3, trial, seeded(trial)) for trial in range(2)]
    outcomes = study.outcomes(pruned, inputs, 0.05)
    dense = study.answers(inputs)
    assert {outcome["error"].device.type for outcome in outcomes} == {dense.device.type}
    assert dense.device == inputs.device
    return summarise_outcomes(outcomes, dense, labels[:3], 0.05)


@pytest.mark.parametrize(
    ("network", "method"),
    [
        ("mlp", SAMPLERS["corenet corenet"]),
        pytest.param("one layer", SAMPLERS["sipp hybrid"], marks=pytest.mark.slow),
        ("residual", DETERMINISTIC["wanda"]),
        pytest.param("flat", SAMPLERS["pfp top"], marks=pytest.mark.slow),
        pytest.param("pre-activation", SAMPLERS["mussay importance"], marks=pytest.mark.slow),
    ],
)
def test_bounds_are_computed_where_the_network_is(
    network: str, method: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that is not there, an operation that mixes two devices fails.

    Maxima over positions are computed on the CPU as they are on a device, to compare every bit.
    """
    monkeypatch.setattr(sensitivities, "has_sparse_maxima", lambda inputs: False)
    expected = report_bounds(build_network(network), method, lambda tensor: tensor)
    device = OtherDevice()
    model = device.move_module_(build_network(network))
    with device:
        report = report_bounds(model, method, device.move)
    assert report == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", [*SAMPLERS, *DETERMINISTIC])
def test_bounds_on_a_gpu_are_those_on_the_cpu(method: str) -> None:
    settings = (SAMPLERS | DETERMINISTIC)[method]
    expected = report_bounds(build_network("residual"), settings, lambda tensor: tensor)
    report = report_bounds(build_network("residual").cuda(), settings, lambda tensor: tensor.cuda())
    assert report.forms == expected.forms
    for ours, theirs in zip(report.predictions, expected.predictions, strict=True):
        assert ours.predicted == pytest.approx(theirs.predicted, abs=1e-6)
        assert ours.bound is not None
        assert theirs.bound is not None
        assert ours.bound.median == pytest.approx(theirs.bound.median, rel=1e-6)
