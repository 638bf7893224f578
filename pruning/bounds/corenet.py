"""CoreNet: coresets of edges, with a relative error that multiplies through the layers.

Source: Baykal, Liebenwein, Gilitschenski, Feldman and Rus, Data-dependent coresets for compressing neural networks with
applications to generalization bounds, ICLR 2019; constants as recalled and as in an independent implementation, K and kappa
rest on these two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """What follows from the widths alone: eta = sum of the widths after the input, eta_max = the largest hidden one.

    >>> lenet = Constants.of([784, 300, 100, 10], delta=0.1)
    >>> round(lenet.k, 2), round(lenet.kappa, 1), lenet.sample_size, round(8 * lenet.k * lenet.log, 1)
    (11.72, 192.1, 189, 974.9)
    """

    layers: int
    """L, the input counted: L - 1 weight matrices."""
    k: float
    kappa: float
    sample_size: int
    log: float
    """ln(8 eta / delta)."""

    @staticmethod
    def of(widths: Sequence[int], delta: float) -> Constants:
        """lambda = ln(eta eta_max) / 2, K = ln(eta eta_max), |S| = ceil(ln(8 eta eta_max / delta) K),
        kappa = sqrt(2 lambda) (1 + sqrt(2 lambda) ln(8 eta eta_max / delta))."""
        eta, largest = sum(widths[1:]), max(widths[1:-1], default=1)
        k = math.log(eta * largest)
        log = math.log(8 * eta * largest / delta)
        return Constants(len(widths), k, math.sqrt(k) * (1 + math.sqrt(k) * log), math.ceil(log * k),
                         math.log(8 * eta / delta))


def draws(sensitivity: float, epsilon: float, constants: Constants) -> int:
    """m = ceil(8 S K ln(8 eta / delta) / epsilon_l^2), S the sum of one side's sensitivities."""
    return math.ceil(8 * sensitivity * constants.k * constants.log / epsilon**2)


def epsilon(sensitivity: float, draws: int, constants: Constants) -> float:
    """sqrt(8 S K ln(8 eta / delta) / m): the relative error of one side with so many draws; infinite without a draw."""
    if sensitivity == 0:
        return 0.0
    return math.sqrt(8 * sensitivity * constants.k * constants.log / draws) if draws else math.inf


def propagate(errors: Sequence[float], amplifications: Sequence[float]) -> float:
    """tau_l = Delta_l (tau_(l-1) + epsilon_l + tau_(l-1) epsilon_l), tau_0 = 0; infinite once tau exceeds 1.

    Beyond 1 signs may flip and the recursion says nothing.

    >>> round(propagate([0.01, 0.01, 0.01], [2.0, 3.0, 1.5]), 5)
    0.15226
    >>> propagate([0.6], [2.0])
    inf
    """
    tau = 0.0
    for error, amplification in zip(errors, amplifications, strict=True):
        tau = amplification * (tau + error + tau * error)
        if not tau <= 1:
            return math.inf
    return tau


def bernstein(sensitivity: float, draws: int, delta: float, c: float = 1.0) -> float:
    """u + sqrt(u^2 + 6 u), u = S C ln(2 / delta) / (3 m): relative error for one input, g_j <= C s_j; derived here."""
    if sensitivity == 0:
        return 0.0
    if not draws:
        return math.inf
    u = sensitivity * c * math.log(2 / delta) / (3 * draws)
    return u + math.sqrt(u * u + 6 * u)
