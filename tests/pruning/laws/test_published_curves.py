"""The pruning laws on published curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pruning.errors import InsufficientPointsError
from pruning.laws.bands import BandTarget
from pruning.laws.density import fit_density_law
from pruning.laws.joint import fit_joint_law
from tests.support.law_cases import (
    gather_resnets,
    is_hit,
    list_hits,
    list_risen,
    published,
    read_rewound,
    read_rewound_trials,
)
from tests.support.lineages import tell


@published
@pytest.mark.parametrize(
    ("network", "classes"), [("resnet20", 10), ("resnet56", 10), ("resnet50", 1000)]
)
def test_published_curves_are_fitted(network: str, classes: int) -> None:
    curve = read_rewound(network)
    law = fit_density_law(curve.density, curve.error, curve.unpruned, classes=classes)
    assert law.fit.residual_sd <= 0.03
    assert abs(law.fit.residual_mean) <= 0.03
    assert any("below the unpruned error" in warning for warning in law.warnings)
    assert law.back_test is not None
    assert law.back_test.bias < 0  # optimistic, as extrapolation is


@published
def test_published_resnets_share_a_law() -> None:
    columns: dict[str, Any] = gather_resnets()
    law = fit_joint_law(width=1, classes=10, **columns)
    assert law.fit.residual_sd <= 0.03
    assert (law.gamma, law.p, law.phi) == pytest.approx((0.735, 0.0153, 0.690), rel=5e-3)


@pytest.mark.slow
@published
def test_published_densities_that_were_held_out() -> None:
    """15 random splits of the 27 points of ResNet-20 and ResNet-56; a band is refused only for a
    sparsest point held out.
    """
    columns, rng = gather_resnets(), np.random.default_rng(0)
    missed, held, refused = [], [], 0
    for _ in range(15):
        fitted = np.ones(27, bool)
        fitted[rng.choice(27, 7, replace=False)] = False
        points: dict[str, Any] = {name: values[fitted] for name, values in columns.items()}
        law = fit_joint_law(width=1, classes=10, **points)
        for depth, density, error, unpruned in zip(
            *(values[~fitted] for values in columns.values()), strict=True
        ):
            missed.append(abs(float(law.curve(depth, 1, density, unpruned)) / error - 1))
            try:
                (forecast,) = law.forecasts(
                    depth, 1, density, unpruned, of="run", seed_sd=0.0
                )  # of the seeds that were fitted
            except InsufficientPointsError:
                assert density < min(network.sparsest for network in law.networks)
                refused += 1
                continue
            held.append(is_hit(forecast.error, error))
    assert (len(missed), len(held)) == (105, 105 - refused)
    assert refused < 8
    assert np.mean(missed) <= 0.05
    assert 0.80 <= np.mean(held) <= 0.97


@pytest.mark.slow
@published
def test_published_further_runs() -> None:
    """The law of one published run holds the other runs of its network, trained under other seeds,
    in its bands of one more run; bands of the curve do not.
    """
    held: dict[BandTarget, list[bool]] = {"run": [], "curve": []}
    for network in ("resnet20", "resnet56"):
        runs = read_rewound_trials(network)
        for fitted in runs:
            law = fit_density_law(fitted.density, fitted.error, fitted.unpruned, classes=10)
            for other in (run for run in runs if run is not fitted):
                inside = (other.density >= fitted.density.min()) & (other.density <= 1)
                for of, hits in held.items():
                    bands = law.predict(other.density[inside], of=of)
                    hits += list_hits(bands, other.error[inside])
    for of, hits in held.items():
        tell(f"further published runs in bands of {of}: {np.mean(hits):.3f} of {len(hits)}")
    assert np.mean(held["run"]) >= 0.85
    assert np.mean(held["curve"]) < 0.8


@pytest.mark.slow
@published
def test_published_curves_beyond_what_was_fitted() -> None:
    """Fitted once the error has risen to 1.5 times the unpruned one: the next three rounds are
    mostly in their bands; after every third round.
    """
    held, missed = [], []
    for curve in list_risen():
        for end in range(5, len(curve.density), 3):
            if curve.error[:end].max() < 1.5 * curve.unpruned:
                continue
            law = fit_density_law(
                curve.density[:end], curve.error[:end], curve.unpruned, classes=10
            )
            for density, error in zip(
                curve.density[end : end + 3], curve.error[end : end + 3], strict=True
            ):
                (forecast,) = law.forecasts(density, of="run")
                assert forecast.extrapolated
                held.append(is_hit(forecast.error, error))
                missed.append(abs(forecast.error.value / error - 1))
    assert len(held) > 50
    assert 0.80 <= np.mean(held) <= 0.97
    assert np.mean(missed) <= 0.10
