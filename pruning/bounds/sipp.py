"""SiPP's error of a filter's side, and the budget spent for the smallest sum of errors.

Source: Baykal et al., SiPPing neural networks, 2019, and the code released with it, whose forms
these are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pruning.bounds.forms import Paper, PrunedLayer

DELTA = 1e-16
C = 3.0
STEPS = 8
"""The number of Newton steps after which v is exact: the slope of ln h in ln v, between 1.5 and 2,
hardly varies.
"""


def coefficient(positions: int, kernel: int, delta: float = DELTA, c: float = C) -> float:
    """alpha = 2 C ln(8 (P + 1) kappa / delta), P output positions, kappa the kernel's area."""
    return 2 * c * math.log(8 * (positions + 1) * kernel / delta)


def epsilon(coefficients: Tensor, kept: Tensor) -> Tensor:
    """The relative error of every side, (u + sqrt(u^2 + 6 u)) / 2, infinite for m = 0.

    u = c_i / (3 m_i), c_i = alpha S_i.

    >>> c = coefficient(positions=1, kernel=1) * torch.tensor([1.75, 1.75], dtype=torch.float64)
    >>> [round(float(error), 4) for error in epsilon(c, torch.tensor([100, 10_000]))]
    [2.2933, 0.1513]
    """
    u = coefficients.double() / (3 * kept.double())
    error = (u + (u * u + 6 * u).sqrt()) / 2
    return torch.where(coefficients == 0, 0.0, torch.where(kept > 0, error, math.inf))


def invert_bernstein(coefficients: Tensor, kept: Tensor) -> Tensor:
    """The relative error of every side by the theorem, v + sqrt(v^2 + 6 v), infinite for m = 0.

    It solves Bernstein's inequality m = (6 + 2 epsilon) C S ln(8 (P + 1) kappa / delta) / (3
    epsilon^2) for epsilon: v = c_i / (6 m_i), as c_i = alpha S_i holds the logarithm twice. The
    code halves the result instead, so that its form is smaller, by up to sqrt(2).

    >>> c, m = torch.tensor([2.0], dtype=torch.float64), torch.tensor([1e9])
    >>> round(float(invert_bernstein(c, m) / epsilon(c, m)), 3)
    1.414
    """
    v = coefficients.double() / (6 * kept.double())
    error = v + (v * v + 6 * v).sqrt()
    return torch.where(coefficients == 0, 0.0, torch.where(kept > 0, error, math.inf))


def spend_budget(coefficients: Tensor, weights: Tensor, limits: Tensor, budget: float) -> Tensor:
    """The m_i that minimise sum_i l_i epsilon_i(m_i) with sum m_i = budget and 0 <= m_i <= limit_i;
    float64.

    `coefficients` are c_i, `weights` are l_i. epsilon_i is convex in m_i, so at the minimum
    -l_i epsilon_i'(m_i) is one number for all sides inside their limits; with v = c_i / (3 m_i) and
    h(v) = v^2 (1 + (v + 3) / sqrt(v^2 + 6 v)), it is l_i 3 / (2 c_i) h(v); that number is found by
    bisection. Sides with c_i = 0 need nothing. Nothing is left over unless all limits are reached.
    """
    c = coefficients.double()
    limits = torch.where(c > 0, limits.double(), 0.0)
    if float(limits.sum()) <= budget:
        return limits
    log_scale = (weights.double() * 1.5 / c.clamp_min(torch.finfo(torch.float64).tiny)).log()

    def keep_at_price(log_price: float) -> Tensor:
        """The m_i at which one more would lower the sum by the price."""
        log_h = log_price - log_scale
        log_v = log_h / 1.75
        for _ in range(STEPS):
            v = log_v.exp()
            square = v * v + 6 * v
            ratio = (v + 3) / square.sqrt()
            slope = 2 - 9 * v / (square * square.sqrt() * (1 + ratio))
            log_v = log_v - (2 * log_v + torch.log1p(ratio) - log_h) / slope
        return torch.where(c > 0, torch.minimum(c / (3 * log_v.exp()), limits), 0.0)

    cheap, dear = -300.0, 300.0
    while cheap < (middle := (cheap + dear) / 2) < dear:
        if float(keep_at_price(middle).sum()) > budget:
            cheap = middle
        else:
            dear = middle
    return keep_at_price(dear)


def bound_errors(
    layer: PrunedLayer, alpha: float, delta: float, c: float, *, scaled: bool
) -> Paper:
    """epsilon_i times the sum of the sizes of each side, as in the code, and beside it the paper's
    form, `invert_bernstein`; without draws, C sum_(j pruned) s_j times the sizes in both.

    The scores are alpha s where `scaled`, else s. Assumes g_j <= C s_j.
    """
    sums = layer.score_sums * (1.0 if scaled else alpha)
    undrawn = c / alpha if scaled else c

    def error(sums: Tensor, draws: Tensor, constant: float | Tensor = undrawn) -> Tensor:
        return layer.scale_to_sizes(epsilon(sums, draws.clamp_min(0)), constant)

    smallest_c = layer.inflation * (alpha if scaled else 1.0)
    swaps = {"C as it is here": error(sums * smallest_c / c, layer.draws, undrawn * smallest_c / c)}
    if layer.sampled:
        alpha_alone = 2 * c * math.log(2 / delta)
        swaps |= {
            "no union bound": error(sums * (alpha_alone / alpha), layer.draws),
            "the sensitivity sum as it is here": error(torch.full_like(sums, alpha), layer.draws),
            "distinct weights for draws": error(sums, layer.distinct),
        }
    code_error = error(sums, layer.draws)
    if bool((layer.law.draws < 0).any()):
        swaps["sensitivities as they are here"] = _replace_pruned(layer, code_error, undrawn)
    theorem = layer.scale_to_sizes(invert_bernstein(sums, layer.draws.clamp_min(0)), undrawn)
    return Paper(
        code_error,
        swaps,
        layer.check_assumption(smallest_c, c),
        forms={"paper": theorem},
        form="code",
    )


def _replace_pruned(layer: PrunedLayer, error: Tensor, constant: float) -> Tensor:
    """The error with what is pruned in rows without draws taken as large as it is at each input."""
    undrawn = layer.draws < 0
    assumed = constant * layer.score_sums * layer.lost * layer.sums.size
    return (
        error
        - torch.where(undrawn, assumed, 0.0).sum(0)
        + torch.where(undrawn, layer.pruned_size, 0.0).sum(0)
    )
