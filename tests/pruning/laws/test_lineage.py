"""Bands of one more run under another seed, where the errors of a cascade share what its seed
does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pruning.laws.curves import SEED_SD
from pruning.laws.density import DensityLaw, fit_density_law
from pruning.laws.forms import evaluate_pruned_error
from pruning.laws.joint import fit_joint_law
from pruning.laws.pair import pair_laws
from pruning.laws.seeds import SeedEffect
from pruning.laws.selection import compare_density_laws
from tests.support.law_cases import LAW, PHI, PSI, compute_truth, compute_unpruned, list_hits
from tests.support.lineages import Lineage, repeat_coverage, tell

CASES: dict[str, tuple[Lineage, int, float]] = {
    "six densities": (Lineage(), 6, 0.6),
    "fourteen densities": (Lineage(), 14, 0.8),
    "unpruned error with a seed of its own": (Lineage(moves_unpruned=False), 10, 0.7),
    "a rest as large as the seed": (Lineage(rest_sd=0.034), 14, 0.8),
    "1,000 test images": (Lineage(images=1_000), 14, 0.8),
}


def cover_one_more_run(
    lineage: Lineage, points: int, keep: float, times: int, of: Any = "run"
) -> float:
    """How often the 90 % band of the law of one cascade holds the errors of another."""
    density = keep ** np.arange(1.0, points + 1)
    truth = compute_truth(density)

    def once(rng: np.random.Generator) -> list[bool]:
        errors, unpruned = lineage.draw(truth, 0.08, rng)
        law = fit_density_law(density, errors, unpruned, classes=10, images=lineage.images)
        return list_hits(law.predict(density, of=of), lineage.draw(truth, 0.08, rng)[0])

    return repeat_coverage(once, times)


def test_the_default_band_is_of_one_more_run_with_its_seed() -> None:
    errors, unpruned = Lineage().draw(
        compute_truth(0.8 ** np.arange(1.0, 15)), 0.08, np.random.default_rng(0)
    )
    law = fit_density_law(0.8 ** np.arange(1.0, 15), errors, unpruned, classes=10)
    assert law.predict(0.1) == law.predict(0.1, of="run")
    assert law.seed_effect == SeedEffect(sd=SEED_SD, degrees_of_freedom=None)
    still = law.model_copy(update={"seed_effect": SeedEffect(sd=0.0)})
    widths = [
        np.log(band.high / band.low) / 2  # type: ignore[operator]
        for band in (law.predict(0.1), still.predict(0.1))
    ]
    seed = 1.645 * SEED_SD * np.sqrt(2)  # of the curve that was fitted and of the one to come
    assert widths[0] > seed
    assert widths[0] == pytest.approx(np.hypot(widths[1], seed), rel=0.02)
    assert law.predict(0.1, of="curve") == still.predict(0.1, of="curve")


def test_a_law_of_an_earlier_version_takes_the_effect_of_the_paper() -> None:
    density = 0.8 ** np.arange(1.0, 15)
    law = fit_density_law(density, compute_truth(density) * 1.01, 0.08, classes=10)
    document = law.model_dump(mode="json")
    del document["seed_effect"]
    for network in document["networks"]:
        del network["trials"]
    assert DensityLaw.model_validate(document) == law


def test_the_effect_of_a_seed_is_pooled_from_trials() -> None:
    rng, lineage = np.random.default_rng(1), Lineage(seed_sd=0.10)
    density, trials = 0.8 ** np.arange(1.0, 15), 8
    drawn = [lineage.draw(compute_truth(density), 0.08, rng) for _ in range(trials)]
    law = fit_density_law(
        np.tile(density, trials),
        np.concatenate([errors for errors, _ in drawn]),
        np.repeat([unpruned for _, unpruned in drawn], 14),
        classes=10,
        images=10_000,
        trial=list(np.repeat(np.arange(trials), 14)),
    )
    assert law.seed_effect.degrees_of_freedom == trials - 1
    assert law.seed_effect.sd == pytest.approx(0.10, rel=0.5)
    assert law.networks[0].trials == trials


@pytest.mark.slow
def test_a_further_run_is_inside_the_band() -> None:
    covered = []
    for name, (lineage, points, keep) in CASES.items():
        covered.append(cover_one_more_run(lineage, points, keep, 24))
        tell(f"one more run, {name}: {covered[-1]:.3f} inside the 90 % band")
        assert 0.82 <= covered[-1] <= 0.97, name  # of 24 runs, whose errors move together
    tell(f"one more run, all cases: {np.mean(covered):.3f}")
    assert 0.85 <= np.mean(covered) <= 0.95
    curve = cover_one_more_run(*CASES["fourteen densities"], 10, of="curve")
    tell(f"the same by bands of the curve: {curve:.3f}")
    assert curve < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("true", ["pruning", "broken"])
def test_a_further_run_is_inside_the_band_of_the_law_that_was_chosen(true: str) -> None:
    density = 0.75 ** np.arange(1.0, 17)
    truth = compute_truth(density)
    if true == "broken":
        truth = 0.08 + 0.4 * (1 + (density / 0.03) ** 2) ** -0.8
    lineage, chosen = Lineage(), []

    def once(rng: np.random.Generator) -> list[bool]:
        errors, unpruned = lineage.draw(truth, 0.08, rng)
        law = fit_density_law(density, errors, unpruned, classes=10, images=10_000)
        pair = pair_laws(law, *compare_density_laws(density, errors, unpruned, classes=10, law=law))
        chosen.append("pruning" if pair.interpolation is None else pair.interpolation.name)
        bands = pair.forecasts([float(d) for d in density], confidence=0.9)
        return list_hits(
            tuple(forecast.error for forecast in bands), lineage.draw(truth, 0.08, rng)[0]
        )

    coverage = repeat_coverage(once, 20)
    tell(f"one more run, truth {true}: {coverage:.3f}; chosen {sorted(set(chosen))}")
    assert 0.82 <= coverage <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_further_run_of_a_family_is_inside_the_band(seeds: int) -> None:
    """Of a network that was fitted, and of one between the fitted sizes that was trained once."""
    networks = [(depth, width) for depth in (8.0, 14.0, 26.0) for width in (0.5, 1.0, 2.0)]
    density = 0.8 ** np.arange(1.0, 21, 2)
    lineage = Lineage()

    def draw(depth: float, width: float, rng: np.random.Generator) -> tuple[Any, float]:
        unpruned = compute_unpruned(depth, width)
        truth = evaluate_pruned_error(depth**PHI * width**PSI * density, unpruned, **LAW)
        return lineage.draw(truth, unpruned, rng)

    fresh: list[bool] = []

    def once(rng: np.random.Generator) -> list[bool]:
        rows = [
            (depth, width, d, e, unpruned, (depth, width), t)
            for depth, width in networks
            for t in range(seeds)
            for errors, unpruned in [draw(depth, width, rng)]
            for d, e in zip(density, errors, strict=True)
        ]
        *columns, network, trial = zip(*rows, strict=True)
        law = fit_joint_law(
            *columns, classes=10, images=10_000, network=network, trial=trial, refits=50
        )
        known = law.networks[4]
        bands = law.predict(14.0, 1.0, density, known.unpruned_error)
        between = law.predict(20.0, 1.41, density[:-1], draw(20.0, 1.41, rng)[1])
        assert isinstance(bands, tuple)
        assert isinstance(between, tuple)
        fresh.extend(list_hits(between, draw(20.0, 1.41, rng)[0][:-1]))
        return list_hits(bands, draw(14.0, 1.0, rng)[0])

    known = repeat_coverage(once, 40)
    tell(f"family of {seeds} seeds: a fitted network {known:.3f}, another {np.mean(fresh):.3f}")
    assert 0.82 <= known <= 0.97
    assert np.mean(fresh) >= 0.85  # of few networks, the band of another is that of the worst
