"""Means over replicates and images: by hand, and in simulations with lineages and shared images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm, t

from pruning.data.builtin import datasets
from pruning.data.tensors import prepare
from pruning.measurement.crossed_limits import (
    compute_limits,
    count_needed_images,
    p_value_above,
    p_value_below,
)
from pruning.measurement.replicated import (
    estimate_with_interval,
    measure_error,
    measure_increase,
    pool_estimates,
    predict_run,
)
from pruning.networks import resolve
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.schemas.estimates import Estimate
from pruning.schemas.recipe import Limit, Recipe
from pruning.schemas.verdicts import CrossedVariance
from pruning.storage.stages import Stages
from tests.support.pipelines import CPU, Listener

BASE_ERROR = 0.08
DIFFICULTY_SD = 1.5
RHO = 0.9


def test_the_variance_is_that_of_images_and_that_of_replicates() -> None:
    pruned = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0]], dtype=torch.bool)
    control = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    value, variance = measure_increase(pruned, control)
    assert value == pytest.approx(3 / 8)
    by_images = np.var([0.5, 0.5, 0.0, 0.5, 1.0, -1.0], ddof=1) / 6
    assert variance.by_images == pytest.approx(by_images)
    assert variance.by_replicates == pytest.approx(np.var([0.5, 0.25], ddof=1) / 2)
    assert (variance.images, variance.replicates) == (4, 2)


def test_limits_and_p_values_agree() -> None:
    variance = CrossedVariance(
        by_images=4e-5, by_replicates=1e-5, images=500, replicates=4, error=0.1
    )
    for confidence in (0.75, 0.95, 0.999):
        low, high = compute_limits(0.01, variance, confidence)
        assert low < 0.01 < high
        assert high - 0.01 > 0.01 - low, "seeds move a larger error by more"
        assert p_value_below(0.01, variance, high) == pytest.approx(1 - confidence, rel=1e-6)
        assert p_value_above(0.01, variance, low) == pytest.approx(1 - confidence, rel=1e-6)
    assert p_value_below(0.01, variance, 0.0) + p_value_above(0.01, variance, 0.0) == 1.0


def test_two_replicates_that_lie_far_apart_bound_nothing() -> None:
    variance = CrossedVariance(
        by_images=1e-6, by_replicates=1e-2, images=500, replicates=2, error=0.2
    )
    assert compute_limits(0.1, variance, 0.95)[1] == math.inf
    assert p_value_below(0.1, variance, 1.0) > 0.05


def test_images_without_end_do_not_replace_replicates() -> None:
    few = CrossedVariance(by_images=1e-4, by_replicates=1e-4, images=200, replicates=2)
    assert count_needed_images(0.0, few, 0.02, 0.95) is None
    many = few.model_copy(update={"by_replicates": 1e-7, "replicates": 20})
    needed = count_needed_images(0.0, many, 0.02, 0.95)
    assert needed is not None
    z = norm.ppf(0.95) + norm.ppf(0.8)
    assert needed == pytest.approx(200 * 1e-4 * (z / 0.02) ** 2, rel=0.02)


def test_the_error_of_one_and_the_same_network_has_the_exact_interval() -> None:
    wrong = torch.zeros(3, 50, dtype=torch.bool)
    wrong[:, :5] = True
    error = measure_error(wrong)
    assert error.value == pytest.approx(0.1)
    assert error.n == 50
    assert error.low == pytest.approx(0.0333, abs=1e-3)  # Clopper and Pearson at 5 of 50
    assert measure_error(torch.zeros(3, 50, dtype=torch.bool)).high == pytest.approx(
        0.0711, abs=1e-3
    )


def test_images_with_errors_of_their_own_are_pooled_as_they_are() -> None:
    errors = torch.tensor([[0.2, 0.4, 0.6], [0.1, 0.5, 0.9]], dtype=torch.float64)
    assert measure_error(errors).value == pytest.approx(0.45)
    value, variance = measure_increase(errors, torch.full_like(errors, 0.1))
    assert value == pytest.approx(0.35)
    assert variance.by_images == pytest.approx(np.var([0.15, 0.45, 0.75], ddof=1) / 3)


def test_pooled_estimates_take_images_as_shared_by_all_replicates() -> None:
    estimates = [Estimate(value=value, low=value - 0.1, high=value + 0.1) for value in (0.2, 0.3)]
    pooled, variance = pool_estimates(estimates)
    assert variance.by_images == pytest.approx((0.1 / 1.96) ** 2, rel=1e-3)
    assert variance.by_replicates == pytest.approx(0.0025)
    assert pooled.value == pytest.approx(0.25)


def test_the_band_of_a_further_run_is_students() -> None:
    errors = [0.1, 0.13, 0.11]
    band = predict_run(errors, 1000)
    width = t.ppf(0.95, 2) * np.std(errors, ddof=1) * math.sqrt(4 / 3) + 0.0005
    assert band.value == pytest.approx(np.mean(errors))
    assert band.low == pytest.approx(np.mean(errors) - width)
    assert band.high == pytest.approx(np.mean(errors) + width)


def draw_wrong(
    rng: np.random.Generator,
    *,
    replicates: int,
    images: int,
    increase: float,
    seed_sd: float,
    shared_reference: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the errors of pruned and dense networks, (replicates, images).

    Images are easy or hard for all networks, a pruned network comes from the dense one of its seed,
    and its seed is kind or unkind to all images. The mean increase over seeds and images is exactly
    `increase`.
    """
    difficulty = DIFFICULTY_SD * rng.standard_normal((1, images))
    own = rng.standard_normal((1 if shared_reference else replicates, images))
    moved = RHO * own + math.sqrt(1 - RHO**2) * rng.standard_normal((replicates, images))
    seeds = seed_sd * rng.standard_normal((replicates, 1))
    spread = 1 + DIFFICULTY_SD**2
    dense = own + difficulty > -norm.ppf(BASE_ERROR) * math.sqrt(spread)
    limit = -norm.ppf(BASE_ERROR + increase) * math.sqrt(spread + seed_sd**2)
    pruned = moved + difficulty + seeds > limit
    dense = np.broadcast_to(dense, pruned.shape).copy()
    return torch.from_numpy(pruned), torch.from_numpy(dense)


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [2, 3, 5, 10])
@pytest.mark.parametrize("seed_sd", [0.1, 0.3])
def test_an_increase_of_the_limit_seldom_passes_and_intervals_cover(
    replicates: int, seed_sd: float
) -> None:
    """A seed moves the error by 10 or 30 % of it; every second job is of a given network."""
    rng = np.random.default_rng([replicates, round(10 * seed_sd)])
    jobs, increase = 1000, 0.02
    passed = covered = covered_errors = 0
    for number in range(jobs):
        pruned, dense = draw_wrong(
            rng,
            replicates=replicates,
            images=600,
            increase=increase,
            seed_sd=seed_sd,
            shared_reference=number % 2 == 0,
        )
        value, variance = measure_increase(pruned, dense)
        passed += compute_limits(value, variance, 0.95)[1] <= increase
        interval = estimate_with_interval(value, variance, "points")
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= increase <= interval.high
        error = measure_error(pruned)
        assert error.low is not None
        assert error.high is not None
        covered_errors += error.low <= BASE_ERROR + increase <= error.high
    print(  # noqa: T201
        f"{replicates} replicates, seeds of {seed_sd}: an increase of the limit passes in "
        f"{passed / jobs:.1%}; intervals of increases cover {covered / jobs:.1%}, of errors "
        f"{covered_errors / jobs:.1%}"
    )
    assert passed / jobs <= 0.06  # 5 %, and the noise of 1,000 jobs
    assert covered / jobs >= 0.94
    assert covered_errors / jobs >= 0.94


