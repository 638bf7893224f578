"""Optimal brain surgeon: weights removed from quadratic models of a loss, many small models at
once, in float64.

For a model 1/2 delta^T H delta of what moving the weights theta by delta does to the loss, a set Q
of weights is removed at least cost, the set K of those kept making up for it, by

    delta_Q = -theta_Q,    delta_K = H_KK^-1 H_KQ theta_Q,    cost 1/2 theta_Q^T ([H^-1]_QQ)^-1 theta_Q,

which for Q = {q} is delta = -(theta_q / [H^-1]_qq) H^-1 e_q at cost theta_q^2 / (2 [H^-1]_qq).

Source: Hassibi and Stork, Second order derivatives for network pruning: optimal brain surgeon,
NeurIPS 1992; the order of removal by rows is that of Frantar and Alistarh, Optimal brain
compression, NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pruning.errors import ScoreError

ELEMENTS = 2**23
"""Of the largest batch of matrices that is held at a time: 64 MiB in float64."""
PANEL = 32
"""Removals between two updates of the whole inverse."""


def split_matrices(count: int, size: int) -> Iterator[slice]:
    """Slices of `count` matrices of `size` entries, of equal length as far as may be, each within
    `ELEMENTS`.

    >>> list(split_matrices(5, 2**22))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    parts = max(1, math.ceil(count / max(1, ELEMENTS // size)))
    length = math.ceil(count / parts)
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))


def restrict_curvature(curvature: Tensor, keep: Tensor) -> Tensor:
    """The curvature of the kept weights alone, the others with themselves: (..., b, b) from (...,
    b, b) and (..., b).

    >>> restrict_curvature(torch.tensor([[4.0, 2.0], [2.0, 5.0]]), torch.tensor([True, False]))
    tensor([[4., 0.],
            [0., 1.]])
    """
    both = keep.unsqueeze(-1) & keep.unsqueeze(-2)
    return torch.where(
        both, curvature, torch.eye(keep.shape[-1], dtype=curvature.dtype, device=curvature.device)
    )


def factor_cholesky(curvature: Tensor) -> Tensor:
    """The lower factors of (..., b, b); `ScoreError` where one is not positive definite to
    rounding.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(curvature)
    if bool(info.any()):
        raise ScoreError(
            f"{int((info != 0).sum())} of {info.numel()} curvature matrices are not positive "
            "definite to "
            "rounding; more damping makes them so"
        )
    return factor


def invert(curvature: Tensor) -> Tensor:
    """H^-1, (..., b, b); `ScoreError` as `factor_cholesky`."""
    return torch.cholesky_inverse(factor_cholesky(curvature))


def solve_removal(curvature: Tensor, theta: Tensor, keep: Tensor) -> Tensor:
    """The move of least cost that removes what `keep` does not keep: (..., b) from (..., b, b) and
    twice (..., b).

    delta_Q = -theta_Q, delta_K = H_KK^-1 H_KQ theta_Q. Weights that are zero already are among Q
    and cost nothing.

    >>> solve_removal(
    ...     torch.tensor([[4.0, 2.0], [2.0, 5.0]]),
    ...     torch.tensor([3.0, 1.0]),
    ...     torch.tensor([True, False]),
    ... )
    tensor([ 0.5000, -1.0000])
    """
    gone = theta.masked_fill(keep, 0.0)
    pull = (curvature @ gone.unsqueeze(-1)).masked_fill(~keep.unsqueeze(-1), 0.0)
    return (
        torch.cholesky_solve(pull, factor_cholesky(restrict_curvature(curvature, keep))).squeeze(-1)
        - gone
    )


def compute_removal_costs(inverse: Tensor, theta: Tensor, alive: Tensor) -> Tensor:
    """Remove the weights of each row one by one, the cheapest first, the others moving; what each
    removal costs.

    Repeat p = argmin theta_p^2 / [H^-1]_pp; cost_p = theta_p^2 / (2 [H^-1]_pp); theta -= theta_p /
    [H^-1]_pp H^-1 e_p; H^-1 -= H^-1 e_p e_p^T H^-1 / [H^-1]_pp. `invert` (R, K, K) is of the
    weights alive; `theta` and `alive` are (R, K). A cost is raised to just above the one before it
    in its row, so that the m lowest costs of a row are the m weights removed first; what is not
    alive costs zero. Returns float64 (R, K).

    The inverse is brought up to date, and rid of what was removed, once in `PANEL` removals;
    between them only the columns asked for are: column p of H^-1 - V^T V is H^-1 e_p - V^T V e_p,
    with one row of V for each removal.

    >>> compute_removal_costs(
    ...     torch.eye(2)[None].double(),
    ...     torch.tensor([[2.0, 1.0]]).double(),
    ...     torch.tensor([[True, True]]),
    ... )
    tensor([[2.0000, 0.5000]], dtype=torch.float64)
    """
    costs, last = torch.zeros_like(theta), torch.zeros_like(theta[:, :1])
    rows = torch.arange(len(theta), device=theta.device).unsqueeze(1)
    columns = torch.arange(theta.shape[1], device=theta.device).expand_as(theta)
    theta, alive = theta.masked_fill(~alive, 0.0), alive.clone()
    up = torch.full_like(last, math.inf)
    left = int(alive.sum(1).max())
    while left:
        steps = min(PANEL, left)
        diagonal = inverse.diagonal(dim1=1, dim2=2).clone()
        panel = inverse.new_zeros(len(theta), steps, theta.shape[1])
        for step in range(steps):
            price, p = torch.where(alive, theta.square() / diagonal, math.inf).min(1, keepdim=True)
            done = price.isinf()
            column = inverse[rows, p] - panel[rows, :step, p] @ panel[:, :step]
            pivot = diagonal.gather(1, p).sqrt()
            vector = (column.squeeze(1) / pivot).masked_fill(done, 0.0)
            panel[:, step] = vector
            theta = theta - theta.gather(1, p) / pivot * vector
            diagonal = (diagonal - vector.square()).clamp_min(torch.finfo(torch.float64).tiny)
            theta.scatter_(1, p, 0.0)
            alive.scatter_(1, p, False)
            last = torch.where(done, last, torch.maximum(price / 2, torch.nextafter(last, up)))
            costs[rows, columns.gather(1, p)] = torch.where(
                done, costs[rows, columns.gather(1, p)], last
            )
        left -= steps
        rest = alive.sort(dim=1, descending=True, stable=True).indices[:, :left]
        panel = panel[
            rows.unsqueeze(2), torch.arange(steps, device=rest.device)[:, None], rest.unsqueeze(1)
        ]
        inverse = inverse[rows.unsqueeze(2), rest.unsqueeze(2), rest.unsqueeze(1)].baddbmm_(
            panel.mT, panel, alpha=-1.0
        )
        theta, alive, columns = (values.gather(1, rest) for values in (theta, alive, columns))
    return costs
