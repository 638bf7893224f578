"""SiPP's error of a filter's side, and the budget spent so that the network's sum of errors is
smallest.

Source: Baykal et al., SiPPing neural networks, 2019, and the code released with it, whose forms
these are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pruning.bounds.forms import Paper, PrunedLayer

DELTA, C = 1e-16, 3.0
SLOPE, STEPS = 1.75, 20
"""ln h rises by 1.5 to 2 for every ln v: so many steps along a chord of the slope between find v
exactly.
"""


def coefficient(positions: int, kernel: int, delta: float = DELTA, c: float = C) -> float:
    """alpha = 2 C ln(8 (P + 1) kappa / delta), P output positions, kappa the kernel's area."""
    return 2 * c * math.log(8 * (positions + 1) * kernel / delta)


def epsilon(coefficients: Tensor, kept: Tensor) -> Tensor:
    """(u + sqrt(u^2 + 6 u)) / 2, u = c_i / (3 m_i), c_i = alpha S_i: relative error of every side;
    infinite for m = 0.

    >>> c = coefficient(positions=1, kernel=1) * torch.tensor([1.75, 1.75], dtype=torch.float64)
    >>> [round(float(one), 4) for one in epsilon(c, torch.tensor([100, 10_000]))]
    [2.2933, 0.1513]
    """
    u = coefficients.double() / (3 * kept.double())
    found = (u + (u * u + 6 * u).sqrt()) / 2
    return torch.where(coefficients == 0, 0.0, torch.where(kept > 0, found, math.inf))


def spend_budget(coefficients: Tensor, weights: Tensor, limits: Tensor, budget: float) -> Tensor:
    """The m_i that minimise sum_i l_i epsilon_i(m_i) with sum m_i = budget and 0 <= m_i <= limit_i;
    float64.

    epsilon_i is convex in m_i, so at the minimum -l_i epsilon_i'(m_i) is one number for all sides
    inside their limits; with v = c_i / (3 m_i) and h(v) = v^2 (1 + (v + 3) / sqrt(v^2 + 6 v)), it
    is l_i 3 / (2 c_i) h(v); that number is found by bisection. Sides with c_i = 0 need nothing.
    Nothing is left over unless all limits are reached.
    """
    c = coefficients.double()
    limits = torch.where(c > 0, limits.double(), 0.0)
    if float(limits.sum()) <= budget:
        return limits
    scale = weights.double() * 1.5 / c.clamp_min(torch.finfo(torch.float64).tiny)

    def kept(log_price: float) -> Tensor:
        wanted = log_price - scale.log()
        log_v = wanted / SLOPE
        for _ in range(STEPS):
            v = log_v.exp()
            log_v = (
                log_v - (2 * log_v + torch.log1p((v + 3) / (v * v + 6 * v).sqrt()) - wanted) / SLOPE
            )
        return torch.where(c > 0, torch.minimum(c / (3 * log_v.exp()), limits), 0.0)

    cheap, dear = -300.0, 300.0
    for _ in range(80):
        middle = (cheap + dear) / 2
        cheap, dear = (middle, dear) if float(kept(middle).sum()) > budget else (cheap, middle)
    return kept(dear)


def bound_errors(
    layer: PrunedLayer, alpha: float, delta: float, c: float, *, scaled: bool
) -> Paper:
    """epsilon_i times the sum of each side; C sum_(j pruned) s_j times it where nothing is drawn.
    Assumes g_j <= C s_j.

    The scores are alpha s where `scaled`, else s.
    """
    sums = layer.score_sums * (1.0 if scaled else alpha)
    fixed = c / alpha if scaled else c

    def error(coefficients: Tensor, counts: Tensor, constant: float | Tensor = fixed) -> Tensor:
        return layer.relative(epsilon(coefficients, counts.clamp_min(0)), constant)

    here = layer.inflation * (alpha if scaled else 1.0)  # max_j g_j / s_j
    swaps = {"C as it is here": error(sums * here / c, layer.draws, fixed * here / c)}
    if layer.sampled:
        swaps |= {
            "no union bound": error(sums * (2 * c * math.log(2 / delta) / alpha), layer.draws),
            "the sensitivity sum as it is here": error(torch.full_like(sums, alpha), layer.draws),
            "distinct weights for draws": error(sums, layer.distinct),
        }
    if bool((layer.law.draws < 0).any()):
        swaps["sensitivities as they are here"] = _pruned_here(
            layer, error(sums, layer.draws), fixed
        )
    return Paper(error(sums, layer.draws), swaps, layer.assumed(here, c))


def _pruned_here(layer: PrunedLayer, error: Tensor, constant: float) -> Tensor:
    """The error with what is pruned in rows without draws taken as large as it is at each input."""
    assumed = torch.where(
        layer.draws < 0, constant * layer.score_sums * layer.lost * layer.sums.size, 0.0
    ).sum(0)
    return error - assumed + torch.where(layer.draws < 0, layer.pruned_size, 0.0).sum(0)