@pytest.mark.slow
def test_one_pair_of_networks_would_pass_far_too_often() -> None:
    """The limits of single images alone, without the seeds, are what replicates are there for."""
    rng = np.random.default_rng(1)
    passed = 0
    for _ in range(500):
        pruned, dense = draw_wrong(
            rng, replicates=3, images=2000, increase=0.02, seed_sd=0.3, shared_reference=False
        )
        value, variance = measure_increase(pruned, dense)
        of_images = variance.model_copy(update={"by_replicates": 0.0})
        passed += compute_limits(value, of_images, 0.95)[1] <= 0.02
    print(f"by the images alone, an increase of the limit passes in {passed / 500:.1%}")  # noqa: T201
    assert passed / 500 > 0.15


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [3, 5, 10])
@pytest.mark.parametrize("seed_sd", [0.0, 0.15])
def test_a_further_run_lies_inside_the_band(replicates: int, seed_sd: float) -> None:
    """Cascades of five checkpoints: each keeps what its seed did before and adds to it."""
    rng = np.random.default_rng([replicates, round(100 * seed_sd)])
    jobs, images, checkpoints = 400, 500, 5
    inside = 0
    levels = norm.ppf(np.array([0.04, 0.05, 0.07, 0.12, 0.25]))[:, None, None]
    for _ in range(jobs):
        difficulty = DIFFICULTY_SD * rng.standard_normal(images)
        lineage = seed_sd * rng.standard_normal((checkpoints, replicates + 1, 1)).cumsum(0)
        own = rng.standard_normal((checkpoints, replicates + 1, images)).cumsum(0)
        own /= np.sqrt(np.arange(1, checkpoints + 1))[:, None, None]
        latent = own + difficulty + lineage + levels * math.sqrt(1 + DIFFICULTY_SD**2)
        errors = (latent > 0).mean(2)
        inside += count_inside(errors, images)
    share = inside / (jobs * checkpoints)
    print(f"{replicates} replicates, seeds of {seed_sd}: a further run lies inside in {share:.1%}")  # noqa: T201
    assert 0.85 <= share <= 0.95


