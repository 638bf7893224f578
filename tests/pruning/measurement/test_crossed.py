"""Means over images and draws of noise together: by hand, and their coverage in simulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.measurement.crossed import crossed_mean


def test_without_draws_that_differ_a_proportion_has_wilsons_limits() -> None:
    agrees = torch.zeros(3, 40, dtype=torch.float64)
    agrees[:, :30] = 1.0
    mean = crossed_mean(agrees, torch.ones(40).double(), proportion=True)
    square = 2.0227**2 / 39  # Student's quantile; the variance of a sample counts as of 39 images
    centre = (0.75 + square / 2) / (1 + square)
    width = np.sqrt(square * 0.1875 + square**2 / 4) / (1 + square)
    assert (mean.value, mean.n) == (0.75, 40)
    assert mean.low == pytest.approx(centre - width, abs=1e-3)
    assert mean.high == pytest.approx(centre + width, abs=1e-3)


def test_full_agreement_is_that_of_as_many_images_and_one_image_has_no_interval() -> None:
    mean = crossed_mean(torch.ones(5, 20).double(), torch.ones(20).double(), proportion=True)
    assert (mean.value, mean.high) == (1.0, 1.0)
    assert mean.low == pytest.approx(1 - 0.16843, abs=1e-4)  # Clopper and Pearson at 20 of 20
    single = crossed_mean(torch.ones(5, 1).double(), torch.ones(1).double(), proportion=True)
    assert (single.low, single.high) == (None, None)


def test_images_count_by_their_pixels() -> None:
    sums = torch.tensor([[3.0, 50.0], [1.0, 70.0]]).double()
    mean = crossed_mean(sums, torch.tensor([4.0, 100.0]).double(), proportion=True)
    assert mean.value == pytest.approx(124 / 208)


@pytest.mark.slow
@pytest.mark.parametrize("draws", [3, 20])
def test_intervals_cover_what_other_images_and_draws_would_give(draws: int) -> None:
    """Images differ much, most are easy; a draw of noise is kind or unkind to all of them."""
    rng = np.random.default_rng(draws)
    images, jobs = 300, 1000
    easy = rng.standard_normal(200_000) * 1.5 + 2.5
    kind = rng.standard_normal(200_000) * 0.3
    truth = float((easy + kind + rng.standard_normal(200_000) > 0).mean())
    covered = {"agreement": 0, "distance": 0}
    over_draws_alone = 0
    for _ in range(jobs):
        latent = (
            rng.standard_normal(images) * 1.5
            + 2.5
            + rng.standard_normal((draws, 1)) * 0.3
            + rng.standard_normal((draws, images))
        )
        agrees = torch.from_numpy((latent > 0).astype(float))
        for name in covered:
            mean = crossed_mean(agrees, torch.ones(images).double(), proportion=name == "agreement")
            assert mean.low is not None
            assert mean.high is not None
            covered[name] += mean.low <= truth <= mean.high
        by_draw = agrees.mean(1)
        half = 1.96 * float(by_draw.std()) / draws**0.5
        over_draws_alone += abs(float(by_draw.mean()) - truth) <= half
    print(  # noqa: T201
        f"{draws} draws: agreement {covered['agreement'] / jobs:.3f}, mean "
        f"{covered['distance'] / jobs:.3f}; over draws alone {over_draws_alone / jobs:.3f}"
    )
    assert min(covered.values()) >= 0.93 * jobs
