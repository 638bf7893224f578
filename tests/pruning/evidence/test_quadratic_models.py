"""Optimal brain surgeon: the shared algebra, the Fisher in blocks, and the layers' Hessians."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pruning.evidence.layer_hessians
import pruning.evidence.quadratic_models
from pruning.criteria import criteria
from pruning.criteria.exact_obs import ExactOBS
from pruning.criteria.obs import OBS
from pruning.errors import EvidenceError, OutOfMemoryError, ScoreError
from pruning.evidence.cached import once_per_evidence
from pruning.evidence.evidence import Evidence
from pruning.evidence.fisher_blocks import compute_group_gradients
from pruning.evidence.layer_hessians import compute_layer_hessians
from pruning.evidence.quadratic_models import (
    compute_removal_costs,
    factor_cholesky,
    invert,
    restrict_curvature,
    solve_removal,
    split_matrices,
)
from pruning.masks import apply_masks_, build_full_masks, find_prunable, select_top
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import StageLoss, mask_scores, prune_
from pruning.schemas.recipe import Method
from pruning.types import Masks, Scores
from tests.support import cases


@pytest.fixture(autouse=True)
def same_layers() -> Iterator[None]:
    """Seed the layers that a test builds, so that they are the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_positive_definite(
    size: int, seed: int = 0, rank: int | None = None, damping: float = 1e-2
) -> Tensor:
    """Draw a positive definite matrix, well correlated."""
    root = (
        torch.randn(size, rank or 2 * size, generator=make_generator(seed), dtype=torch.float64)
        + 0.5
    )
    return root @ root.T / root.shape[1] + damping * torch.eye(size, dtype=torch.float64)


def draw_vector(size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=make_generator(seed), dtype=torch.float64)


def build_double(case: str, masks: Masks | None = None) -> Evidence:
    model, batches = cases.awkward(case)
    model.double()
    if masks is not None:
        apply_masks_(model, masks)
    return Evidence(model, masks, [(x.double(), y) for x, y in batches])


def mask_half(case: str) -> Masks:
    return cases.half_masks(cases.awkward(case)[0])


def draw_masks(masks: Masks, fraction: float = 0.6, seed: int = 5) -> Masks:
    """Draw masks nested in the given ones."""
    generator = make_generator(seed)
    return {
        name: mask & (torch.rand(mask.shape, generator=generator) < fraction)
        for name, mask in masks.items()
    }


# the algebra


def compute_brute_cost(h: Tensor, theta: Tensor, gone: list[int]) -> float:
    """Compute 1/2 theta_Q^T ([H^-1]_QQ)^-1 theta_Q, as printed."""
    block = torch.linalg.inv(h)[gone][:, gone]
    return 0.5 * float(theta[gone] @ torch.linalg.inv(block) @ theta[gone])


def compute_brute_move(h: Tensor, theta: Tensor, gone: list[int]) -> Tensor:
    """Compute -H^-1 E_Q ([H^-1]_QQ)^-1 theta_Q, as printed."""
    whole = torch.linalg.inv(h)
    return -whole[:, gone] @ torch.linalg.inv(whole[gone][:, gone]) @ theta[gone]


def keep_all_but(size: int, gone: list[int]) -> Tensor:
    keep = torch.ones(size, dtype=torch.bool)
    keep[gone] = False
    return keep


