"""Draws with replacement: the expected number of distinct terms, and the draws that yield it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

ROUNDING = 1e-6
"""The rounding of a few draws with probabilities that should sum to 1."""
MOST = 1e15
"""The most draws that are looked for: with more, all but negligible probabilities are drawn."""


def expected_distinct(probabilities: Tensor, draws: Tensor | float) -> Tensor:
    """sum_j 1 - (1 - p_j)^m over the last dimension, float64.

    `draws` (m) broadcasts against the other dimensions.

    >>> expected_distinct(torch.tensor([0.5, 0.5]), 2)
    tensor(1.5000, dtype=torch.float64)
    """
    p = probabilities.double()
    m = torch.as_tensor(draws, dtype=torch.float64, device=p.device)[..., None]
    certain = (p >= 1) & (m > 0)
    log_missed = m * torch.log1p(-p.clamp_max(1 - 2.0**-53))  # the largest float64 below 1
    return torch.where(certain, 1.0, -torch.expm1(log_missed)).sum(-1)


def find_draws(probabilities: Tensor, distinct: Tensor) -> Tensor:
    """The most draws with E[distinct] <= `distinct` in every row, int64; 0 for 0.

    `probabilities` (..., K), `distinct` (...). The code of SiPP takes any number of draws whose
    expectation rounds up to `distinct`; the most of them spends the budget.

    >>> p = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
    >>> find_draws(p, torch.tensor([2, 1])), find_draws(p, torch.tensor([1, 0]))
    (tensor([2, 1]), tensor([1, 0]))
    """
    limit = distinct.double() + ROUNDING
    few = torch.zeros_like(limit)
    many = torch.full_like(limit, MOST)
    while bool((many - few > 1).any()):  # bisection: `few` fits, `many` does not
        middle = ((few + many) / 2).floor()
        fits = expected_distinct(probabilities, middle) <= limit
        few = torch.where(fits, middle, few)
        many = torch.where(fits, many, middle)
    return torch.where(distinct > 0, few, torch.zeros_like(few)).long()


def draw_multiplicities(probabilities: Tensor, draws: Tensor, generator: Generator) -> Tensor:
    """The number of times each term is drawn in `draws` draws with replacement; float64, (R, K).

    `probabilities` (R, K) are nonnegative and need not sum to 1; rows of zeros give zeros.

    >>> draw_multiplicities(
    ...     torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([3, 3]), torch.Generator()
    ... )
    tensor([[0., 3.],
            [0., 0.]], dtype=torch.float64)
    """
    seed = int(torch.randint(2**62, (1,), generator=generator))
    p = probabilities.double().cpu().numpy()
    sums = p.sum(1, keepdims=True)
    empty = ~(sums[:, 0] > 0)
    p = np.where(sums > 0, p / np.where(sums > 0, sums, 1.0), 0.0)
    p[empty, -1:] = 1.0  # numpy wants probabilities; the draws of these rows are discarded
    multiplicities = np.random.default_rng(seed).multinomial(draws.cpu().numpy(), p)
    counts = multiplicities.astype(np.float64)
    counts[empty] = 0.0
    return torch.from_numpy(counts).to(probabilities.device)
