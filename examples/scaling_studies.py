"""How few points does the law of a family need, and how far does it carry? Two studies of a
finished family.

`python examples/scaling_studies.py RESULTS.json` reads what `GET /v1/jobs/<family>/results` or
`secateur results` gives, and prints two tables. Few points: laws fitted to points, and to whole
networks, drawn at random, beside all points of the family. Over scales: laws of the smaller
networks, the narrower or shallower ones, those of fewer images, and the denser points, beside the
rest. Figures are of relative deviations, predicted error / measured error - 1: their mean and their
standard deviation. Unpruned errors are the networks' own, as in the law. Source of the questions:
Rosenfeld, Frankle, Carbin and Shavit, On the predictability of pruning across scales, 2021.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning.errors import SecateurError
from pruning.laws.forms import evaluate_pruned_error
from pruning.laws.joint import fit_joint_law

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
FEW_POINTS = (10, 20, 40, 80)
FEW_NETWORKS = (3, 5, 10, 15)
DRAWS = 20
"""The random choices of each number of points."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """The points of a family, one for each density of each member; all columns are (n,)."""

    depth: Floats
    width: Floats
    fraction: Floats
    density: Floats
    error: Floats
    unpruned: Floats
    network: Floats
    """The number of the member's depth, width and fraction."""

    @staticmethod
    def of(results: Mapping[str, Any]) -> Points:
        """The points of the members that have a curve."""
        members = [row for row in results["members"] if row["errors"]]
        networks = sorted({(row["depth"], row["width"], row["fraction"]) for row in members})
        rows = []
        for row in members:
            key = row["depth"], row["width"], row["fraction"]
            for density, error in zip(row["densities"], row["errors"], strict=True):
                point = (*key, density, error, row["unpruned_error"], networks.index(key))
                rows.append(point)
        columns = np.array(rows, float).T
        depth, width, fraction, density, error, unpruned, network = columns
        return Points(
            depth=depth,
            width=width,
            fraction=fraction,
            density=density,
            error=error,
            unpruned=unpruned,
            network=network,
        )

    def deviate(self, fitted: Flags, others: Flags, classes: int) -> Floats:
        """Predicted / measured - 1 of the other points, by the law of the fitted ones."""
        law = fit_joint_law(
            self.depth[fitted],
            self.width[fitted],
            self.density[fitted],
            self.error[fitted],
            self.unpruned[fitted],
            classes=classes,
            network=list(self.network[fitted]),
            refits=0,
        )
        invariant = law.invariant(self.depth[others], self.width[others], self.density[others])
        predicted = evaluate_pruned_error(
            invariant, self.unpruned[others], law.gamma, law.p, law.plateau
        )
        return np.asarray(predicted / self.error[others] - 1)


def study_few_points(points: Points, classes: int, seed: int = 0) -> list[tuple[str, str]]:
    """The deviations of all points by laws of some: the median over draws of mean and spread."""
    rng = np.random.default_rng(seed)
    everything = np.ones(len(points.error), bool)
    rows = [("all points", describe(points.deviate(everything, everything, classes)))]
    numbers = np.arange(len(points.error), dtype=float)
    choices = [("points", numbers, number) for number in FEW_POINTS]
    choices += [("networks", points.network, number) for number in FEW_NETWORKS]
    for unit, own, number in choices:
        labels = np.unique(own)
        if number >= len(labels):
            continue
        deviations = []
        for _ in range(DRAWS):
            chosen = np.isin(own, rng.choice(labels, number, replace=False))
            try:
                deviations.append(points.deviate(chosen, everything, classes))
            except SecateurError:  # too few of a kind for a law
                continue
        name = f"{number} {unit}, {len(deviations)} of {DRAWS} draws"
        rows.append((name, describe_draws(deviations)))
    return rows


def study_scales(points: Points, classes: int) -> list[tuple[str, str]]:
    """The deviations of large networks and sparse points by laws of small and dense ones."""
    size = points.depth * points.width**2
    splits = {
        "smaller half of the networks": size <= np.median(size),
        "narrower half": points.width <= np.median(points.width),
        "shallower half": points.depth <= np.median(points.depth),
        "fewer images": points.fraction < points.fraction.max(),
        "denser half of the points": points.density >= np.median(points.density),
    }
    rows = []
    for name, fitted in splits.items():
        if fitted.all() or not fitted.any():
            continue
        try:
            rows.append((name, describe(points.deviate(fitted, ~fitted, classes))))
        except SecateurError as error:
            rows.append((name, str(error)))
    return rows


def describe(deviations: Floats) -> str:
    """Mean and standard deviation, in per cent."""
    return f"{deviations.mean():+.1%} ± {deviations.std():.1%}"


def describe_draws(draws: list[Floats]) -> str:
    """The medians over draws of the size of the mean and of the standard deviation, in per cent."""
    if not draws:
        return "no draw gave a law"
    means = np.median([abs(deviations.mean()) for deviations in draws])
    spreads = np.median([deviations.std() for deviations in draws])
    return f"{means:.1%} ± {spreads:.1%}"


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results of a finished family, as JSON")
    parser.add_argument("--classes", type=int, default=10)
    arguments = parser.parse_args()
    points = Points.of(json.loads(arguments.results.read_text(encoding="utf-8")))
    for title, rows in (
        ("a law of", study_few_points(points, arguments.classes)),
        ("a law of the", study_scales(points, arguments.classes)),
    ):
        print(f"{title:<40}misses the others by")
        print("\n".join(f"{name:<40}{text}" for name, text in rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
