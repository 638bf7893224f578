"""The column-wise optimal brain surgeon against its loop, and against the exact optimum of OBS."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pruning.criteria.column_obs
from pruning.criteria.column_obs import ColumnOBS
from pruning.criteria.exact_obs import ExactOBS
from pruning.evidence.damped_layers import damp_layers
from pruning.evidence.evidence import Evidence
from pruning.masks import select_top
from tests.support.quadratic_cases import (
    CONVOLUTIONS,
    EVERYTHING,
    build_evidence,
    compute_row_jacobian,
    draw_masks,
)
from tests.support.seeds import make_generator

pytestmark = pytest.mark.usefixtures("same_layers")
DAMPING = 1e-3


def remove_naively(h: Tensor, row: Tensor, keep: Tensor) -> tuple[Tensor, list[float]]:
    """A row after the removal of its weights in order, and what each of its weights would lose.

    The Hessian of the weights from j on is inverted anew for each of them.
    """
    row = row.clone()
    costs = []
    for j in range(len(row)):
        inverse = torch.linalg.inv(h[j:, j:])
        costs.append(float(row[j] ** 2 / (2 * inverse[0, 0])))
        if not keep[j]:
            row[j:] -= row[j] / inverse[0, 0] * inverse[:, 0]
            row[j] = 0.0
    return row, costs


@pytest.mark.parametrize("columns", [3, 128])
@pytest.mark.parametrize("case", [*EVERYTHING, *CONVOLUTIONS])
def test_rows_are_those_of_the_loop(
    case: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning.criteria.column_obs, "COLUMNS", columns)
    evidence = build_evidence(case)
    masks = draw_masks(evidence.masks, 0.5)
    criterion = ColumnOBS(damping=DAMPING)
    scores, moved = criterion.score(evidence), criterion.compensate(evidence, masks)
    for name, layer in damp_layers(evidence, masks, DAMPING):
        weight = evidence.weights[name]
        for row in {0, len(weight) // 2, len(weight) - 1}:
            group = int(layer.group[row])
            h, own = layer.hessian[group], layer.rows[row]
            expected, _ = remove_naively(h, own, layer.keep[row])
            torch.testing.assert_close(
                moved[name][row].flatten().double(), expected, rtol=1e-5, atol=1e-6
            )
            _, costs = remove_naively(h, own, torch.ones_like(layer.keep[row]))
            losses = torch.tensor(costs, dtype=torch.float64)
            losses = losses.masked_fill(layer.dead[group], 0.0)
            torch.testing.assert_close(scores[name][row].flatten(), losses, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("case", ["plain", "grouped", "tied", *CONVOLUTIONS])
def test_where_the_first_inputs_go_it_is_the_exact_optimum(case: str) -> None:
    evidence = build_evidence(case)
    masks = {}
    for name, weight in evidence.weights.items():
        keep = torch.ones(weight[0].numel(), dtype=torch.bool)
        keep[: len(keep) // 2] = False
        masks[name] = keep.reshape(weight[0].shape).expand(weight.shape)
    moved = ColumnOBS(damping=DAMPING).compensate(evidence, masks)
    exact = ExactOBS(damping=DAMPING).compensate(evidence, masks)
    for name, weight in moved.items():
        torch.testing.assert_close(weight, exact[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["plain", "grouped", "depthwise", "strided", "tied"])
def test_outputs_lose_no_less_than_with_the_optimum_and_less_than_without(case: str) -> None:
    evidence = build_evidence(case)
    criterion = ColumnOBS(damping=DAMPING)
    masks = {
        name: select_top(score, score.numel() // 2)
        for name, score in criterion.score(evidence).items()
    }
    moved = criterion.compensate(evidence, masks)
    exact = ExactOBS(damping=DAMPING).compensate(evidence, masks)
    for name, weight in evidence.weights.items():
        errors = [0.0, 0.0, 0.0]
        kinds = (exact[name], moved[name], weight.masked_fill(~masks[name], 0.0))
        for row in range(len(weight)):
            jacobian = compute_row_jacobian(evidence, name, row)
            for index, other in enumerate(kinds):
                change = jacobian @ (other - weight)[row].flatten()
                errors[index] += float(change.square().sum())
        assert errors[0] <= errors[1] * (1 + 1e-3) + 1e-9, name
        assert errors[1] <= errors[2] + 1e-9, name


def test_masked_weights_stay_zero_and_are_made_up_for_again() -> None:
    layer = nn.Linear(6, 2, bias=False).double()
    images = torch.randn(40, 6, generator=make_generator(3), dtype=torch.float64)
    images[:, 4] = images[:, 1] + images[:, 2]
    masks = {"weight": torch.tensor([[False, True, True, False, True, True]]).expand(2, 6)}
    once = ColumnOBS(damping=1e-6).compensate(Evidence(layer, batches=[(images, images)]), masks)
    assert not once["weight"][:, [0, 3]].any()
    with torch.no_grad():
        layer.weight.copy_(once["weight"])
    again = ColumnOBS(damping=1e-6).compensate(
        Evidence(layer, masks, batches=[(images, images)]), masks
    )
    torch.testing.assert_close(again["weight"], once["weight"])