@pytest.mark.parametrize(
    "gone", [list(q) for n in range(6) for q in itertools.combinations(range(5), n)]
)
def test_removal_is_the_exact_update_for_every_subset(gone: list[int]) -> None:
    h = draw_positive_definite(5)
    theta = draw_vector(5)
    move = solve_removal(h, theta, keep_all_but(5, gone))
    expected = compute_brute_move(h, theta, gone) if gone else torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(move, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(move[gone], -theta[gone])
    assert float(0.5 * move @ h @ move) == pytest.approx(
        compute_brute_cost(h, theta, gone) if gone else 0.0, rel=1e-10
    )


def test_removal_solves_the_constrained_problem_and_no_feasible_move_is_cheaper() -> None:
    h = draw_positive_definite(7)
    theta = draw_vector(7)
    gone = [1, 2, 5]
    move = solve_removal(h, theta, keep_all_but(7, gone))
    constraints = torch.eye(7, dtype=torch.float64)[gone]  # the stationary point of the Lagrangian
    system = torch.cat(
        [
            torch.cat([h, constraints.T], 1),
            torch.cat([constraints, torch.zeros(3, 3, dtype=torch.float64)], 1),
        ]
    )
    right = torch.cat([torch.zeros(7, dtype=torch.float64), -theta[gone]])
    torch.testing.assert_close(move, torch.linalg.solve(system, right)[:7], rtol=1e-10, atol=1e-12)
    least = float(move @ h @ move)
    for seed in range(50):
        other = move + draw_vector(7, seed).masked_fill(~keep_all_but(7, gone), 0.0)
        assert float(other @ h @ other) > least


def test_one_weight_is_the_textbook_formula() -> None:
    h = draw_positive_definite(6)
    theta = draw_vector(6)
    whole = torch.linalg.inv(h)
    for q in range(6):
        move = solve_removal(h, theta, keep_all_but(6, [q]))
        torch.testing.assert_close(
            move, -theta[q] / whole[q, q] * whole[:, q], rtol=1e-10, atol=1e-12
        )
        assert compute_brute_cost(h, theta, [q]) == pytest.approx(
            float(theta[q] ** 2 / (2 * whole[q, q]))
        )


def test_removal_takes_batches_and_broadcasts_one_curvature() -> None:
    h = torch.stack([draw_positive_definite(4), draw_positive_definite(4, 3)])
    theta = torch.stack([draw_vector(4, seed) for seed in range(2)])
    keep = torch.tensor([[True, False, True, False], [False, False, False, True]])
    for index in range(2):
        torch.testing.assert_close(
            solve_removal(h, theta, keep)[index], solve_removal(h[index], theta[index], keep[index])
        )
        torch.testing.assert_close(
            solve_removal(h[0], theta, keep)[index], solve_removal(h[0], theta[index], keep[index])
        )


def test_what_is_not_positive_definite_is_refused_by_name() -> None:
    with pytest.raises(ScoreError, match=r"1 of 2 curvature matrices .* more damping"):
        factor_cholesky(torch.stack([torch.eye(2), torch.ones(2, 2) - 2 * torch.eye(2)]))
    with pytest.raises(ScoreError):
        invert(torch.full((2, 2), math.nan))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 3), (7, 10), (100, 9), (3, 1000)])
def test_chunks_cover_everything_within_bounds(
    count: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning.evidence.quadratic_models, "ELEMENTS", 20)
    parts = list(split_matrices(count, size))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) * size <= max(20, size)
    assert max(lengths) - min(lengths) <= max(lengths) - 1 or len(set(lengths)) == 1


def order_naively(h: Tensor, w: Tensor, alive: list[int]) -> list[tuple[int, float]]:
    """Order the removals of one row, with a solve of its own for each candidate at each step."""
    w = w.clone()
    alive = list(alive)
    order = []
    while alive:
        whole = torch.linalg.inv(h[alive][:, alive])
        prices = [float(w[p] ** 2 / (2 * whole[i, i])) for i, p in enumerate(alive)]
        i = min(range(len(alive)), key=lambda i: prices[i])
        p = alive[i]
        w[alive] -= w[p] / whole[i, i] * whole[:, i]
        w[p] = 0.0
        order.append((p, prices[i]))
        alive.remove(p)
    return order


