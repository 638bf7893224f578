"""Bootstrap resamples, their intervals, and the line through the origin: they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pruning.measurement.bootstrap
from pruning.analysis.prune_potential import find_prune_potential
from pruning.measurement.bootstrap import Line, percentile_interval, resample_errors
from pruning.schemas.report import Estimate


def test_resamples_are_paired_and_of_the_given_images() -> None:
    flags = torch.rand(3, 17, generator=torch.Generator().manual_seed(0)) < 0.4
    draws = resample_errors(
        torch.cat([flags, flags, ~flags]), torch.Generator().manual_seed(1), 250
    )
    assert draws.shape == (9, 250)
    assert torch.equal(draws[:3], draws[3:6])
    assert torch.allclose(draws[:3] + draws[6:], torch.ones(()).double())
    assert torch.allclose((17 * draws).round(), 17 * draws)
    assert abs(float(draws[0].mean() - flags[0].double().mean())) < 0.03
    assert resample_errors(torch.tensor([[True], [False]]), torch.Generator(), 5).tolist() == [
        [1.0] * 5,
        [0.0] * 5,
    ]


ERRORS = torch.tensor([0.20, 0.19, 0.21, 0.26, 0.20, 0.45], dtype=torch.float64)
"""The errors of a control and five checkpoints, which are not monotone."""


def test_bootstrap_intervals_cover() -> None:
    """Networks that err on the same hard images. Potential 0.8 at a margin of 0.03; differences of
    errors are known.
    """
    rng, ratios = (
        torch.Generator().manual_seed(0),
        torch.tensor([0.2, 0.4, 0.6, 0.8, 0.9], dtype=torch.float64),
    )
    held, differences, widths, n, times = 0, 0, [], 400, 200
    for _ in range(times):
        shared, own = (torch.rand(shape, n, generator=rng, dtype=torch.float64) for shape in (1, 6))
        follows = torch.rand(6, n, generator=rng) < 0.7
        flags = torch.where(follows, shared, own) < ERRORS[:, None]
        means, draws = flags.double().mean(1), resample_errors(flags, rng, 200)
        potential = percentile_interval(
            float(find_prune_potential(ratios, means[1:], means[0], 0.03)),
            find_prune_potential(ratios, draws[1:], draws[0], 0.03),
            n,
        )
        assert potential.low is not None
        assert potential.high is not None
        held += potential.low <= 0.8 <= potential.high
        gap = percentile_interval(float(means[3] - means[0]), draws[3] - draws[0], n)
        assert gap.low is not None
        assert gap.high is not None
        differences += gap.low <= 0.06 <= gap.high
        widths.append(
            (
                gap.high - gap.low,
                *(float(draws[i].quantile(0.975) - draws[i].quantile(0.025)) for i in (0, 3)),
            )
        )
    assert held >= 0.93 * times
    assert 0.90 * times <= differences <= 0.985 * times
    paired, first, second = (sum(column) / times for column in zip(*widths, strict=True))
    assert paired < 0.85 * math.hypot(first, second), "pairing says more than two intervals"


def test_the_line_is_that_of_least_squares_without_intercept() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 9):
        x, y = rng.uniform(0, 1, n), rng.normal(size=n)
        line = Line.fit(x.tolist(), y.tolist(), torch.Generator())
        assert line is not None
        assert line.slope.value == pytest.approx(
            float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])
        )
        assert line.at(0.4).value == pytest.approx(0.4 * line.slope.value)
        assert (line.slope.low is None) == (line.at(0.4).low is None) == (n == 1)
        assert line.at(0.0) == Estimate(
            value=0.0, low=None if n == 1 else 0.0, high=None if n == 1 else 0.0, n=n
        )
    assert Line.fit([], [], torch.Generator()) is None
    assert Line.fit([0.0, 0.0], [1.0, 2.0], torch.Generator()) is None
    line_through_origin = Line.fit(
        [0.0, 1.0], [1.0, 2.0], torch.Generator()
    )  # half of a quarter of the draws see no x
    assert line_through_origin is not None
    assert line_through_origin.slope == Estimate(value=2.0, low=2.0, high=2.0, n=2)


def test_the_band_of_the_line_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning.measurement.bootstrap, "PAIRS", 1000)
    rng, torch_rng, held, times = np.random.default_rng(1), torch.Generator().manual_seed(1), 0, 300
    for _ in range(times):
        x = rng.uniform(0.1, 1, 40)
        line = Line.fit(x.tolist(), (0.5 * x + rng.normal(0, 0.2 * x)).tolist(), torch_rng)
        assert line is not None
        low, high = line.at(0.7).low, line.at(0.7).high
        assert low is not None
        assert high is not None
        held += low <= 0.35 <= high
    assert 0.90 * times <= held <= 0.985 * times