def count_inside(errors: NDArray[np.float64], images: int) -> int:
    """Return in how many rows the last error lies inside the band of the others."""
    inside = 0
    for row in errors:
        band = predict_run(row[:-1].tolist(), images)
        assert band.low is not None
        assert band.high is not None
        inside += band.low <= row[-1] <= band.high
    return inside


def run_small(seed: int, folder: Path) -> Iterator[float]:
    """Yield the test errors of the checkpoints of a real run on the digits."""
    recipe = Recipe.model_validate(
        {
            "targets": {"sparsity": [0.8, 0.9, 0.95]},
            "train": {"epochs": 4, "batch_size": 32, "optimizer": {"lr": 0.05}},
            "retrain": {"epochs": 1, "batch_size": 32, "optimizer": {"lr": 0.02}},
            "evaluations": [],
            "limit": {"train": 500, "seed": 0},
            "seed": seed,
        }
    )
    limit = Limit(train=500)
    data = prepare(
        datasets.create("digits").load(), limit=limit, seed=recipe.image_seed, normalize=None
    )
    architecture = resolve("mlp", {"hidden": [24]}, shape=data.shape, classes=10)
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(architecture.build),
        data=data,
        stages=Stages(folder, recipe.digest()),
        watcher=Listener(),
        device=CPU,
        checkpoint_steps=10_000,
    )
    pipeline.run()
    for row in pipeline.done:
        yield float(row.measured.wrong.double().mean())


@pytest.mark.slow
def test_a_further_real_run_lies_inside_the_band(tmp_path: Path) -> None:
    """Twenty-four runs on the digits: every one is held out of bands of others, drawn at random."""
    runs = np.array([[*run_small(seed, tmp_path / str(seed))] for seed in range(24)])
    print(f"mean errors {runs.mean(0).round(4)}, spread over seeds {runs.std(0, ddof=1).round(4)}")  # noqa: T201
    rng = np.random.default_rng(0)
    images = len(datasets.create("digits").load().labels["test"])
    for replicates in (3, 5, 10):
        inside = tried = 0
        for held_out, _ in itertools.product(range(len(runs)), range(20)):
            others = np.delete(np.arange(len(runs)), held_out)
            chosen = [*rng.choice(others, replicates, replace=False), held_out]
            inside += count_inside(runs[chosen].T, images)
            tried += runs.shape[1]
        print(f"{replicates} real runs: a further one lies inside in {inside / tried:.1%}")  # noqa: T201
        assert 0.85 <= inside / tried <= 0.95
