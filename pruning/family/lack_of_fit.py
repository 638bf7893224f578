"""Whether the invariant misses more than the scatter of seeds explains: lack of fit against pure
error, with whole curves as the units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from pruning.family.measurements import FamilyMeasurements, NetworkKey
from pruning.laws.forms import Floats
from pruning.laws.joint import JointLaw

FEWEST_TRIALS = 4
"""Degrees of freedom between seeds that a test needs."""


@dataclass(frozen=True)
class LackOfFit:
    """The test of a joint law against the scatter of seeds."""

    ratio: float
    """Mean square of the law's deviations from the networks' means, over what seeds explain."""
    p_value: float
    trials: int
    """Degrees of freedom between seeds."""


@dataclass(frozen=True)
class _Curves:
    """ln errors of one network by seed, (1 + D, T): the unpruned one first, then by density."""

    network: NetworkKey
    density: Floats
    logs: Floats

    @property
    def mean(self) -> Floats:
        return np.asarray(self.logs.mean(axis=1))

    @property
    def deviations(self) -> Floats:
        """The deviations of the seeds from their mean, (1 + D, T)."""
        return np.asarray(self.logs - self.mean[:, None])


def measure_lack_of_fit(law: JointLaw, points: FamilyMeasurements) -> LackOfFit | None:
    """Test the joint law against the scatter of seeds; None with too few seeds.

    With y the means over T_k seeds of ln error, y ~ N(f, S_k / T_k), the law's deviations are
    linear in y: delta = M (y_d - h y_0), h the gradient by the unpruned error and M the projection
    off the fitted parameters. Q = delta' delta is compared with its mean under pure error, E =
    tr(B S), B the quadratic form of Q and S the covariance of whole curves between seeds, pooled
    over networks. Q / E is Fisher's F: above with the degrees of freedom of Satterthwaite, below
    with one for each seed beyond the first of a network, as the errors of a curve may move
    together. Only densities that all networks share are compared.
    """
    curves = _gather_curves(points)
    trials = sum(curve.logs.shape[1] - 1 for curve in curves)
    if trials < FEWEST_TRIALS or len(curves) < 2 or len(curves[0].density) < 2:
        return None
    deviations = np.concatenate([curve.deviations for curve in curves], axis=1)
    pooled = deviations @ deviations.T / trials
    residual, maps = _linearise(law, curves)
    # B over all networks, and its blocks on the diagonal, weighted by 1 / T_k.
    size = len(pooled)
    blocks = [maps[:, i * size : (i + 1) * size] for i in range(len(curves))]
    counts = [curve.logs.shape[1] for curve in curves]
    weighted = sum(block.T @ block / count for block, count in zip(blocks, counts, strict=True))
    expected = float(np.trace(weighted @ pooled))
    if expected <= 0:
        return None
    root = np.linalg.cholesky(pooled + 1e-12 * np.trace(pooled) * np.eye(size))
    spread = np.concatenate(
        [block @ root / np.sqrt(count) for block, count in zip(blocks, counts, strict=True)],
        axis=1,
    )
    gram = spread @ spread.T
    numerator = expected**2 / float((gram**2).sum())
    ratio = float(residual @ residual) / expected
    return LackOfFit(ratio, float(fdtrc(numerator, trials, ratio)), trials)


def _gather_curves(points: FamilyMeasurements) -> list[_Curves]:
    """The curves of all networks at the densities that every network and seed has."""
    rows: dict[NetworkKey, dict[int, list[tuple[float, float, float]]]] = {}
    columns = zip(
        points.network, points.trial, points.density, points.error, points.unpruned, strict=True
    )
    for network, trial, density, error, unpruned in columns:
        rows.setdefault(network, {}).setdefault(trial, []).append((density, error, unpruned))
    shared = min(len(curve) for trials in rows.values() for curve in trials.values())
    curves = []
    for network, trials in sorted(rows.items()):
        sorted_rows = [sorted(curve, reverse=True)[:shared] for curve in trials.values()]
        table = np.array(sorted_rows)  # (T, D, 3)
        logs = np.log(np.concatenate([table[:, :1, 2], table[:, :, 1]], axis=1).T)
        curves.append(_Curves(network, table[:, :, 0].mean(axis=0), logs))
    return curves


def _linearise(law: JointLaw, curves: list[_Curves]) -> tuple[Floats, Floats]:
    """The law's deviations from the means, (n,), and their derivative by all means, (n, K (1 + D)),
    both with the fitted parameters projected off.
    """
    n, size = len(curves[0].density), len(curves[0].density) + 1
    deltas, by_means, jacobians = [], [], []
    for k, curve in enumerate(curves):
        depth, width, _ = curve.network
        unpruned = min(float(np.exp(curve.mean[0])), 0.999 * law.plateau)
        features = np.log(
            [
                curve.density,
                np.full(n, depth / law.centre[0]),
                np.full(n, width / law.centre[1]),
            ]
        )
        theta = np.array(law.fit.theta)[None]
        value, gradient = law.form.evaluate(theta, features, np.full(n, np.log(unpruned)))
        deltas.append(curve.mean[1:] - value[0])
        jacobians.append(gradient[0, list(law.fit.free)].T)
        by_mean = np.zeros((n, len(curves) * size))
        by_mean[:, k * size] = -gradient[0, -1]
        by_mean[:, k * size + 1 : (k + 1) * size] = np.eye(n)
        by_means.append(by_mean)
    jacobian = np.concatenate(jacobians)
    projection = np.eye(len(jacobian)) - jacobian @ np.linalg.pinv(jacobian)
    return projection @ np.concatenate(deltas), projection @ np.concatenate(by_means)
