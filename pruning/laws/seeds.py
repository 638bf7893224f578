"""The effect of another seed on a curve: it moves all errors of one prune-and-retrain cascade
together, which the scatter of the points about their own curve does not show.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri, stdtrit

from pruning.laws.curves import SEED_SD, Curves
from pruning.laws.forms import Floats
from pruning.schemas.base import Document

ENOUGH_SEEDS = 4
"""Degrees of freedom from which on the effect is pooled from the trials; with fewer it is the
paper's.
"""


class SeedEffect(Document):
    """Relative standard deviation by which a seed moves a whole curve."""

    sd: float = SEED_SD
    degrees_of_freedom: int | None = None
    """The degrees of freedom of the trials it is pooled from; `null` for the paper's 3.4 %."""

    def describe(self) -> str:
        """The effect of a seed on a whole curve and the source of the number, in words."""
        source = "the paper's, as the trials here are too few to show it"
        if self.degrees_of_freedom is not None:
            source = f"pooled from the trials, {self.degrees_of_freedom} degrees of freedom"
        deviation = f"{100 * self.sd:.1f} %"
        return f"a seed moves a whole curve by a standard deviation of {deviation} ({source})"

    def compute_half_width(self, sd: Floats, confidence: float) -> Floats:
        """Half the width of a band of ln error, (n,), for standard deviations sd in units of ln
        error: Student's t of the degrees of freedom, or the normal quantile.
        """
        level = (1 + confidence) / 2
        if self.degrees_of_freedom is None:
            return np.asarray(float(ndtri(level)) * sd)
        return np.asarray(float(stdtrit(self.degrees_of_freedom, level)) * sd)


def pool_seed_effect(curves: Curves) -> SeedEffect:
    """Pool the effect of a seed over the trials of all networks.

    sd^2 = sum_k sum_t a_kt^2 / sum_k (T_k - 1), where a_kt is the deviation of ln e_kt from its
    mean over the trials, at the unpruned error or as a mean over it and all densities: the larger
    of the two, as what moves the unpruned error may move the sparse end less. What the finite
    number of test images adds to a_kt is subtracted: bands hold it by themselves.
    """
    squares, dof = np.zeros(2), 0
    for k in range(len(curves.unpruned)):
        cells = np.vstack([curves.unpruned_cells[k], curves.cells[curves.network == k]])
        trials = cells[:, ~np.isnan(cells).all(axis=0)]
        if trials.shape[1] < 2:
            continue
        deviations = measure_deviations(trials)
        shifts = np.nanmean(deviations, axis=0)
        sampling = _estimate_sampling(curves, k)
        spare = trials.shape[1] - 1
        squares[0] += np.nansum(deviations[0] ** 2) - spare * sampling[0]
        squares[1] += (shifts**2).sum() - spare * sampling.sum() / len(sampling) ** 2
        dof += spare
    if dof < ENOUGH_SEEDS or squares.max() <= 0:
        return SeedEffect()
    return SeedEffect(sd=math.sqrt(squares.max() / dof), degrees_of_freedom=dof)


def _estimate_sampling(curves: Curves, k: int) -> Floats:
    """The variance of ln of one error of a network by its test images, of the unpruned network and
    of each density, (1 + n,): what the weight SEED_SD^2 / (SEED_SD^2 / runs + variance) says.
    """
    own = curves.network == k
    weight = np.append(curves.unpruned_weight[k], curves.weight[own])
    cells = np.vstack([curves.unpruned_cells[k], curves.cells[own]])
    runs = (~np.isnan(cells)).sum(axis=1)
    return np.asarray(np.maximum(0.0, SEED_SD**2 * (1 / weight - 1 / runs)))


def measure_deviations(cells: Floats) -> Floats:
    """ln of every error by trial (n, T) less the mean of its row; nan where there is none."""
    logs = np.log(cells)
    return np.asarray(logs - np.nanmean(logs, axis=1, keepdims=True))
