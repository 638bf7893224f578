"""Lack of fit of the invariant against the scatter of seeds, whose curves move as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pruning.family.invariant_section import build_invariant_section
from pruning.family.lack_of_fit import measure_lack_of_fit
from pruning.family.measurements import FamilyMeasurements, fit_family_law
from pruning.laws.forms import evaluate_pruned_error
from tests.support.law_cases import LAW, PHI, PSI, compute_unpruned
from tests.support.lineages import Lineage, tell

NETWORKS = [(depth, width) for depth in (8.0, 14.0, 26.0) for width in (0.5, 2.0)]
DENSITY = 0.5 ** np.arange(1.0, 6)


def simulate(
    rng: np.random.Generator, *, seeds: int = 3, between: float = 0.0, lineage: Lineage = Lineage()
) -> FamilyMeasurements:
    """Six networks; each has an invariant of its own, off by a deviation `between` of its log."""
    rows: list[tuple[Any, ...]] = []
    for depth, width in NETWORKS:
        unpruned = compute_unpruned(depth, width)
        own = np.exp(between * rng.standard_normal())
        invariant = depth**PHI * width**PSI * DENSITY * own
        truth = evaluate_pruned_error(invariant, unpruned, **LAW)
        for seed in range(seeds):
            errors, dense = lineage.draw(truth, unpruned, rng)
            rows += [
                (depth, width, d, e, dense, (depth, width, 1.0), seed)
                for d, e in zip(DENSITY, errors, strict=True)
            ]
    depths, widths, density, error, unpruned_errors, network, trial = zip(*rows, strict=True)
    return FamilyMeasurements(
        depth=np.array(depths),
        width=np.array(widths),
        density=np.array(density),
        error=np.array(error),
        unpruned=np.array(unpruned_errors),
        network=network,
        trial=trial,
        guessing_error=0.9,
        images=np.full(len(rows), 10_000.0),
    )


def test_networks_far_off_the_law_are_a_lack_of_fit() -> None:
    points = simulate(np.random.default_rng(3), between=0.5)
    law = fit_family_law(points, refits=0)
    lack = measure_lack_of_fit(law, points)
    assert lack is not None
    assert lack.trials == 12
    assert lack.ratio > 5
    assert lack.p_value < 0.01
    section = build_invariant_section(law, points)
    assert section.scalars["lack of fit, p-value"].value == lack.p_value
    assert any("does not hold to within the scatter of seeds" in note for note in section.notes)


def test_one_seed_tests_nothing_and_says_so() -> None:
    points = simulate(np.random.default_rng(0), seeds=1)
    law = fit_family_law(points, refits=0)
    assert measure_lack_of_fit(law, points) is None
    assert any("was not tested" in note for note in build_invariant_section(law, points).notes)


@pytest.mark.slow
def test_the_law_is_rarely_refused_where_it_holds() -> None:
    """The null: curves of a seed move as a whole, and their rest is correlated."""
    exact = Lineage(seed_sd=0, rest_sd=0, noise_sd=0, images=10**9)
    # Deviations are projected off the fitted parameters: the true ones serve every simulation.
    law = fit_family_law(simulate(np.random.default_rng(0), lineage=exact), refits=0)
    claimed = {}
    for name, between, lineage in (
        ("the law holds", 0.0, Lineage()),
        ("the law holds, no effect of a whole curve", 0.0, Lineage(seed_sd=0.0, rest_sd=0.034)),
        ("networks 30 % off the invariant", 0.3, Lineage()),
    ):
        p_values = []
        for seed in range(200):
            points = simulate(np.random.default_rng(seed), between=between, lineage=lineage)
            lack = measure_lack_of_fit(law, points)
            assert lack is not None
            p_values.append(lack.p_value)
        claimed[name] = float(np.mean(np.array(p_values) <= 0.05))
        tell(f"lack of fit, {name}: claimed in {claimed[name]:.1%}")
    null, uncorrelated, off = claimed.values()
    assert max(null, uncorrelated) <= 0.05
    assert off >= 0.7