@pytest.mark.parametrize(("size", "panel"), [(1, 32), (2, 1), (9, 1), (9, 4), (9, 32), (75, 32)])
@pytest.mark.parametrize("masked", [False, True])
def test_order_of_removal_agrees_with_one_row_at_a_time(
    size: int, panel: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning.evidence.quadratic_models, "PANEL", panel)
    rows = 4
    h = torch.stack(
        [draw_positive_definite(size, seed, rank=max(1, size // 2)) for seed in range(rows)]
    )
    theta = torch.stack([draw_vector(size, 10 + seed) for seed in range(rows)])
    alive = (
        torch.rand(rows, size, generator=make_generator(2)) < 0.6
        if masked
        else torch.ones(rows, size, dtype=torch.bool)
    )
    if masked:
        alive[1] = False
        alive[2] = True
    before = theta.clone(), alive.clone()
    costs = compute_removal_costs(invert(restrict_curvature(h, alive)), theta, alive)
    assert torch.equal(theta, before[0])
    assert torch.equal(alive, before[1])
    for row in range(rows):
        expected = order_naively(h[row], theta[row], alive[row].nonzero().flatten().tolist())
        living = [p for p in costs[row].argsort(stable=True).tolist() if alive[row, p]]
        assert living == [p for p, _ in expected]
        raised = list(itertools.accumulate((cost for _, cost in expected), max))
        torch.testing.assert_close(
            costs[row, living], torch.tensor(raised, dtype=torch.float64), rtol=1e-7, atol=0
        )
        in_order = costs[row, living].tolist()
        assert all(earlier < later for earlier, later in itertools.pairwise([-1.0, *in_order]))
        assert not costs[row][~alive[row]].any()


def test_costs_grow_along_the_order_even_where_removals_cost_nothing() -> None:
    eye = torch.eye(5, dtype=torch.float64)[None]
    costs = compute_removal_costs(
        eye, torch.zeros(1, 5, dtype=torch.float64), torch.ones(1, 5, dtype=torch.bool)
    )
    assert len(set(costs.flatten().tolist())) == 5
    assert costs.max() < 1e-300


def test_costs_of_all_removals_add_up_to_the_whole() -> None:
    """Without a raise, the increments of a row sum to 1/2 w^T H w: all weights are removed."""
    h = draw_positive_definite(6)
    theta = draw_vector(6)
    order = order_naively(h, theta, list(range(6)))
    assert sum(cost for _, cost in order) == pytest.approx(float(0.5 * theta @ h @ theta))


# the Hessians of the layers


def record_inputs(model: nn.Module, name: str, batches: Any) -> list[tuple[nn.Module, Tensor]]:
    """Record every call of the layers that own the weight, with its inputs."""
    weight = model.get_parameter(name)
    calls: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: calls.append((module, inputs[0].detach()))
        )
        for module in model.modules()
        if getattr(module, "weight", None) is weight
    ]
    model.eval()
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
    for hook in hooks:
        hook.remove()
    return calls


def compute_row_outputs(layer: nn.Module, inputs: Tensor, row: int, w: Tensor) -> Tensor:
    """Compute the contribution of one row of the weight to the layer's output.

    It covers all images and positions, without the bias.
    """
    weight = torch.zeros_like(layer.weight.detach())  # type: ignore[operator]
    weight = torch.cat([weight[:row], w.reshape(1, *weight.shape[1:]), weight[row + 1 :]])
    out = torch.func.functional_call(
        layer,
        {
            "weight": weight,
            **({"bias": torch.zeros(len(weight), dtype=w.dtype)} if layer.bias is not None else {}),
        },
        (inputs,),
    )
    return out.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0)[row].flatten()


def compute_row_jacobian(evidence: Evidence, name: str, row: int) -> Tensor:
    """Compute d outputs / d one row of the weight, (outputs, K).

    The layer is linear: it is called with unit weights.
    """
    units = torch.eye(evidence.weights[name][row].numel(), dtype=torch.float64)
    with torch.no_grad():
        return torch.cat(
            [
                torch.stack([compute_row_outputs(layer, inputs, row, unit) for unit in units], 1)
                for layer, inputs in record_inputs(evidence.model, name, evidence.batches)
            ]
        )


def count_images(evidence: Evidence) -> int:
    return sum(len(labels) for _, labels in evidence.batches)


CONVOLUTIONS = {
    "dilated": nn.Conv2d(2, 4, 3, padding=2, dilation=2),
    "reflected": nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
    "uneven": nn.Conv2d(2, 2, (1, 3), stride=(2, 1), padding=(0, 1), groups=2),
    "multiplier": nn.Conv2d(2, 6, 3, padding="same", groups=2, bias=False),
}


def build_convolution(name: str) -> Evidence:
    model = nn.Sequential(
        CONVOLUTIONS[name],
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CONVOLUTIONS[name].out_channels, 3),
    ).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in (model[0], model[4]):
            layer.reset_parameters()  # type: ignore[operator]
    images = torch.randn(8, 2, 5, 5, generator=make_generator(), dtype=torch.float64)
    return Evidence(
        model, batches=[(images[:5], torch.arange(5) % 3), (images[5:], torch.arange(3) % 3)]
    )


EVERYTHING = [case for case in cases.AWKWARD if case not in ("mixed_modes", "flat_batchnorm")]


