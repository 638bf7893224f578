"""CoreNet: coresets of edges, with a relative error that multiplies through the layers.

Source: Baykal, Liebenwein, Gilitschenski, Feldman and Rus, Data-dependent coresets for compressing
neural networks with applications to generalization bounds, ICLR 2019; constants as recalled and as
in an independent implementation, K and kappa rest on these two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.bounds.forms import Paper, PrunedLayer
from pruning.bounds.sums import multiply_patches
from pruning.networks.layers import as_matrices


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What follows from the widths alone: eta = sum of the widths after the input, eta_max = the
    largest hidden one.

    >>> lenet = Constants.of([784, 300, 100, 10], delta=0.1)
    >>> (
    ...     round(lenet.k, 2),
    ...     round(lenet.kappa, 1),
    ...     lenet.sample_size,
    ...     round(8 * lenet.k * lenet.log, 1),
    ... )
    (11.72, 192.1, 189, 974.9)
    """

    layers: int
    """L, the input counted: L - 1 weight matrices."""
    k: float
    kappa: float
    sample_size: int
    log: float
    """ln(8 eta / delta)."""
    union: float
    """1 / delta."""

    @staticmethod
    def of(widths: Sequence[int], delta: float) -> Constants:
        """lambda = ln(eta eta_max) / 2, K = ln(eta eta_max), |S| = ceil(ln(8 eta eta_max / delta)
        K), kappa = sqrt(2 lambda) (1 + sqrt(2 lambda) ln(8 eta eta_max / delta)).
        """
        eta, largest = sum(widths[1:]), max(widths[1:-1], default=1)
        k = math.log(eta * largest)
        log = math.log(8 * eta * largest / delta)
        return Constants(
            layers=len(widths),
            k=k,
            kappa=math.sqrt(k) * (1 + math.sqrt(k) * log),
            sample_size=math.ceil(log * k),
            log=math.log(8 * eta / delta),
            union=1 / delta,
        )


def count_draws(sensitivity: float, epsilon: float, constants: Constants) -> int:
    """m = ceil(8 S K ln(8 eta / delta) / epsilon_l^2), S the sum of one side's sensitivities."""
    return math.ceil(8 * sensitivity * constants.k * constants.log / epsilon**2)


def epsilon(
    sensitivities: Tensor,
    draws: Tensor,
    constants: Constants,
    *,
    k: float | Tensor | None = None,
    log: float | None = None,
) -> Tensor:
    """sqrt(8 S K ln(8 eta / delta) / m): the relative error of a side with so many draws, 1 without
    a draw; float64.

    >>> lenet = Constants.of([784, 300, 100, 10], delta=0.1)
    >>> found = epsilon(
    ...     torch.tensor([1.75, 1.75]), torch.tensor([count_draws(1.75, 0.5, lenet), 0]), lenet
    ... )
    >>> [round(one, 3) for one in found.tolist()]
    [0.5, 1.0]
    """
    s, m = sensitivities.double(), draws.double()
    found = (
        8
        * s
        * (constants.k if k is None else k)
        * (constants.log if log is None else log)
        / m.clamp_min(1.0)
    ).sqrt()
    return torch.where((m == 0) & (s > 0), 1.0, found)


def propagate(errors: Sequence[float], amplifications: Sequence[float | Tensor]) -> Tensor:
    """tau_l = Delta_l (tau_(l-1) + epsilon_l + tau_(l-1) epsilon_l), tau_0 = 0; infinite once tau
    exceeds 1.

    Beyond 1 signs may flip and the recursion says nothing. Elementwise where Delta differs by
    input; float64.

    >>> round(float(propagate([0.01, 0.01, 0.01], [2.0, 3.0, 1.5])), 5)
    0.15226
    >>> propagate([0.6], [2.0])
    tensor(inf, dtype=torch.float64)
    """
    tau = torch.zeros((), dtype=torch.float64)
    for error, amplification in zip(errors, amplifications, strict=True):
        tau = amplification * (tau + error + tau * error)
        tau = torch.where(tau <= 1, tau, math.inf)
    return tau


def bernstein(sensitivities: Tensor, draws: Tensor, log: float, c: float | Tensor = 1.0) -> Tensor:
    """u + sqrt(u^2 + 6 u), u = S C log / (3 m): relative error for one input, g_j <= C s_j; derived
    here.
    """
    u = sensitivities.double() * c * log / (3 * draws.double().clamp_min(1.0))
    return u + (u * u + 6 * u).sqrt()


@dataclass(frozen=True)
class Growth:
    """What the bounds of a network's layers share."""

    constants: Constants
    amplification: Mapping[str, float]
    """By weight, the mean of Delta over S, largest of the outputs, without kappa."""
    factors: Mapping[str, float]
    """By weight, what its sensitivities are multiplied by to be the scores."""


def bound_errors(layer: PrunedLayer, growth: Growth) -> Paper:
    """epsilon_i(m) times the sum of each side, by `epsilon`, and what no image of S needs; assumes
    that g_j <= K s_j.
    """
    constants, factor = growth.constants, growth.factors[layer.name]
    sums, m = layer.score_sums / factor, layer.draws.clamp_min(0)
    here = layer.inflation * factor  # max_j g_j / s_j

    def error(found: Tensor) -> Tensor:
        return layer.relative(found, constants.k / factor) + layer.missing.abs()

    return Paper(
        error(epsilon(sums, m, constants)),
        {
            "K as it is here": error(epsilon(sums, m, constants, k=here)),
            "no union bound": error(epsilon(sums, m, constants, log=math.log(2 * constants.union))),
            "Bernstein for the constant 8": error(bernstein(sums, m, constants.log, constants.k)),
            "the sensitivity sum as it is here": error(
                epsilon(torch.ones_like(sums), m, constants)
            ),
            "distinct weights for draws": error(
                epsilon(sums, layer.distinct.clamp_min(0), constants)
            ),
        },
        layer.assumed(here, constants.k),
    )


def bound_relative_error(layers: Sequence[PrunedLayer], growth: Growth) -> dict[str, Tensor]:
    """`propagate` with the largest epsilon of every layer and Delta-hat = mean Delta + kappa; and
    with either as it is.
    """
    errors = []
    for layer in layers:
        sides = epsilon(
            layer.score_sums / growth.factors[layer.name],
            layer.draws.clamp_min(0),
            growth.constants,
        )
        lost = growth.constants.k * layer.score_sums / growth.factors[layer.name] * layer.lost
        errors.append(float(torch.where(layer.draws < 0, lost, sides).max()))
    means = [growth.amplification[layer.name] for layer in layers]
    return {
        "paper relative": propagate(errors, [mean + growth.constants.kappa for mean in means]),
        "paper relative with kappa 0": propagate(errors, means),
        "paper relative with Delta of each input": propagate(
            errors, [_delta(layer) for layer in layers]
        ),
    }


def _delta(layer: PrunedLayer) -> Tensor:
    """The largest sum |w a| / |sum w a| over a layer's outputs, the bias a term of it, (N,)."""
    bias = layer.layer.bias
    shift = torch.zeros(1).double() if bias is None else bias.detach().double()
    z = (
        multiply_patches(as_matrices(layer.layer, layer.weight)[None], layer.patches)[0]
        + shift[:, None]
    )
    size = (
        multiply_patches(as_matrices(layer.layer, layer.weight).abs()[None], layer.patches.abs())[0]
        + shift.abs()[:, None]
    )
    return torch.where(size > 0, size / z.abs(), 1.0).flatten(1).amax(1)
