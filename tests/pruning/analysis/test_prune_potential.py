"""The prune potential against a slow loop, and its limits in simulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pruning.analysis.prune_potential import (
    find_largest_potential,
    find_prune_potential,
    find_safe_limit,
    limit_increases,
)


@pytest.mark.parametrize("seed", range(5))
def test_a_potential_is_that_of_a_slow_loop(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    ratios, errors = (
        torch.rand(7, generator=rng).double(),
        torch.randint(0, 20, (7, 9), generator=rng).double() / 20,
    )
    reference = torch.randint(0, 20, (9,), generator=rng).double() / 20
    for margin in (-1.0, -0.1, -0.05, 0.0, 0.05, 0.3, 1.0):
        slow = [
            max(
                [
                    0.0,
                    *(
                        float(r)
                        for r, e in zip(ratios, errors[:, d].tolist(), strict=True)
                        if round(20 * e) <= round(20 * (float(reference[d]) + margin))
                    ),
                ]
            )
            for d in range(9)
        ]
        assert find_prune_potential(ratios, errors, reference, margin).tolist() == slow


def test_a_potential_counts_later_successes_and_is_0_where_there_is_none() -> None:
    ratios, errors = torch.tensor([0.2, 0.5, 0.8]), torch.tensor([0.5, 0.6, 0.1])
    assert float(find_prune_potential(ratios, errors, torch.tensor(0.1), 0.0)) == pytest.approx(0.8)
    assert float(find_prune_potential(ratios, errors, torch.tensor(0.1), -0.001)) == 0
    assert float(find_prune_potential(ratios, errors, torch.tensor(0.6), -0.1)) == pytest.approx(
        0.8
    )


def test_the_walk_stops_at_the_first_that_is_not_shown() -> None:
    ratios, high = torch.tensor([0.8, 0.2, 0.5]), torch.tensor([0.001, 0.004, 0.01])
    assert find_safe_limit(ratios, high, 0.005) == pytest.approx(0.2)
    assert find_safe_limit(ratios, high, 0.0) == 0.0
    assert find_safe_limit(ratios, high, 0.01) == pytest.approx(0.8)
    low = torch.tensor([0.02, -0.01, 0.001])
    assert find_largest_potential(ratios, low, 0.005) == pytest.approx(0.5)
    assert find_largest_potential(ratios, low, -0.5) == 0.0


def test_limits_of_errors_that_are_numbers_are_students() -> None:
    rng = torch.Generator().manual_seed(0)
    wrong, reference = torch.rand(3, 40, generator=rng), torch.rand(40, generator=rng)
    low, high = limit_increases({"fog": (wrong, reference)}, 0.95)["fog"]
    for place in range(3):
        gaps = (wrong[place] - reference).double().numpy()
        for level, limit in ((0.05, low[place]), (0.95, high[place])):
            expected = stats.t.ppf(level, 39, gaps.mean(), gaps.std(ddof=1) / 40**0.5)
            assert float(limit) == pytest.approx(expected)
    single = limit_increases({"fog": (wrong[:, :1], reference[:1])}, 0.95)["fog"]
    assert (single[0].tolist(), single[1].tolist()) == ([-1.0] * 3, [1.0] * 3)
    right = torch.zeros(1, 40, dtype=torch.bool)
    limits = limit_increases({"fog": (reference[None], reference), "dark": (right, right[0])}, 0.95)
    assert [float(end) for end in limits["fog"]] == pytest.approx(
        [float(end) for end in limits["dark"]]
    )


MARGIN = 0.01
PRUNED = np.linspace(0.2, 0.95, 8)
CURVES = {
    "flat, above the margin": np.full(8, 0.0125),
    "flat, below the margin": np.full(8, 0.0075),
    "smooth": 0.03 * PRUNED**2,
    "steep": np.where(PRUNED > 0.7, 0.15, 0.0),
    "first up, then down": np.where((PRUNED > 0.4) & (PRUNED < 0.7), 0.03, 0.0),
}


def draw_lineage(
    increases: np.ndarray, similarity: float, images: int, rng: np.random.Generator
) -> np.ndarray:
    """The errors of the control and of checkpoints that each come from the one before, bool (1 + K,
    images): images are hard or easy for all, and the error rates are .1 plus the increases.
    """
    hard, own = rng.standard_normal((2, images))
    wrong = []
    for place, increase in enumerate([0.0, *increases]):
        if place:
            fresh = rng.standard_normal(images)
            own = similarity * own + (1 - similarity**2) ** 0.5 * fresh
        wrong.append(0.7 * hard + 0.51**0.5 * own > stats.norm.isf(0.1 + increase))
    return np.array(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("similarity", [0.8, 0.99])
def test_intervals_of_a_potential_cover_and_the_safe_limit_is_one(similarity: float) -> None:
    """Curves that are flat, smooth and steep, of checkpoints that share a lineage."""
    rng = np.random.default_rng(7)
    ratios, jobs = torch.from_numpy(PRUNED), 300
    for name, increases in CURVES.items():
        truth = max([0.0, *PRUNED[increases <= MARGIN]])
        estimates, runs = [], {}
        for job in range(jobs):
            wrong = torch.from_numpy(draw_lineage(increases, similarity, 1000, rng))
            errors = wrong.double().mean(1)
            estimates.append(float(find_prune_potential(ratios, errors[1:], errors[0], MARGIN)))
            runs[str(job)] = (wrong[1:], wrong[0])
        wide = list(limit_increases(runs, 0.975).values())
        least = [find_safe_limit(ratios, high, MARGIN) for _, high in wide]
        most = [find_largest_potential(ratios, low, MARGIN) for low, _ in wide]
        assert all(a <= b <= c for a, b, c in zip(least, estimates, most, strict=True))
        covered = sum(a - 1e-9 <= truth <= b + 1e-9 for a, b in zip(least, most, strict=True))
        limits = [
            find_safe_limit(ratios, high, MARGIN)
            for _, high in limit_increases(runs, 0.95).values()
        ]
        too_safe = sum(limit > truth + 1e-9 for limit in limits)
        print(  # noqa: T201
            f"{name}, similarity {similarity}: true {truth:.2f}, mean estimate "
            f"{np.mean(estimates):.2f}, mean safe limit {np.mean(limits):.2f}, coverage "
            f"{covered / jobs:.3f}, safe limit above the truth {too_safe / jobs:.3f}"
        )
        assert covered >= 0.9 * jobs
        assert too_safe <= 0.05 * jobs + 2 * (0.05 * 0.95 * jobs) ** 0.5
