"""PFP: how many channels a layer keeps for a relative error.

Source: Liebenwein, Baykal, Lang, Feldman and Rus, Provable filter pruning for efficient neural networks, ICLR 2020, and the
code released with it.
"""

from __future__ import annotations

from torch import Tensor

from pruning.bounds.draws import expected_distinct

LARGEST = 1e300


def channels(coefficients: Tensor, epsilon: float) -> float:
    """E[distinct] = sum_j 1 - (1 - p_j)^m of m = 3 (6 + 2 epsilon) c / epsilon^2 draws, c = sum_j c_j, p_j = c_j / c.

    `coefficients` (C,) are alpha_l s_j, a channel's sensitivity times its layer's constant, none below 0. The released code
    rounds m up and keeps at least one channel; here both are left to the rounding of the whole budget.

    >>> import torch
    >>> c = torch.tensor([3.0, 1.0, 0.0])
    >>> [round(channels(c, epsilon), 3) for epsilon in (0.1, 10.0, 100.0)]
    [2.0, 1.579, 0.359]
    """
    total = float(coefficients.double().sum())
    if total <= 0:
        return 0.0
    draws = min(LARGEST, 3 * (6 + 2 * epsilon) * total / epsilon / epsilon if epsilon > 1e-140 else LARGEST)
    return float(expected_distinct(coefficients.double() / total, draws))
