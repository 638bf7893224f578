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
    """The constants that follow from the widths alone.

    eta is the sum of the widths after the input, eta_max the largest hidden width.

    >>> lenet = Constants.from_widths([784, 300, 100, 10], delta=0.1)
    >>> (
    ...     round(lenet.k, 2),
    ...     round(lenet.kappa, 1),
    ...     lenet.sample_size,
    ...     round(8 * lenet.k * lenet.log, 1),
    ... )
    (11.72, 192.1, 189, 974.9)
    """

    layers: int
    """L, the number of layers with the input: there are L - 1 weight matrices."""
    k: float
    kappa: float
    sample_size: int
    log: float
    """ln(8 eta / delta)."""
    union: float
    """1 / delta."""

    @staticmethod
    def from_widths(widths: Sequence[int], delta: float) -> Constants:
        """The constants of a network.

        lambda = ln(eta eta_max) / 2, K = ln(eta eta_max), |S| = ceil(ln(8 eta eta_max / delta) K),
        kappa = sqrt(2 lambda) (1 + sqrt(2 lambda) ln(8 eta eta_max / delta)).
        """
        eta = sum(widths[1:])
        largest = max(widths[1:-1], default=1)
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
    """The relative error of a side with m draws, sqrt(8 S K ln(8 eta / delta) / m); 1 without a
    draw; float64.

    `k` and `log` replace K and the logarithm of `constants`.

    >>> lenet = Constants.from_widths([784, 300, 100, 10], delta=0.1)
    >>> draws = torch.tensor([count_draws(1.75, 0.5, lenet), 0])
    >>> [round(error, 3) for error in epsilon(torch.tensor([1.75, 1.75]), draws, lenet).tolist()]
    [0.5, 1.0]
    """
    s, m = sensitivities.double(), draws.double()
    k = constants.k if k is None else k
    log = constants.log if log is None else log
    error = (8 * s * k * log / m.clamp_min(1.0)).sqrt()
    return torch.where((m == 0) & (s > 0), 1.0, error)


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
    """The relative error for one input where g_j <= C s_j; derived here.

    u + sqrt(u^2 + 6 u), u = S C log / (3 m).
    """
    u = sensitivities.double() * c * log / (3 * draws.double().clamp_min(1.0))
    return u + (u * u + 6 * u).sqrt()


@dataclass(frozen=True)
class Growth:
    """The constants and factors that the bounds of a network's layers share."""

    constants: Constants
    amplification: Mapping[str, float]
    """The mean of Delta over S by weight, largest of the outputs, without kappa."""
    factors: Mapping[str, float]
    """The factor between a layer's sensitivities and its scores, by weight."""


def bound_errors(layer: PrunedLayer, growth: Growth) -> Paper:
    """`epsilon` times the sum of the sizes of each side, and the terms that no image of S needs.

    Assumes that g_j <= K s_j.
    """
    constants, factor = growth.constants, growth.factors[layer.name]
    sums = layer.score_sums / factor
    m = layer.draws.clamp_min(0)
    smallest_k = layer.inflation * factor  # max_j g_j / s_j

    def error(relative_error: Tensor) -> Tensor:
        sampled = layer.scale_to_sizes(relative_error, constants.k / factor)
        return sampled + layer.missing.abs()

    log_alone = math.log(2 * constants.union)
    distinct = layer.distinct.clamp_min(0)
    swaps = {
        "K as it is here": error(epsilon(sums, m, constants, k=smallest_k)),
        "no union bound": error(epsilon(sums, m, constants, log=log_alone)),
        "Bernstein for the constant 8": error(bernstein(sums, m, constants.log, constants.k)),
        "the sensitivity sum as it is here": error(epsilon(torch.ones_like(sums), m, constants)),
        "distinct weights for draws": error(epsilon(sums, distinct, constants)),
    }
    assumption = layer.check_assumption(smallest_k, constants.k)
    return Paper(error(epsilon(sums, m, constants)), swaps, assumption)


def bound_relative_error(layers: Sequence[PrunedLayer], growth: Growth) -> dict[str, Tensor]:
    """`propagate` with the largest epsilon of every layer and Delta-hat = mean Delta + kappa; and
    the same with kappa 0, and with Delta as it is at each input.
    """
    constants = growth.constants
    errors = []
    for layer in layers:
        sensitivities = layer.score_sums / growth.factors[layer.name]
        drawn = epsilon(sensitivities, layer.draws.clamp_min(0), constants)
        undrawn = constants.k * layer.score_sums / growth.factors[layer.name] * layer.lost
        errors.append(float(torch.where(layer.draws < 0, undrawn, drawn).max()))
    means = [growth.amplification[layer.name] for layer in layers]
    with_kappa = [mean + constants.kappa for mean in means]
    measured = [_amplification(layer) for layer in layers]
    return {
        "paper relative": propagate(errors, with_kappa),
        "paper relative with kappa 0": propagate(errors, means),
        "paper relative with Delta of each input": propagate(errors, measured),
    }


def _amplification(layer: PrunedLayer) -> Tensor:
    """Delta: the largest sum |w a| / |sum w a| over a layer's outputs, the bias a term of it,
    (N,).
    """
    bias = layer.layer.bias
    shift = layer.patches.new_zeros(1) if bias is None else bias.detach().double()
    weight = as_matrices(layer.layer, layer.weight)[None]
    outputs = multiply_patches(weight, layer.patches)[0] + shift[:, None]
    sizes = multiply_patches(weight.abs(), layer.patches.abs())[0] + shift.abs()[:, None]
    return torch.where(sizes > 0, sizes / outputs.abs(), 1.0).flatten(1).amax(1)
