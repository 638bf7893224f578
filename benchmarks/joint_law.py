"""The costs of a joint fit with its bands: a thousand points of fifty networks, 500 refits to
resampled networks.

`python benchmarks/joint_law.py` fits the joint law to one simulated family, and in the same run the
reference: the same refits one after the other by scipy's `curve_fit` without a gradient, from the
optimum and two other starts as well, twenty of them and scaled up. On the points as they are the
two must agree. Limits: one minute for all of it, and three times as fast as the reference, which
fits nothing else.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
from scipy.optimize import curve_fit

from pruning.laws.forms import evaluate_pruned_error
from pruning.laws.joint import JointLaw, fit_joint_law

NETWORKS = 50
DENSITIES = 20
REFITS = 500
SAMPLE = 20
"""The number of refits by the reference, from which the time of all is scaled up."""
LIMIT_S = 60.0
FASTER = 3.0
"""The least ratio of the times of the reference and of the joint fit."""
PHI, PSI, GAMMA, P, PLATEAU = 0.74, 1.5, 0.8, 0.3, 0.8


@dataclass(frozen=True)
class Points:
    """The columns of the simulated family, (NETWORKS * DENSITIES,) each."""

    depth: np.ndarray
    width: np.ndarray
    density: np.ndarray
    unpruned: np.ndarray
    error: np.ndarray

    def predict(self, rows: np.ndarray, *parameters: float) -> np.ndarray:
        """The law at some of the points, as `curve_fit` calls it."""
        log_gamma, log_p, log_plateau, phi, psi = parameters
        rows = rows.astype(int)
        invariant = self.depth[rows] ** phi * self.width[rows] ** psi * self.density[rows]
        return evaluate_pruned_error(
            invariant, self.unpruned[rows], np.exp(log_gamma), np.exp(log_p), np.exp(log_plateau)
        )


def simulate_points(rng: np.random.Generator) -> Points:
    """Simulate a family with 3 % noise."""
    depths = rng.choice([8.0, 14.0, 20.0, 26.0, 50.0], NETWORKS)
    widths = 2.0 ** rng.integers(-4, 3, NETWORKS)
    unpruned_errors = rng.uniform(0.03, 0.2, NETWORKS)
    depth, width, unpruned = (
        np.repeat(column, DENSITIES) for column in (depths, widths, unpruned_errors)
    )
    density = np.tile(0.8 ** np.arange(DENSITIES), NETWORKS)
    invariant = depth**PHI * width**PSI * density
    truth = evaluate_pruned_error(invariant, unpruned, GAMMA, P, PLATEAU)
    error = np.minimum(truth * (1 + 0.03 * rng.standard_normal(len(truth))), 0.89)
    return Points(depth, width, density, unpruned, error)


def refit_by_reference(
    points: Points, law: JointLaw, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Fit all points and SAMPLE resamples by `curve_fit`; with the seconds for one."""
    rows = np.arange(len(points.error))
    start = [np.log(law.gamma), np.log(law.p), np.log(law.plateau) - 1e-3, 0.0, 0.0]
    limits = (
        [np.log(0.02), -20, np.log(points.error.max() / 1.1) - 1e-9, -6, -6],
        [np.log(20), 10, np.log(0.9) + 1e-9, 6, 6],
    )

    def fit(chosen: np.ndarray, first: np.ndarray | list[float]) -> np.ndarray:
        error = points.error[chosen]
        return curve_fit(points.predict, chosen, error, p0=first, sigma=error, bounds=limits)[0]

    def measure(chosen: np.ndarray, parameters: np.ndarray) -> float:
        deviation = points.predict(chosen, *parameters) / points.error[chosen] - 1
        return float((deviation**2).sum())

    best = fit(rows, start)
    starts = (best, start, [0.0, -1.0, start[2], 0.8, 1.5])
    refits = []
    begin = time.perf_counter()
    for _ in range(SAMPLE):
        networks = rng.integers(NETWORKS, size=NETWORKS)
        chosen = np.concatenate(
            [rows[network * DENSITIES : (network + 1) * DENSITIES] for network in networks]
        )
        costs = []
        for first in starts:
            parameters = fit(chosen, first)
            costs.append((measure(chosen, parameters), parameters))
        refits.append(min(costs, key=lambda pair: pair[0])[1])
    return best, refits, (time.perf_counter() - begin) / SAMPLE


def main() -> int:
    """Fit, refit by the reference, print; 1 when a limit is not held."""
    rng = np.random.default_rng(0)
    points = simulate_points(rng)
    begin = time.perf_counter()
    law = fit_joint_law(
        points.depth,
        points.width,
        points.density,
        points.error,
        points.unpruned,
        classes=10,
        refits=REFITS,
    )
    ours = time.perf_counter() - begin
    best, refits, seconds = refit_by_reference(points, law, rng)
    theirs = seconds * REFITS

    assert law.refits is not None
    by_reference = points.predict(np.arange(len(points.error)), *best)
    by_law = law.curve(points.depth, points.width, points.density, points.unpruned)
    difference = float(np.abs(by_reference / by_law - 1).max())
    our_phi = float(np.std([theta[3] for theta in law.refits.theta]))
    their_phi = float(np.std([parameters[3] for parameters in refits]))
    print(
        f"joint fit of {len(points.error)} points with {REFITS} refits from 3 starts, "
        f"leave-one-out, back-test: {ours:.1f} s (limit {LIMIT_S:g}); {REFITS} refits by curve_fit "
        f"from as many, scaled up from {SAMPLE}: {theirs:.1f} s, {theirs / ours:.1f} times as long "
        f"({FASTER:g} asked); phi {law.phi:.3f} of {PHI}, +-{our_phi:.4f} and by curve_fit "
        f"{their_phi:.4f}; the fits differ by {difference:.0e}"
    )
    held = difference < 1e-4 and ours <= LIMIT_S and theirs >= FASTER * ours
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
