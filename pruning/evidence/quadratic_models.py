"""Optimal brain surgeon: weights removed from quadratic models of a loss, many small models at
once, in float64.

For a model 1/2 delta^T H delta of what moving the weights theta by delta does to the loss, a set Q
of weights is removed at least cost, with the set K of kept weights making up for it, by

    delta_Q = -theta_Q,    delta_K = H_KK^-1 H_KQ theta_Q,
    cost = 1/2 theta_Q^T ([H^-1]_QQ)^-1 theta_Q,

which for Q = {q} is delta = -(theta_q / [H^-1]_qq) H^-1 e_q at cost theta_q^2 / (2 [H^-1]_qq). With
a gradient g, the model g^T delta + 1/2 delta^T H delta has its least value under delta_Q = -theta_Q
at delta_K = H_KK^-1 (H_KQ theta_Q - g_K).

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
"""The entries of the largest batch of matrices that is held at a time: 64 MiB in float64."""
PANEL = 32
"""The number of removals between two updates of the whole inverse."""


def split_matrices(count: int, size: int) -> Iterator[slice]:
    """Yield slices of `count` matrices of `size` entries, each within `ELEMENTS`.

    Their lengths are equal as far as possible.

    >>> list(split_matrices(5, 2**22))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    parts = max(1, math.ceil(count / max(1, ELEMENTS // size)))
    length = math.ceil(count / parts)
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))


def restrict_curvature(curvature: Tensor, keep: Tensor) -> Tensor:
    """Restrict the curvature to the kept weights; (..., b, b) from (..., b, b) and (..., b).

    The rows and columns of the others become those of the identity.

    >>> restrict_curvature(torch.tensor([[4.0, 2.0], [2.0, 5.0]]), torch.tensor([True, False]))
    tensor([[4., 0.],
            [0., 1.]])
    """
    both_kept = keep.unsqueeze(-1) & keep.unsqueeze(-2)
    identity = torch.eye(keep.shape[-1], dtype=curvature.dtype, device=curvature.device)
    return torch.where(both_kept, curvature, identity)


def factor_cholesky(curvature: Tensor) -> Tensor:
    """Factor (..., b, b) into lower triangles.

    Raises `ScoreError` where a matrix is not positive definite to rounding.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(curvature)
    if bool(info.any()):
        raise ScoreError(
            f"{int((info != 0).sum())} of {info.numel()} curvature matrices are not positive "
            "definite to rounding; more damping makes them so"
        )
    return factor


def invert(curvature: Tensor) -> Tensor:
    """Compute H^-1, (..., b, b); raises `ScoreError` as `factor_cholesky` does."""
    return torch.cholesky_inverse(factor_cholesky(curvature))


def solve_removal(
    curvature: Tensor, theta: Tensor, keep: Tensor, gradient: Tensor | None = None
) -> Tensor:
    """Compute the move of least cost that removes what `keep` does not keep.

    delta_Q = -theta_Q, delta_K = H_KK^-1 (H_KQ theta_Q - g_K); (..., b) from the curvature
    (..., b, b) and `theta`, `keep` and the gradient g (..., b), by default 0. Without a gradient,
    weights that are zero already are among Q and cost nothing.

    >>> solve_removal(
    ...     torch.tensor([[4.0, 2.0], [2.0, 5.0]]),
    ...     torch.tensor([3.0, 1.0]),
    ...     torch.tensor([True, False]),
    ... )
    tensor([ 0.5000, -1.0000])
    """
    removed = theta.masked_fill(keep, 0.0)
    pull = curvature @ removed.unsqueeze(-1)
    if gradient is not None:
        pull = pull - gradient.unsqueeze(-1)
    pull = pull.masked_fill(~keep.unsqueeze(-1), 0.0)
    factor = factor_cholesky(restrict_curvature(curvature, keep))
    return torch.cholesky_solve(pull, factor).squeeze(-1) - removed


def compute_removal_costs(inverse: Tensor, theta: Tensor, alive: Tensor) -> Tensor:
    """Compute what each removal costs when each row's weights go one by one, the cheapest first.

    The others move to make up for it. Repeat p = argmin theta_p^2 / [H^-1]_pp; cost_p = theta_p^2 /
    (2 [H^-1]_pp); theta -= theta_p / [H^-1]_pp H^-1 e_p; H^-1 -= H^-1 e_p e_p^T H^-1 / [H^-1]_pp.
    `inverse` (R, K, K) is that of the weights alive; `theta` and `alive` are (R, K). A cost is
    raised to just above the cost before it in its row, so that the m lowest costs of a row are the
    m weights removed first; weights that are not alive cost zero. Returns float64 (R, K).

    The inverse is brought up to date, and rid of what was removed, once in `PANEL` removals;
    between them only the columns that are needed are: column p of H^-1 - V^T V is H^-1 e_p - V^T V
    e_p, with one row of V for each removal.

    >>> compute_removal_costs(
    ...     torch.eye(2)[None].double(),
    ...     torch.tensor([[2.0, 1.0]]).double(),
    ...     torch.tensor([[True, True]]),
    ... )
    tensor([[2.0000, 0.5000]], dtype=torch.float64)
    """
    rows = _Rows(inverse, theta, alive)
    left = int(alive.sum(1).max())
    while left:
        steps = min(PANEL, left)
        panel = rows.remove(steps)
        left -= steps
        rows.shrink(panel, left)
    return rows.costs


class _Rows:
    """Rows of weights in the middle of their removal, and what the removals so far cost."""

    def __init__(self, inverse: Tensor, theta: Tensor, alive: Tensor) -> None:
        self.costs = torch.zeros_like(theta)
        self._inverse = inverse
        self._theta = theta.masked_fill(~alive, 0.0)
        self._alive = alive.clone()
        self._last_cost = torch.zeros_like(theta[:, :1])
        self._infinity = torch.full_like(self._last_cost, math.inf)
        self._rows = torch.arange(len(theta), device=theta.device).unsqueeze(1)
        # Where each remaining column stands in `costs`: `shrink` drops columns.
        self._columns = torch.arange(theta.shape[1], device=theta.device).expand_as(theta)

    def remove(self, steps: int) -> Tensor:
        """Remove `steps` weights of each row; return V (R, steps, K), one row for each removal."""
        diagonal = self._inverse.diagonal(dim1=1, dim2=2).clone()
        panel = self._inverse.new_zeros(len(self._theta), steps, self._theta.shape[1])
        for step in range(steps):
            prices = torch.where(self._alive, self._theta.square() / diagonal, math.inf)
            price, p = prices.min(1, keepdim=True)
            done = price.isinf()  # nothing is left in these rows
            # H^-1 e_p after the removals in the panel, which the inverse does not know yet.
            column = self._inverse[self._rows, p] - panel[self._rows, :step, p] @ panel[:, :step]
            pivot = diagonal.gather(1, p).sqrt()
            vector = (column.squeeze(1) / pivot).masked_fill(done, 0.0)
            panel[:, step] = vector
            self._theta = self._theta - self._theta.gather(1, p) / pivot * vector
            diagonal = (diagonal - vector.square()).clamp_min(torch.finfo(torch.float64).tiny)
            self._theta.scatter_(1, p, 0.0)
            self._alive.scatter_(1, p, False)
            self._record(price, p, done)
        return panel

    def _record(self, price: Tensor, p: Tensor, done: Tensor) -> None:
        just_above = torch.nextafter(self._last_cost, self._infinity)
        raised = torch.maximum(price / 2, just_above)
        self._last_cost = torch.where(done, self._last_cost, raised)
        places = self._columns.gather(1, p)
        self.costs[self._rows, places] = torch.where(
            done, self.costs[self._rows, places], self._last_cost
        )

    def shrink(self, panel: Tensor, left: int) -> None:
        """Bring the inverse up to date with the panel, and drop all but `left` columns."""
        # A stable sort: the weights alive come first, in their order.
        remaining = self._alive.sort(dim=1, descending=True, stable=True).indices[:, :left]
        rows = self._rows.unsqueeze(2)
        steps = torch.arange(panel.shape[1], device=remaining.device)[:, None]
        panel = panel[rows, steps, remaining.unsqueeze(1)]
        inverse = self._inverse[rows, remaining.unsqueeze(2), remaining.unsqueeze(1)]
        self._inverse = inverse.baddbmm_(panel.mT, panel, alpha=-1.0)
        self._theta = self._theta.gather(1, remaining)
        self._alive = self._alive.gather(1, remaining)
        self._columns = self._columns.gather(1, remaining)
