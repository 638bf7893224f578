"""The pruning law of Rosenfeld et al., its gradient and its inverse, vectorised over networks,
densities and refits.

    error(m) = unpruned [ (m^2 + q^2) / (m^2 + p^2) ]^(gamma / 2)
    m = depth^phi width^psi density,   q = p (plateau / unpruned)^(1 / gamma)

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
    """A law in its logarithmic parameters: ln error and gradient for several parameter vectors."""

    names: ClassVar[tuple[str, ...]]

    def evaluate(
        self, theta: Floats, features: Floats, log_unpruned: Floats
    ) -> tuple[Floats, Floats]:
        """ln error (B, n) and its gradient (B, P + 1, n), whose last row is by ln unpruned.

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
        """ln error and its gradient: gamma (a - b) by ln p, a by ln plateau, 1 - a by ln unpruned.

        a = q^2 / (m^2 + q^2) and b = p^2 / (m^2 + p^2).
        """
        log_gamma, log_p, log_plateau, phi, psi = (column[:, None] for column in theta.T)
        log_density, log_depth, log_width = features
        gamma = np.exp(log_gamma)
        rise = log_plateau - log_unpruned
        log_m = log_density + phi * log_depth + psi * log_width
        below = log_p - log_m
        high, a = softplus(2.0 * (below + rise / gamma))
        low, b = softplus(2.0 * below)
        spread = high - low
        by_p = gamma * (a - b)
        gradient = np.stack(
            [
                gamma * spread / 2 - a * rise,
                by_p,
                a,
                -by_p * log_depth,
                -by_p * log_width,
                1.0 - a,
            ],
            axis=1,
        )
        return log_unpruned + gamma * spread / 2, gradient


def softplus(x: Floats) -> tuple[Floats, Floats]:
    """ln(1 + e^x) and its derivative 1 / (1 + e^-x), from one exponential without overflow."""
    small = np.exp(-np.abs(x))
    larger = 1.0 / (1.0 + small)  # the derivative at |x|
    value = np.maximum(x, 0.0) - np.log(larger)
    return value, np.where(x > 0, larger, small * larger)


def broadcast_floats(*columns: ArrayLike) -> tuple[Floats, ...]:
    """The columns as arrays of one shape, at least (1,); `ValueError` where they do not fit."""
    return tuple(
        np.broadcast_arrays(*(np.atleast_1d(np.asarray(values, float)) for values in columns))
    )


def evaluate_pruned_error(
    density: ArrayLike, unpruned: ArrayLike, gamma: ArrayLike, p: ArrayLike, plateau: ArrayLike
) -> Floats:
    """The law at a density (or invariant m) with p in the same unit; every argument broadcasts.

    >>> [round(float(evaluate_pruned_error(d, 0.08, 0.6, 0.003, 0.9)), 8) for d in (1, 0.1, 0.001)]
    [0.08068209, 0.12004141, 0.87200666]
    """
    density, unpruned, gamma, p, plateau = (
        np.asarray(value, float) for value in (density, unpruned, gamma, p, plateau)
    )
    log_m, log_p = np.log(density), np.log(p)
    rise = np.log(plateau / unpruned)
    high, _ = softplus(2 * (log_p + rise / gamma - log_m))
    low, _ = softplus(2 * (log_p - log_m))
    return np.asarray(unpruned * np.exp(gamma * (high - low) / 2), float)


def invert_pruned_error(
    error: ArrayLike, unpruned: ArrayLike, gamma: ArrayLike, p: ArrayLike, plateau: ArrayLike
) -> Floats:
    """The inverse of the law: m = p sqrt((r^2 - s^2) / (s^2 - 1)).

    r = (plateau/unpruned)^(1/gamma), s = (error/unpruned)^(1/gamma). Infinite at the unpruned error
    and below, 0 at the plateau and above. In logarithms, as r may overflow.

    >>> round(float(invert_pruned_error(0.16, 0.08, 0.6, 0.003, 0.9)), 9)
    0.056147081
    """
    error, unpruned, gamma, p, plateau = (
        np.asarray(value, float) for value in (error, unpruned, gamma, p, plateau)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        log_r = np.log(plateau / unpruned) / gamma
        log_s = np.log(error / unpruned) / gamma
        above = 2 * log_r + np.log(-np.expm1(2 * (log_s - log_r)))  # ln (r^2 - s^2)
        below = 2 * log_s + np.log(-np.expm1(-2 * log_s))  # ln (s^2 - 1)
        m = p * np.exp((above - below) / 2)
    m = np.where(error >= plateau, 0.0, m)
    return np.where(error <= unpruned, np.inf, m)
