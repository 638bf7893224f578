"""Exact optimal brain surgeon, row by row, against removal one weight at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import pruning.evidence.quadratic_models
from pruning.criteria.exact_obs import ExactOBS
from pruning.evidence.evidence import Evidence
from pruning.evidence.layer_hessians import compute_layer_hessians
from pruning.masks import apply_masks_, build_full_masks, select_top
from tests.support import cases
from tests.support.quadratic_cases import (
    CONVOLUTIONS,
    EVERYTHING,
    build_double,
    build_evidence,
    compute_brute_cost,
    compute_brute_move,
    compute_row_jacobian,
    count_images,
    draw_masks,
    draw_positive_definite,
    order_naively,
)
from tests.support.seeds import make_generator

pytestmark = pytest.mark.usefixtures("same_layers")


def damp_hessian(h: Tensor, damping: float) -> Tensor:
    """Damp the Hessian of one group as `exact_obs` does."""
    h = h.clone()
    live = [i for i in range(len(h)) if h[i, i] > 0]
    mean = sum(float(h[i, i]) for i in live) / max(1, len(live))
    for i in range(len(h)):
        h[i, i] = h[i, i] + damping * mean if i in live else 1.0
    return h


@pytest.mark.parametrize(("masked", "elements"), [(False, 2**23), (True, 1)])
@pytest.mark.parametrize("case", [*EVERYTHING, *CONVOLUTIONS])
def test_scores_follow_the_removal_of_one_row_at_a_time(
    case: str, masked: bool, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning.evidence.quadratic_models, "ELEMENTS", elements)
    evidence = build_evidence(case)
    if masked:
        masks = draw_masks(build_full_masks(evidence.weights))
        apply_masks_(evidence.model, masks)
        evidence = Evidence(evidence.model, masks, evidence.batches)
    scores = ExactOBS(damping=1e-3).score(evidence)
    for name, weight in evidence.weights.items():
        for row in {0, len(weight) // 2, len(weight) - 1}:
            jacobian = compute_row_jacobian(evidence, name, row)
            h = damp_hessian(2 / count_images(evidence) * jacobian.T @ jacobian, 1e-3)
            alive = evidence.masks[name][row].flatten()
            live = weight[row].flatten().masked_fill(jacobian.square().sum(0) == 0, 0.0)
            expected = order_naively(h, live, alive.nonzero().flatten().tolist())
            costs = scores[name][row].flatten()[[p for p, _ in expected]].tolist()
            assert costs == sorted(costs)
            raised = list(itertools.accumulate((cost for _, cost in expected), max))
            assert costs == pytest.approx(raised, rel=1e-7, abs=1e-300)


@pytest.mark.parametrize(
    ("case", "fraction"),
    [
        *((case, 0.6) for case in (*EVERYTHING, *CONVOLUTIONS)),
        *((case, 0.2) for case in ("plain", "grouped", "tied")),
    ],
)
def test_compensated_rows_are_the_least_squares_optimum_on_their_support(
    case: str, fraction: float
) -> None:
    evidence = build_evidence(case)
    masks = draw_masks(evidence.masks, fraction)
    compensated = ExactOBS(damping=1e-12).compensate(evidence, masks)
    for name, weight in evidence.weights.items():
        assert not compensated[name][~masks[name]].any()
        for row in range(len(weight)):
            jacobian = compute_row_jacobian(evidence, name, row)
            keep = masks[name][row].flatten()
            target = jacobian @ weight[row].flatten()
            best = torch.linalg.lstsq(jacobian[:, keep], target, driver="gelsd").solution
            least = float((jacobian[:, keep] @ best - target).norm())
            now = float((jacobian @ compensated[name][row].flatten() - target).norm())
            plain = float(
                (jacobian @ weight[row].flatten().masked_fill(~keep, 0.0) - target).norm()
            )
            assert least - 1e-9 <= now <= least + 1e-5 * float(target.norm()) + 1e-9
            assert now <= plain + 1e-9


@pytest.mark.parametrize(
    "case", ["plain", "grouped", "depthwise", "strided", "pointwise", "tied", *CONVOLUTIONS]
)
def test_compensation_lowers_the_error_of_the_outputs(case: str) -> None:
    evidence = build_evidence(case)
    masks = {
        name: select_top(score, score.numel() // 2)
        for name, score in ExactOBS().score(evidence).items()
    }
    compensated = ExactOBS().compensate(evidence, masks)
    for name, weight in evidence.weights.items():
        errors = [0.0, 0.0]
        for row in range(len(weight)):
            jacobian = compute_row_jacobian(evidence, name, row)
            for index, other in enumerate(
                (compensated[name], weight.masked_fill(~masks[name], 0.0))
            ):
                errors[index] += float((jacobian @ (other - weight)[row].flatten()).square().sum())
        assert errors[0] < errors[1], name


def test_lowest_scores_of_a_row_end_at_the_weights_of_the_trace() -> None:
    """Removing one by one, and removing the same set at once, are the same."""
    layer = nn.Linear(8, 3, bias=False).double()
    images = torch.randn(
        50, 8, generator=make_generator(), dtype=torch.float64
    ) @ draw_positive_definite(8)
    evidence = Evidence(layer, batches=[(images, torch.zeros(50))])
    h = damp_hessian(compute_layer_hessians(evidence)["weight"][0], 1e-6)
    scores = ExactOBS().score(evidence)["weight"]
    masks = {"weight": select_top(scores, 11)}
    compensated = ExactOBS().compensate(evidence, masks)["weight"]
    for row in range(3):
        w = evidence.weights["weight"][row].clone()
        alive = list(range(8))
        for p, _ in order_naively(h, w, alive)[: int((~masks["weight"][row]).sum())]:
            whole = torch.linalg.inv(h[alive][:, alive])
            i = alive.index(p)
            w[alive] -= w[p] / whole[i, i] * whole[:, i]
            w[p] = 0.0
            alive.remove(p)
        assert masks["weight"][row].nonzero().flatten().tolist() == alive
        torch.testing.assert_close(compensated[row], w, rtol=1e-8, atol=1e-12)


def test_greedy_removal_is_near_the_best_subset() -> None:
    """Never better than the best of all subsets, and exact for one weight; OBS is greedy, not
    optimal.
    """
    layer = nn.Linear(6, 1, bias=False).double()
    images = torch.randn(40, 6, generator=make_generator(3), dtype=torch.float64)
    evidence = Evidence(layer, batches=[(images, torch.zeros(40))])
    h = damp_hessian(compute_layer_hessians(evidence)["weight"][0], 1e-6)
    w = evidence.weights["weight"][0]
    order = ExactOBS().score(evidence)["weight"][0].argsort().tolist()
    for removed in range(1, 6):
        best = min(
            compute_brute_cost(h, w, list(q)) for q in itertools.combinations(range(6), removed)
        )
        assert compute_brute_cost(h, w, order[:removed]) >= best * (1 - 1e-9)
        if removed == 1:
            assert compute_brute_cost(h, w, order[:1]) == pytest.approx(best)


def test_dead_inputs_cost_nothing_go_first_and_stay_as_they_are_if_kept() -> None:
    layer = nn.Linear(4, 2, bias=False).double()
    images = torch.randn(9, 4, generator=make_generator(), dtype=torch.float64)
    images[:, [1, 3]] = 0.0
    evidence = Evidence(layer, batches=[(images, torch.zeros(9))])
    scores = ExactOBS().score(evidence)["weight"]
    assert scores[:, [1, 3]].max() < 1e-300
    assert scores[:, [0, 2]].min() > 1e-6
    masks = {"weight": torch.tensor([[False, True, True, True], [True, True, False, False]])}
    compensated = ExactOBS().compensate(evidence, masks)["weight"]
    assert torch.equal(compensated[:, 1], evidence.weights["weight"][:, 1])
    assert float(compensated[0, 3]) == float(evidence.weights["weight"][0, 3])


def test_all_dead_inputs_give_finite_scores() -> None:
    layer = nn.Linear(3, 2)
    evidence = Evidence(layer, batches=[(torch.zeros(2, 3), torch.zeros(2))])
    assert torch.isfinite(ExactOBS().score(evidence)["weight"]).all()


def test_one_input_is_half_w_squared_h() -> None:
    layer = nn.Linear(1, 2, bias=False).double()
    evidence = Evidence(
        layer, batches=[(torch.tensor([[1.0], [3.0]], dtype=torch.float64), torch.zeros(2))]
    )
    h = 2 / 2 * (1 + 9) * (1 + 1e-6)
    torch.testing.assert_close(
        ExactOBS().score(evidence)["weight"], evidence.weights["weight"].square() * h / 2
    )


def test_float32_models_are_scored_as_float64_ones_and_keep_their_type() -> None:
    model, batches = cases.awkward("grouped")
    evidence = Evidence(model, batches=batches)
    other = build_double("grouped")
    scores = ExactOBS(damping=1e-3).score(evidence)
    expected = ExactOBS(damping=1e-3).score(other)
    masks = draw_masks(evidence.masks)
    weights = ExactOBS(damping=1e-3).compensate(evidence, masks)
    precise = ExactOBS(damping=1e-3).compensate(other, masks)
    for name in scores:
        assert scores[name].dtype == torch.float64
        assert weights[name].dtype == torch.float32
        torch.testing.assert_close(scores[name], expected[name], rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(weights[name].double(), precise[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", ["plain", "grouped", "strided", "tied"])
def test_blocks_of_inputs_are_layers_of_their_own(case: str, masked: bool) -> None:
    """The oracle is each block of each row alone; a block of all inputs is the whole layer."""
    evidence = build_evidence(case)
    masks = draw_masks(build_full_masks(evidence.weights))
    if masked:
        apply_masks_(evidence.model, masks)
        evidence = Evidence(evidence.model, masks, evidence.batches)
    hessians = compute_layer_hessians(evidence)
    scores = ExactOBS(damping=1e-3, block_size=3).score(evidence)
    after = draw_masks(evidence.masks, seed=6)
    weights = ExactOBS(damping=1e-3, block_size=3).compensate(evidence, after)
    for name, weight in evidence.weights.items():
        rows = weight.flatten(1)
        alive, keep = evidence.masks[name].flatten(1), after[name].flatten(1)
        for row in {0, len(rows) - 1}:
            group = row * len(hessians[name]) // len(rows)
            for start in range(0, rows.shape[1], 3):
                part = slice(start, min(start + 3, rows.shape[1]))
                h = damp_hessian(hessians[name][group][part, part], 1e-3)
                dead = hessians[name][group].diagonal()[part] == 0
                live = rows[row, part].masked_fill(dead, 0.0)
                expected = order_naively(h, live, alive[row, part].nonzero().flatten().tolist())
                costs = scores[name].flatten(1)[row, part][[p for p, _ in expected]].tolist()
                raised = list(itertools.accumulate((cost for _, cost in expected), max))
                assert costs == pytest.approx(raised, rel=1e-7, abs=1e-300)
                gone = (~keep[row, part]).nonzero().flatten().tolist()
                move = compute_brute_move(h, rows[row, part], gone) if gone else 0.0
                torch.testing.assert_close(
                    weights[name].flatten(1)[row, part], rows[row, part] + move
                )
        whole = ExactOBS(damping=1e-3, block_size=1000)
        assert torch.equal(
            whole.score(evidence)[name], ExactOBS(damping=1e-3).score(evidence)[name]
        )


def test_memory_of_blocks_is_that_of_the_blocks() -> None:
    shapes = [(4096, 25088)]
    whole, blocks = ExactOBS().memory(shapes, 1000), ExactOBS(block_size=1024).memory(shapes, 1000)
    assert blocks < whole / 20