def build_evidence(case: str, masks: Masks | None = None) -> Evidence:
    return build_convolution(case) if case in CONVOLUTIONS else build_double(case, masks)


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


# exact_obs


def damp_hessian(h: Tensor, damping: float) -> Tensor:
    """Damp the Hessian of one group as `exact_obs` does."""
    h = h.clone()
    live = [i for i in range(len(h)) if h[i, i] > 0]
    mean = sum(float(h[i, i]) for i in live) / max(1, len(live))
    for i in range(len(h)):
        h[i, i] = h[i, i] + damping * mean if i in live else 1.0
    return h


@pytest.mark.parametrize("elements", [1, 2**23])
@pytest.mark.parametrize("masked", [False, True])
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


@pytest.mark.parametrize("case", [*EVERYTHING, *CONVOLUTIONS])
@pytest.mark.parametrize("fraction", [0.2, 0.6])
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


# obs


def compute_groups_by_hand(evidence: Evidence, groups: int) -> list[Scores]:
    """Compute the gradient of each group's mean loss by a backward pass for each image."""
    images = [(x[i : i + 1], y[i : i + 1]) for x, y in evidence.batches for i in range(len(y))]
    m = min(groups, len(images))
    model = evidence.model.eval()
    gradients = []
    for group in range(m):
        members = [image for index, image in enumerate(images) if index * m // len(images) == group]
        total = {name: torch.zeros_like(weight) for name, weight in evidence.weights.items()}
        for x, y in members:
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            for name in total:
                gradient = model.get_parameter(name).grad
                if gradient is not None:
                    total[name] += gradient / len(members)
        model.zero_grad()
        gradients.append({name: value * evidence.masks[name] for name, value in total.items()})
    return gradients


def compute_fisher_by_hand(
    evidence: Evidence, name: str, groups: int, damping: float, size: int
) -> Tensor:
    """Compute the whole Fisher, (N, N), zero between blocks."""
    gradients = torch.stack(
        [gradient[name].flatten() for gradient in compute_groups_by_hand(evidence, groups)]
    )
    fisher = gradients.T @ gradients / len(gradients) + damping * torch.eye(
        gradients.shape[1], dtype=torch.float64
    )
    block = torch.arange(gradients.shape[1]) // size
    return fisher * (block[:, None] == block[None, :])


NETWORKS = [
    "plain",
    "grouped",
    "depthwise",
    "strided",
    "tied",
    "frozen",
    "one_weight",
    "zero_weights",
    "flat_batchnorm",
]


@pytest.mark.parametrize("groups", [1, 2, 3, 6, 7, 250])
def test_group_gradients_are_the_means_over_groups_of_images(groups: int) -> None:
    evidence = build_double("plain", mask_half("plain"))
    group_gradients = compute_group_gradients(evidence, groups)
    expected = compute_groups_by_hand(evidence, groups)
    for name in evidence.weights:
        assert group_gradients[name].shape == (min(groups, 7), evidence.weights[name].numel())
        torch.testing.assert_close(
            group_gradients[name], torch.stack([gradient[name].flatten() for gradient in expected])
        )
        assert not group_gradients[name][:, ~evidence.masks[name].flatten()].any()


@pytest.mark.parametrize("case", NETWORKS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("size", "elements"), [(1, 2**23), (3, 2**23), (3, 1), (7, 40), (500, 2**23)]
)
def test_obs_agrees_with_the_explicit_fisher(
    case: str, masked: bool, size: int, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning.evidence.quadratic_models, "ELEMENTS", elements)
    evidence = build_double(case, mask_half(case) if masked else None)
    criterion = OBS(block_size=size, damping=1e-3, gradients=4)
    masks = draw_masks(evidence.masks)
    scores = criterion.score(evidence)
    weights = criterion.compensate(evidence, masks)
    cost = plain = 0.0
    for name, weight in evidence.weights.items():
        fisher = compute_fisher_by_hand(evidence, name, 4, 1e-3, size)
        whole = torch.linalg.inv(fisher)
        theta = weight.flatten()
        torch.testing.assert_close(
            scores[name].flatten(), theta.square() / (2 * whole.diagonal()), rtol=1e-8, atol=1e-15
        )
        gone = (evidence.masks[name] & ~masks[name]).flatten().nonzero().flatten().tolist()
        move = compute_brute_move(fisher, theta, gone) if gone else torch.zeros_like(theta)
        torch.testing.assert_close(weights[name].flatten(), theta + move, rtol=1e-8, atol=1e-11)
        assert not weights[name][~masks[name]].any()
        cost += compute_brute_cost(fisher, theta, gone) if gone else 0.0
        away = torch.zeros_like(theta)
        away[gone] = theta[gone]
        plain += 0.5 * float(away @ fisher @ away)
    assert criterion.predict(evidence, masks) == pytest.approx(cost, rel=1e-8)
    still = OBS(block_size=size, damping=1e-3, gradients=4, update=False)
    assert still.predict(evidence, masks) == pytest.approx(plain, rel=1e-8)
    assert cost <= plain * (1 + 1e-9)
    for name, weight in still.compensate(evidence, masks).items():
        assert torch.equal(weight, evidence.weights[name].masked_fill(~masks[name], 0.0))
        assert torch.equal(still.score(evidence)[name], scores[name])


def test_blocks_of_one_are_the_diagonal() -> None:
    evidence = build_double("plain")
    scores = OBS(block_size=1, damping=0.01).score(evidence)
    gradients = compute_groups_by_hand(evidence, 7)
    for name, weight in evidence.weights.items():
        diagonal = sum(gradient[name].square() for gradient in gradients) / 7 + 0.01
        torch.testing.assert_close(scores[name], weight.square() * diagonal / 2)
    masks = draw_masks(evidence.masks)
    for name, weight in OBS(block_size=1).compensate(evidence, masks).items():
        assert torch.equal(weight, evidence.weights[name].masked_fill(~masks[name], 0.0))


def test_masked_weights_move_nothing_and_are_moved_by_nothing() -> None:
    masks = mask_half("plain")
    evidence = build_double("plain", masks)
    weights = OBS().compensate(evidence, masks)
    assert all(torch.equal(weights[name], evidence.weights[name]) for name in weights)
    assert OBS().predict(evidence, masks) == 0.0


def test_float32_models_keep_their_type_and_agree() -> None:
    model, batches = cases.awkward("plain")
    evidence = Evidence(model, batches=batches)
    other = build_double("plain")
    masks = draw_masks(evidence.masks)
    criterion = OBS(damping=1e-3)
    assert compute_group_gradients(evidence, 250)["1.weight"].dtype == torch.float32
    for name, weight in criterion.compensate(evidence, masks).items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(
            weight.double(), criterion.compensate(other, masks)[name], rtol=1e-3, atol=1e-5
        )
    for name, score in criterion.score(evidence).items():
        assert score.dtype == torch.float64
        torch.testing.assert_close(score, criterion.score(other)[name], rtol=1e-3, atol=1e-8)


def test_a_fisher_lost_to_rounding_is_refused_by_name() -> None:
    layer = nn.Linear(4, 3)
    evidence = Evidence(
        layer, batches=[(1e12 * torch.randn(5, 4, generator=make_generator()), torch.arange(5) % 3)]
    )
    with pytest.raises(ScoreError, match="more damping"):
        OBS(damping=1e-12).score(evidence)


def test_the_fisher_is_computed_once_for_each_point() -> None:
    evidence = build_double("plain")
    calls: list[int] = []
    evidence.model.register_forward_hook(lambda *_: calls.append(1))
    criterion = OBS()
    criterion.score(evidence)
    first = len(calls)
    criterion.predict(evidence, draw_masks(evidence.masks))
    criterion.compensate(evidence, draw_masks(evidence.masks))
    assert len(calls) == first
    OBS(gradients=3).score(evidence)
    assert len(calls) == 2 * first


def test_what_is_computed_once_goes_with_its_evidence() -> None:
    made: list[weakref.ref[Tensor]] = []

    @once_per_evidence
    def compute(evidence: Evidence, factor: float = 1.0) -> Tensor:
        result = torch.full((2,), factor)
        made.append(weakref.ref(result))
        return result

    evidence = Evidence(nn.Linear(1, 1))
    other = Evidence(nn.Linear(1, 1))
    assert compute(evidence) is compute(evidence)
    assert compute(evidence, factor=2.0) is compute(evidence, factor=2.0) is not compute(evidence)
    assert compute(other) is not compute(evidence)
    assert len(made) == 3
    del evidence
    gc.collect()
    assert [reference() is None for reference in made] == [True, True, False]


# a whole round


def train_network() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """Train a network on its few images, so that a model of its loss is meaningful."""
    data = cases.make_data()
    model = cases.mlp()
    batches = list(data.batches(data.fit, 16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(60):
        for inputs, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model, batches


def prune_in_rounds(
    name: str, params: dict[str, Any], *targets: float
) -> tuple[nn.Module, Masks, list[StageLoss | None], list[Masks]]:
    model, batches = train_network()
    masks = build_full_masks(find_prunable(model))
    stages: list[StageLoss | None] = []
    points: list[Masks] = []
    for target in targets:

        def evidence(masks: Masks, stage: int) -> Evidence:
            for key, mask in masks.items():
                assert not model.get_parameter(key)[~mask].detach().any(), (
                    "a masked weight came back"
                )
            points.append(masks)
            return Evidence(model, masks, batches)

        masks = prune_(
            model,
            masks,
            target,
            PruningMethod.of(cases.recipe(0.5), Method(name=name, params=params)),
            evidence,
            generator=make_generator(),
            on_stage=stages.append,
        )
    return model, masks, stages, points


@pytest.mark.parametrize(
    ("name", "params", "stages"),
    [
        ("obs", {"pi": 2}, 4),
        ("obs", {"pi": 2, "block_size": 5}, 4),
        ("obs", {"pi": 1, "update": False}, 2),
        ("exact_obs", {}, 2),
    ],
)
def test_rounds_are_deterministic_and_leave_masked_weights_zero(
    name: str, params: dict[str, Any], stages: int
) -> None:
    first, masks, losses, points = prune_in_rounds(name, params, 0.6, 0.3)
    second, again, *_ = prune_in_rounds(name, params, 0.6, 0.3)
    assert len(losses) == len(points) == stages
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == total - round(0.7 * total)
    for earlier, later in itertools.pairwise([*points, masks]):
        assert all(not (later[key] & ~earlier[key]).any() for key in later)
    for key, mask in masks.items():
        assert torch.equal(mask, again[key])
        assert torch.equal(first.get_parameter(key), second.get_parameter(key))
        assert not first.get_parameter(key)[~mask].detach().any()
    if name == "obs":
        assert all(
            stage is not None and stage.predicted >= 0 and math.isfinite(stage.predicted)
            for stage in losses
        )


def test_four_stages_at_a_point_that_moves() -> None:
    assert OBS().stage_densities(1.0, 0.0625) == pytest.approx([0.5, 0.25, 0.125, 0.0625])
    assert OBS().stage_densities(1.0, 0.0625)[-1] == 0.0625


def test_the_update_preserves_the_loss_better_than_masking() -> None:
    after = {}
    for update in (True, False):
        _, _, losses, _ = prune_in_rounds("obs", {"pi": 1, "update": update, "damping": 1e-4}, 0.6)
        assert losses[0] is not None
        after[update] = losses[0].after
    assert after[True] < after[False]


@pytest.mark.parametrize("name", ["obs", "exact_obs"])
@pytest.mark.parametrize("case", cases.AWKWARD)
def test_awkward_networks_get_finite_scores_weights_and_predictions(name: str, case: str) -> None:
    model, batches = cases.awkward(case)
    masks = cases.half_masks(model)
    apply_masks_(model, masks)
    evidence = Evidence(model, masks, batches)
    criterion: Any = criteria.create(name)
    mask_scores(evidence, criterion.score(evidence))
    after = draw_masks(masks)
    for key, weight in criterion.compensate(evidence, after).items():
        assert torch.isfinite(weight).all()
        assert weight.shape == evidence.weights[key].shape
        assert weight.dtype == evidence.weights[key].dtype
        assert not weight[~after[key]].any()
    if name == "obs":
        assert math.isfinite(criterion.predict(evidence, after))


def test_the_error_of_layers_is_not_comparable_so_the_default_is_uniform() -> None:
    assert (
        PruningMethod.of(cases.recipe(0.5), Method(name="exact_obs")).allocation
        == PruningMethod.of(
            cases.recipe(0.5, allocation={"name": "uniform"}), Method(name="magnitude")
        ).allocation
    )
