"""Intervals of the accuracies that bounds promise, over images and draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.analysis.bound_report import _average


def draw_promises(rng: np.random.Generator, images: int, trials: int) -> np.ndarray:
    """Draw whether a bound promises each image in each trial, (trials, images).

    Nine in ten images are of an easy class, the others of a hard one; a trial's draws make the
    bounds of all images larger or smaller together, and each image's own a little.
    """
    hard = rng.random(images) < 0.1
    margins = rng.lognormal(np.where(hard, -1.0, 0.3), 0.8)
    together = rng.normal(0, 0.35, (trials, 1))
    bounds = np.exp(together + rng.normal(0, 0.3, (trials, images)))
    return (margins > bounds).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize(("images", "trials"), [(40, 3), (200, 3), (200, 10)])
def test_intervals_of_promised_accuracies_cover(images: int, trials: int) -> None:
    """The interval is for the mean over all images and draws; draws are shared by the images."""
    rng = np.random.default_rng(0)
    truth = draw_promises(rng, 2000, 2000).mean()
    covered = widths = alone = 0.0
    repeats = 400
    for _ in range(repeats):
        promises = torch.from_numpy(draw_promises(rng, images, trials))
        estimate = _average(list(promises))
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= truth <= estimate.high
        widths += estimate.high - estimate.low
        single = _average([promises[0]])
        assert single.low is not None
        assert single.high is not None
        alone += single.low <= truth <= single.high
    print(  # noqa: T201 (the figures are what the test is for)
        f"promised accuracy, {images} images, {trials} draws: truth {truth:.3f}, covered "
        f"{covered / repeats:.3f}, width {widths / repeats:.3f}; of a single draw, whose "
        f"variation is not seen, {alone / repeats:.3f}"
    )
    assert covered / repeats >= 0.93


def test_a_promise_of_all_images_has_a_limit_below_one() -> None:
    estimate = _average([torch.ones(50).double()] * 3)
    assert estimate.value == 1.0
    assert estimate.low == pytest.approx(0.9289, abs=1e-4)
    assert estimate.high == 1.0
