"""Draws with replacement: how many distinct ones to expect, and how many draws give them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

ROUNDING = 1e-6
"""What probabilities that should sum to 1 may miss it by, times a few draws."""
MOST = 1e15
"""Draws; with more, whatever has a probability worth the name is drawn."""


def expected_distinct(probabilities: Tensor, draws: Tensor | float) -> Tensor:
    """sum_j 1 - (1 - p_j)^m over the last dimension, float64; `draws` broadcasts against the
    others.

    >>> expected_distinct(torch.tensor([0.5, 0.5]), 2)
    tensor(1.5000, dtype=torch.float64)
    """
    p = probabilities.double()
    m = torch.as_tensor(draws, dtype=torch.float64, device=p.device)[..., None]
    certain = (p >= 1) & (m > 0)
    return torch.where(certain, 1.0, -torch.expm1(m * torch.log1p(-p.clamp_max(1 - 2.0**-53)))).sum(
        -1
    )


def find_draws(probabilities: Tensor, distinct: Tensor) -> Tensor:
    """The most draws with E[distinct] <= distinct in every row, int64; none for none.

    `probabilities` (..., K), `distinct` (...). The code of SiPP takes any number of draws whose
    expectation rounds up to `distinct`; the most of them spends the budget.

    >>> p = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
    >>> find_draws(p, torch.tensor([2, 1])), find_draws(p, torch.tensor([1, 0]))
    (tensor([2, 1]), tensor([1, 0]))
    """
    wanted = distinct.double() + ROUNDING
    few, many = torch.zeros_like(wanted), torch.full_like(wanted, MOST)
    while bool((many - few > 1).any()):
        middle = ((few + many) / 2).floor()
        fits = expected_distinct(probabilities, middle) <= wanted
        few, many = torch.where(fits, middle, few), torch.where(fits, many, middle)
    return torch.where(distinct > 0, few, torch.zeros_like(few)).long()


def draw_multiplicities(probabilities: Tensor, draws: Tensor, generator: Generator) -> Tensor:
    """How often each is drawn in so many draws of every row, with replacement; float64, (R, K).

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
    some = sums[:, 0] > 0
    p = np.where(sums > 0, p / np.where(sums > 0, sums, 1.0), 0.0)
    p[~some, -1:] = 1.0
    found = np.random.default_rng(seed).multinomial(draws.cpu().numpy(), p).astype(np.float64)
    found[~some] = 0.0
    return torch.from_numpy(found).to(probabilities.device)
