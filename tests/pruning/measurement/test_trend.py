"""The growth of a quantity along the checkpoints of a run: by hand, and how often it is claimed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pruning.analysis.shift_errors import CONTROL, ShiftErrors
from pruning.analysis.shifts import Shift
from pruning.measurement.replicated import pool_values
from pruning.measurement.trend import fit_growth, measure_slope

RATIOS = {f"random-{ratio}": ratio for ratio in (0.2, 0.4, 0.55, 0.7, 0.85, 0.95)}


def claims(x: np.ndarray, y: np.ndarray, draws: np.ndarray) -> bool:
    """Whether growth or decline is claimed."""
    growth = fit_growth(x.tolist(), y.tolist(), torch.from_numpy(draws))
    assert growth is not None
    assert growth.low is not None
    assert growth.high is not None
    return growth.low > 0 or growth.high < 0


def test_a_slope_has_an_intercept_and_needs_four_ratios() -> None:
    x, y = [0.9, 0.2, 0.5, 0.7], [0.3, 0.1, 0.25, 0.2]
    growth = fit_growth(x, y, torch.zeros(4, 10))
    assert growth is not None
    assert growth.value == pytest.approx(np.polyfit(x, y, 1)[0])
    assert fit_growth(x[:3], y[:3], torch.zeros(3, 10)) is None
    assert fit_growth([*x[:3], 0.9], y, torch.zeros(4, 10)) is None


def test_a_high_level_is_no_growth_and_a_straight_rise_is() -> None:
    x = np.linspace(0.2, 0.9, 6)
    draws = np.random.default_rng(0).normal(0, 0.002, (6, 1000))
    level = 0.05 + draws[:, 0]
    assert not claims(x, level, draws)
    assert claims(x, level + 0.1 * x, draws)
    assert claims(x, level - 0.1 * x, draws)


def test_the_order_of_the_points_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    x, y, draws = rng.random(5), rng.random(5), rng.random((5, 50))
    order = np.array([3, 1, 4, 0, 2])
    first = fit_growth(x.tolist(), y.tolist(), torch.from_numpy(draws))
    second = fit_growth(x[order].tolist(), y[order].tolist(), torch.from_numpy(draws[order]))
    assert first is not None
    assert second is not None
    assert first.model_dump() == pytest.approx(second.model_dump())


def correlate(count: int, correlation: float) -> np.ndarray:
    """The root of the covariance of a lineage: r^|i - j|."""
    place = np.arange(count)
    return np.linalg.cholesky(correlation ** np.abs(place[:, None] - place) + 1e-12 * np.eye(count))


def draw_deviations(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """What the checkpoints of one run are off by, in standard errors over images."""
    steps = rng.standard_normal(count)
    if kind == "none":
        return 0 * steps
    if kind == "independent":
        return 2 * steps
    if kind == "lineage":
        return 2 * correlate(count, 0.7) @ steps
    if kind == "random walk":
        return 2 * steps.cumsum() / count**0.5
    assert kind == "near-duplicates"
    return 2 * steps[np.arange(count) // 2]


KINDS = ("none", "independent", "lineage", "random walk", "near-duplicates")


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 10])
def test_growth_is_claimed_in_at_most_5_percent_of_null_runs(count: int) -> None:
    """The errors over images of a lineage, and checkpoints that are off by themselves."""
    rng = np.random.default_rng(count)
    x, jobs = np.linspace(0.2, 0.95, count), 200
    rates = {}
    power = {}
    for similarity in (0.5, 0.95):
        root = correlate(count, similarity)
        draws = root @ rng.standard_normal((count, 400))
        for kind in KINDS:
            claimed = 0
            for _ in range(jobs):
                y = root @ rng.standard_normal(count) + draw_deviations(kind, count, rng)
                claimed += claims(x, y, draws)
            rates[kind, similarity] = claimed / jobs
        grown = [claims(x, root @ rng.standard_normal(count) + 8 * x, draws) for _ in range(100)]
        power[similarity] = float(np.mean(grown))
    print(f"{count} checkpoints: null claims {rates}, power at 8 standard errors {power}")  # noqa: T201
    assert max(rates.values()) <= 0.05 + 2 * (0.05 * 0.95 / jobs) ** 0.5
    assert np.mean(list(rates.values())) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [3, 5])
def test_growth_over_replicates_is_claimed_in_at_most_5_percent_of_null_jobs(
    replicates: int,
) -> None:
    """Replicates share their images; each has a lineage of its own, off by more than images are."""
    rng = np.random.default_rng(replicates)
    count, jobs = 8, 300
    x = np.linspace(0.2, 0.95, count)
    root = correlate(count, 0.95)
    draws = torch.from_numpy(root @ rng.standard_normal((count, 400)))
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()

    def pool(growth: float, kind: str) -> tuple[float, float]:
        """The limits of the pooled slope of a job; images move all its replicates alike."""
        shared = root @ rng.standard_normal(count)
        measured = []
        for _ in range(replicates):
            y = shared + draw_deviations(kind, count, rng) + growth * x
            measured.append(measure_slope(x.tolist(), y.tolist(), draws))
        slopes, deviations = zip(*measured, strict=True)
        assert slopes[-1] == pytest.approx(float(weights @ y))
        slope, _ = pool_values(slopes, deviations, images=0, unit="points")
        assert slope.low is not None
        assert slope.high is not None
        return slope.low, slope.high

    rates = {}
    for kind in KINDS:
        limits = [pool(0.0, kind) for _ in range(jobs)]
        rates[kind] = float(np.mean([low > 0 or high < 0 for low, high in limits]))
    power = float(np.mean([pool(12.0, "random walk")[0] > 0 for _ in range(100)]))
    print(f"{replicates} replicates: null claims {rates}, power at 12 errors {power}")  # noqa: T201
    assert max(rates.values()) <= 0.05 + 2 * (0.05 * 0.95 / jobs) ** 0.5
    assert power >= 0.8


def draw_run(
    deviations: np.ndarray, similarity: float, rng: np.random.Generator, images: int = 500
) -> dict[str, dict[str, torch.Tensor]]:
    """The errors of a cascade: an image is hard or easy for all networks, and each network errs as
    the one before it did, but for some images; under shift each has an error of its own.
    """
    names = [CONTROL, *RATIOS]
    wrong: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    hard = rng.standard_normal(images)
    for shift, base in (("nominal", 0.1), ("fog 3", 0.3), ("snow 3", 0.35)):
        own = rng.standard_normal(images)
        for place, name in enumerate(names):
            if place:
                fresh = rng.standard_normal(images)
                own = similarity * own + (1 - similarity**2) ** 0.5 * fresh
            off = 0.0 if shift == "nominal" or not place else float(deviations[place - 1])
            limit = stats.norm.isf(np.clip(base + off, 0.01, 0.99))
            wrong[name][shift] = torch.from_numpy(0.8 * hard + 0.6 * own > limit)
    return wrong


@pytest.mark.slow
def test_few_null_cascades_grow_and_planted_growth_is_seen() -> None:
    """Whole runs, image by image, through the errors under shift."""
    rng = np.random.default_rng(0)
    across = np.array(list(RATIOS.values()))
    shifts = [Shift("fog", 3), Shift("snow", 3)]

    def is_claimed(deviations: np.ndarray, similarity: float) -> bool:
        wrong = draw_run(deviations, similarity, rng)
        errors = ShiftErrors(wrong, shifts, seed=0, seed_names=("growth",))
        resampled = [errors.resample_delta_excess(name) for name in RATIOS]
        values = np.array([value for value, _ in resampled])
        return claims(across, values, torch.stack([draws for _, draws in resampled]).numpy())

    rates = {}
    for kind in KINDS:
        jobs = 80
        claimed = 0
        for _ in range(jobs):
            deviations = 0.03 + 0.01 * draw_deviations(kind, len(RATIOS), rng)
            claimed += is_claimed(deviations, 0.95)
        rates[kind] = claimed / jobs
    power = {
        growth: float(np.mean([is_claimed(growth * across, 0.95) for _ in range(40)]))
        for growth in (0.05, 0.1, 0.2)
    }
    print(f"null claims {rates}; power by growth of the error per unit of prune ratio {power}")  # noqa: T201
    assert np.mean(list(rates.values())) <= 0.05
    assert max(rates.values()) <= 0.1
    assert power[0.2] >= 0.8
