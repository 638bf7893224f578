"""The pruning law of Rosenfeld et al., its gradient and its inverse, vectorised over networks,
densities and refits.

    error(m) = unpruned [ (m^2 + q^2) / (m^2 + p^2) ]^(gamma / 2),   m = depth^phi width^psi density,
    q = p (plateau / unpruned)^(1 / gamma)

the real form of unpruned |(m - j q) / (m - j p)|^gamma. It falls with m from the plateau, below p,
over a power law to the unpruned error, above q. Rosenfeld, Frankle, Carbin, Shavit, On the
Predictability of Pruning Across Scales, ICML 2021.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]


class Form(Protocol):
    """A law in its logarithmic parameters: ln error and its gradient, for several parameter vectors
    at once.
    """

    names: ClassVar[tuple[str, ...]]

    def evaluate(
        self, theta: Floats, features: Floats, log_unpruned: Floats
    ) -> tuple[Floats, Floats]:
        """ln error (B, n) and its gradient (B, P + 1, n), its last row by ln unpruned.

        `theta` (B, P), `features` (F, n), `log_unpruned` (n) or (B, n).
        """


class PruningForm:
    """The pruning law in theta = (ln gamma, ln p, ln plateau, phi, psi); features ln density, ln
    depth, ln width.

    >>> theta = np.log([[0.6, 0.003, 0.9, 1.0, 1.0]])
    >>> value, gradient = PruningForm().evaluate(
    ...     theta, np.log([[0.1], [1.0], [1.0]]), np.log([0.08])
    ... )
    >>> round(float(np.exp(value[0, 0])), 8), gradient.shape
    (0.12004141, (1, 6, 1))
    """

    names: ClassVar[tuple[str, ...]] = ("log_gamma", "log_p", "log_plateau", "phi", "psi")

    def evaluate(
        self, theta: Floats, features: Floats, log_unpruned: Floats
    ) -> tuple[Floats, Floats]:
        """With a = q^2/(m^2+q^2), b = p^2/(m^2+p^2): by ln p gamma (a - b), by ln plateau a, by ln
        unpruned 1 - a.
        """
        log_gamma, log_p, log_plateau, phi, psi = (column[:, None] for column in theta.T)
        log_d, log_l, log_w = features
        gamma, rise = np.exp(log_gamma), log_plateau - log_unpruned
        log_m = log_d + phi * log_l + psi * log_w
        below = log_p - log_m
        (high, a), (low, b) = softplus(2.0 * (below + rise / gamma)), softplus(2.0 * below)
        spread = high - low
        by_p = gamma * (a - b)
        gradient = np.stack(
            [gamma * spread / 2 - a * rise, by_p, a, -by_p * log_l, -by_p * log_w, 1.0 - a], axis=1
        )
        return log_unpruned + gamma * spread / 2, gradient


def softplus(x: Floats) -> tuple[Floats, Floats]:
    """ln(1 + e^x) and its derivative 1 / (1 + e^-x), of one exponential that does not overflow."""
    small = np.exp(-np.abs(x))
    most = 1.0 / (1.0 + small)
    return np.maximum(x, 0.0) - np.log(most), np.where(x > 0, most, small * most)


def evaluate_pruned_error(
    density: ArrayLike, unpruned: ArrayLike, gamma: ArrayLike, p: ArrayLike, plateau: ArrayLike
) -> Floats:
    """The law at a density (or invariant m) with p in the same unit; every argument broadcasts.

    >>> [round(float(evaluate_pruned_error(d, 0.08, 0.6, 0.003, 0.9)), 8) for d in (1, 0.1, 0.001)]
    [0.08068209, 0.12004141, 0.87200666]
    """
    density, unpruned, gamma, p, plateau = (
        np.asarray(one, float) for one in (density, unpruned, gamma, p, plateau)
    )
    log_m, log_p, rise = np.log(density), np.log(p), np.log(plateau / unpruned)
    (high, _), (low, _) = (
        softplus(2 * (log_p + rise / gamma - log_m)),
        softplus(2 * (log_p - log_m)),
    )
    return np.asarray(unpruned * np.exp(gamma * (high - low) / 2), float)


def invert_pruned_error(
    error: ArrayLike, unpruned: ArrayLike, gamma: ArrayLike, p: ArrayLike, plateau: ArrayLike
) -> Floats:
    """The inverse: m = p sqrt((r^2 - s^2) / (s^2 - 1)), r = (plateau/unpruned)^(1/gamma), s =
    (error/unpruned)^(1/gamma).

    Infinite at the unpruned error and below, 0 at the plateau and above. In logarithms, as r may
    overflow.

    >>> round(float(invert_pruned_error(0.16, 0.08, 0.6, 0.003, 0.9)), 9)
    0.056147081
    """
    error, unpruned, gamma, p, plateau = (
        np.asarray(one, float) for one in (error, unpruned, gamma, p, plateau)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        log_r, log_s = np.log(plateau / unpruned) / gamma, np.log(error / unpruned) / gamma
        above = 2 * log_r + np.log(-np.expm1(2 * (log_s - log_r)))  # ln (r^2 - s^2)
        below = 2 * log_s + np.log(-np.expm1(-2 * log_s))  # ln (s^2 - 1)
        found = p * np.exp((above - below) / 2)
    return np.where(error <= unpruned, np.inf, np.where(error >= plateau, 0.0, found))
