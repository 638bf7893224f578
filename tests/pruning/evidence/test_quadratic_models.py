"""Optimal brain surgeon: the algebra that the Fisher and the Hessians of layers share."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import pruning.evidence.quadratic_models
from pruning.errors import ScoreError
from pruning.evidence.quadratic_models import (
    compute_removal_costs,
    factor_cholesky,
    invert,
    restrict_curvature,
    solve_removal,
    split_matrices,
)
from tests.support.quadratic_cases import (
    compute_brute_cost,
    compute_brute_move,
    draw_positive_definite,
    draw_vector,
    order_naively,
)
from tests.support.seeds import make_generator

pytestmark = pytest.mark.usefixtures("same_layers")


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
