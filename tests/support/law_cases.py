"""Curves for the scaling laws: simulated families with a known truth, and published ones where they
are at hand.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pruning.laws.density import DensityLaw, fit_density_law
from pruning.laws.forms import evaluate_pruned_error
from pruning.laws.joint import JointLaw, fit_joint_law
from pruning.schemas.report import Estimate

CURVES = Path(__file__).parents[2].parent / "shared" / "data" / "curves"
Floats = NDArray[np.float64]
published = pytest.mark.skipif(not CURVES.exists(), reason="../shared/data is not here")
DEPTHS = {"resnet20": 20, "resnet56": 56}
TRUTH = {"unpruned": 0.08, "gamma": 0.6, "p": 0.003, "plateau": 0.9}
"""The first golden network of the law."""


def compute_truth(density: Any) -> Floats:
    """The errors of the golden network."""
    return evaluate_pruned_error(density, **TRUTH)


@cache
def read_table(name: str) -> list[dict[str, str]]:
    """Read a published table."""
    with (CURVES / name).open() as file:
        return list(csv.DictReader(file))


def read_vision_transformers() -> dict[str, Floats]:
    """Read the published grid of sparse vision transformers, by column."""
    table = json.loads((CURVES / "frantar2023_vit.json").read_text())
    return {name: np.array(list(column.values()), float) for name, column in table.items()}


@dataclass(frozen=True)
class Published:
    """A weight-rewinding curve, trials averaged, beside the mean error of the unpruned networks."""

    density: Floats
    error: Floats
    unpruned: float


@cache
def read_rewound(network: str) -> Published:
    """Read the iterative pruning of one network of Renda et al., rewound to a tenth of training."""
    epochs = "81.0" if network == "resnet50" else "170.0"
    errors = defaultdict(list)
    for row in read_table("imp-renda2020.csv"):
        if (row["network"], row["is_iterative"], row["retrain_method"], row["retrain_time"]) == (
            network,
            "True",
            "lottery",
            epochs,
        ):
            errors[round(float(row["density"]), 4)].append(1 - float(row["test_acc"]))
    unpruned = [
        1 - float(row["test_acc"])
        for row in read_table("imp-renda2020-unpruned.csv")
        if row["network"] == network
    ]
    density = sorted(errors, reverse=True)
    return Published(
        np.array(density), np.array([np.mean(errors[d]) for d in density]), float(np.mean(unpruned))
    )


def read_rewound_trials(network: str) -> list[Published]:
    """Read the single runs behind `read_rewound`, each beside the mean unpruned error."""
    runs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in read_table("imp-renda2020.csv"):
        if (row["network"], row["is_iterative"], row["retrain_method"], row["retrain_time"]) == (
            network,
            "True",
            "lottery",
            "170.0",
        ):
            runs[row["trial"]].append((float(row["density"]), 1 - float(row["test_acc"])))
    unpruned = read_rewound(network).unpruned
    curves = []
    for points in runs.values():
        density, error = np.array(sorted(points, reverse=True)).T
        curves.append(Published(density, error, unpruned))
    return curves


def list_risen() -> list[Published]:
    """The iteratively pruned curves of Renda et al. whose error reaches 1.5 times the unpruned one,
    however they were retrained.
    """
    curve_points: dict[tuple[str, ...], dict[float, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in read_table("imp-renda2020.csv"):
        if row["is_iterative"] == "True" and row["network"] != "resnet50":
            key = (row["network"], row["retrain_method"], row["retrain_time"])
            curve_points[key][round(float(row["density"]), 4)].append(1 - float(row["test_acc"]))
    curves = []
    for (network, *_), points in curve_points.items():
        density = np.array(sorted(points, reverse=True))
        curves.append(
            Published(
                density,
                np.array([np.mean(points[d]) for d in density]),
                read_rewound(network).unpruned,
            )
        )
    return [curve for curve in curves if curve.error.max() >= 1.5 * curve.unpruned]


def gather_resnets() -> dict[str, Floats]:
    """The curves of ResNet-20 and ResNet-56 as the arguments of a joint fit."""
    curves = {network: read_rewound(network) for network in DEPTHS}
    return {
        "depth": np.concatenate(
            [np.full(len(curve.density), float(DEPTHS[name])) for name, curve in curves.items()]
        ),
        "density": np.concatenate([curve.density for curve in curves.values()]),
        "error": np.concatenate([curve.error for curve in curves.values()]),
        "unpruned_error": np.concatenate(
            [np.full(len(curve.density), curve.unpruned) for curve in curves.values()]
        ),
    }


@dataclass(frozen=True)
class Family:
    """Depths 8, 14, 26 x widths 1/2, 1, 2 at ten densities each, exact and with noise.

    The noise is on every error; `unpruned_measured` is `unpruned` with noise.
    """

    depth: Floats
    width: Floats
    density: Floats
    unpruned: Floats
    true: Floats
    error: Floats
    unpruned_measured: Floats

    def fit(self, chosen: Any = slice(None), **options: Any) -> JointLaw:
        """The joint law of some of the points."""
        return fit_joint_law(
            self.depth[chosen],
            self.width[chosen],
            self.density[chosen],
            self.error[chosen],
            self.unpruned_measured[chosen],
            classes=10,
            **options,
        )


LAW = {"gamma": 0.7, "p": 0.03, "plateau": 0.9}
PHI, PSI = 0.74, 1.5


def compute_unpruned(depth: Any, width: Any) -> Any:
    """The unpruned error of a member of the family."""
    return 0.3 * depth**-0.3 * width**-0.4


def simulate_family(
    seed: int, noise: float = 0.03, between: float = 0.0, images: int | None = None
) -> Family:
    """Simulate a family with relative noise, and with errors on `images` where they are given.

    Whole networks differ from the law by a relative standard deviation `between`.
    """
    rng = np.random.default_rng(seed)
    networks = [(depth, width) for depth in (8.0, 14.0, 26.0) for width in (0.5, 1.0, 2.0)]
    density = 0.8 ** np.arange(1, 21, 2)
    depth, width = (np.repeat(column, len(density)) for column in np.array(networks).T)
    unpruned, d = compute_unpruned(depth, width), np.tile(density, len(networks))
    true = evaluate_pruned_error(depth**PHI * width**PSI * d, unpruned, **LAW)
    own = np.repeat(1 + between * rng.standard_normal(len(networks)), len(density))
    error = true * own * (1 + noise * rng.standard_normal(len(true)))
    unpruned_measured = unpruned * np.repeat(
        1 + noise * rng.standard_normal(len(networks)), len(density)
    )
    if images is not None:
        error = rng.binomial(images, np.minimum(error, 0.9)) / images
        unpruned_measured = (
            np.repeat(rng.binomial(images, unpruned_measured[:: len(density)]), len(density))
            / images
        )
    return Family(depth, width, d, unpruned, true, np.minimum(error, 0.98), unpruned_measured)


def fit_single(
    number: int, n: int = 14, noise: float = 0.03, dense_noise: float = 0.03, **options: Any
) -> DensityLaw:
    """Fit the law of the golden network to `n` noisy points."""
    rng = np.random.default_rng(number)
    density = 0.8 ** np.arange(1, n + 1)
    return fit_density_law(
        density,
        compute_truth(density) * (1 + noise * rng.standard_normal(n)),
        TRUTH["unpruned"] * (1 + dense_noise * rng.standard_normal()),
        classes=10,
        **options,
    )


def is_hit(band: Estimate, error: float) -> bool:
    """Return whether a band holds an error."""
    assert band.low is not None
    assert band.high is not None
    return bool(band.low <= error <= band.high)


def list_hits(bands: Estimate | tuple[Estimate, ...], errors: Floats) -> list[bool]:
    """List for each band whether it holds its error."""
    assert isinstance(bands, tuple)
    return [is_hit(band, error) for band, error in zip(bands, errors, strict=True)]
