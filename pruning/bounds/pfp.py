"""PFP: how many channels a layer keeps for a relative error.

Source: Liebenwein, Baykal, Lang, Feldman and Rus, Provable filter pruning for efficient neural
networks, ICLR 2020, and the code released with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pruning.bounds.draws import expected_distinct
from pruning.bounds.forms import Paper, PrunedLayer

LARGEST = 1e300
"""The number of draws that stands for infinitely many."""


def expect_channels(coefficients: Tensor, epsilon: float) -> Tensor:
    """E[distinct] = sum_j 1 - (1 - p_j)^m of m = 3 (6 + 2 epsilon) c / epsilon^2 draws, c = sum_j
    c_j, p_j = c_j / c, of each row.

    `coefficients` (..., C) are alpha_l s_j, a channel's sensitivity times its layer's constant,
    none below 0. The released code rounds m up and keeps at least one channel; here both are left
    to the rounding of the whole budget.

    >>> import torch
    >>> c = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    >>> for epsilon in (0.1, 10.0, 100.0):
    ...     print([round(channels, 3) for channels in expect_channels(c, epsilon).tolist()])
    [2.0, 0.0]
    [1.579, 0.0]
    [0.359, 0.0]
    """
    values = coefficients.double()
    totals = values.sum(-1)
    draws = torch.full_like(totals, LARGEST)
    if epsilon > 1e-140:  # the square of a smaller one is 0
        draws = (3 * (6 + 2 * epsilon) * totals / epsilon / epsilon).clamp_max(LARGEST)
    positive = totals.where(totals > 0, torch.ones_like(totals))
    return expected_distinct(values / positive[..., None], draws)


def bound_errors(layer: PrunedLayer, alpha: float, delta: float, c: float) -> Paper:
    """u + sqrt(u^2 + 6 u), u = 3 alpha S / m, times the sum of the sizes of an output's terms.

    Without draws, C kappa sum_(j pruned) s_j times it. The scores are alpha s. Assumes that no
    weight of channel j ever takes a larger part than C s_j.
    """
    undrawn = c * layer.kernel / alpha

    def error(sums: Tensor, draws: Tensor, constant: float | Tensor = undrawn) -> Tensor:
        u = 3 * sums / draws.clamp_min(1)
        return layer.scale_to_sizes(u + (u * u + 6 * u).sqrt(), constant)

    sums = layer.score_sums
    smallest_c = layer.inflation * alpha / layer.kernel
    swaps = {"C as it is here": error(sums * smallest_c / c, layer.draws, undrawn * smallest_c / c)}
    if layer.sampled:
        alpha_alone = 2 * c * math.log(2 / delta)
        swaps |= {
            "no union bound": error(sums * (alpha_alone / alpha), layer.draws),
            "the sensitivity sum as it is here": error(torch.full_like(sums, alpha), layer.draws),
            "distinct channels for draws": error(sums, layer.distinct),
        }
    else:
        swaps["sensitivities as they are here"] = layer.pruned_size.sum(0)
    assumption = layer.check_assumption(smallest_c, c)
    return Paper(error(sums, layer.draws), swaps, assumption)
