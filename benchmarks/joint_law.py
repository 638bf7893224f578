"""What a joint fit with its bands costs: a thousand points of fifty networks, 500 refits to
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

import numpy as np
from scipy.optimize import curve_fit

from pruning.laws.forms import evaluate_pruned_error
from pruning.laws.joint import fit_joint_law

NETWORKS, DENSITIES, REFITS, SAMPLE, LIMIT_S, FASTER = 50, 20, 500, 20, 60.0, 3.0


def main() -> int:
    """Fit, refit by the reference, print; 1 when a limit is not held."""
    rng = np.random.default_rng(0)
    depth, width = (
        rng.choice([8.0, 14.0, 20.0, 26.0, 50.0], NETWORKS),
        2.0 ** rng.integers(-4, 3, NETWORKS),
    )
    dense = rng.uniform(0.03, 0.2, NETWORKS)
    depth, width, unpruned = (np.repeat(column, DENSITIES) for column in (depth, width, dense))
    density = np.tile(0.8 ** np.arange(DENSITIES), NETWORKS)
    truth = evaluate_pruned_error(depth**0.74 * width**1.5 * density, unpruned, 0.8, 0.3, 0.8)
    error = np.minimum(truth * (1 + 0.03 * rng.standard_normal(len(truth))), 0.89)

    begin = time.perf_counter()
    law = fit_joint_law(depth, width, density, error, unpruned, classes=10, refits=REFITS)
    ours = time.perf_counter() - begin

    def curve(
        rows: np.ndarray, log_gamma: float, log_p: float, log_plateau: float, phi: float, psi: float
    ) -> np.ndarray:
        rows = rows.astype(int)
        invariant = depth[rows] ** phi * width[rows] ** psi * density[rows]
        return evaluate_pruned_error(
            invariant, unpruned[rows], np.exp(log_gamma), np.exp(log_p), np.exp(log_plateau)
        )

    every = np.arange(len(error))
    start = [np.log(law.gamma), np.log(law.p), np.log(law.plateau) - 1e-3, 0.0, 0.0]
    limits = (
        [np.log(0.02), -20, np.log(error.max() / 1.1) - 1e-9, -6, -6],
        [np.log(20), 10, np.log(0.9) + 1e-9, 6, 6],
    )
    alone = curve_fit(curve, every, error, p0=start, sigma=error, bounds=limits)[0]
    found, begin = [], time.perf_counter()
    for _ in range(SAMPLE):
        rows = np.concatenate(
            [
                every[network * DENSITIES : (network + 1) * DENSITIES]
                for network in rng.integers(NETWORKS, size=NETWORKS)
            ]
        )
        fits = [
            curve_fit(curve, rows, error[rows], p0=one, sigma=error[rows], bounds=limits)[0]
            for one in (alone, start, [0.0, -1.0, start[2], 0.8, 1.5])
        ]
        found.append(
            min(
                fits,
                key=lambda one, rows=rows: float(  # type: ignore[misc]
                    ((curve(rows, *one) / error[rows] - 1) ** 2).sum()
                ),
            )
        )
    theirs = (time.perf_counter() - begin) * REFITS / SAMPLE

    assert law.refits is not None
    apart = float(
        np.abs(curve(every, *alone) / law.curve(depth, width, density, unpruned) - 1).max()
    )
    ours_phi, theirs_phi = (
        float(np.std([row[3] for row in rows])) for rows in (law.refits.theta, found)
    )
    print(
        f"joint fit of {len(error)} points with {REFITS} refits from 3 starts, leave-one-out, "
        f"back-test: {ours:.1f} s "
        f"(limit {LIMIT_S:g}); {REFITS} refits by curve_fit from as many, scaled up from "
        f"{SAMPLE}: {theirs:.1f} s, "
        f"{theirs / ours:.1f} times as long ({FASTER:g} asked); phi {law.phi:.3f} of 0.74, "
        f"+-{ours_phi:.4f} "
        f"and by curve_fit {theirs_phi:.4f}; the fits are {apart:.0e} apart"
    )
    return 0 if apart < 1e-4 and ours <= LIMIT_S and theirs >= FASTER * ours else 1


if __name__ == "__main__":
    sys.exit(main())
