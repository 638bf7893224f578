"""The corruptions against one image at a time in NumPy, SciPy and Pillow.

They are compared with the same random numbers and with others.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from scipy import stats

from pruning.data.corruptions._streaks import draw_angles
from pruning.data.corruptions.frost import SIDE, draw_sheets
from pruning.data.corruptions.noise import (
    tabulate_gaussian,
    tabulate_impulse,
    tabulate_shot,
    tabulate_speckle,
)
from pruning.data.keyed_random import Draws
from pruning.library import corrupt
from tests.support import corruption_oracles as oracles
from tests.support import corruption_tables as tables
from tests.support.corrupted_images import DETERMINISTIC, RANDOM, hwc, pictures

NOISE = {
    "gaussian_noise": tabulate_gaussian,
    "shot_noise": tabulate_shot,
    "impulse_noise": tabulate_impulse,
    "speckle_noise": tabulate_speckle,
}
SHAPES = ((3, 32, 32), (1, 33, 47), (3, 47, 33), (3, 96, 80))


class Scripted:
    """A NumPy generator that answers with given standard numbers, one array for each call."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def normal(self, size: Any, loc: float = 0.0, scale: float = 1.0) -> Any:
        return loc + scale * self.take(size)

    def uniform(self, low: float, high: float, size: Any = ()) -> Any:
        """The answers are uniform on [-1, 1)."""
        return low + (high - low) * (self.take(size) + 1) / 2

    def integers(self, *limits: int, size: Any = ()) -> Any:
        return self.take(limits[2] if len(limits) == 3 else size)

    def take(self, size: Any) -> Any:
        answer = np.asarray(self.answers.pop(0))
        assert answer.shape == (tuple(size) if isinstance(size, tuple) else (size,))
        return answer


def scripts(name: str, draws: Draws, shape: tuple[int, ...], constant: Any) -> list[Scripted]:
    """The numbers that ours draws for every image, in the order in which the oracle takes them."""
    _, height, width = shape
    if name == "motion_blur":
        return [Scripted(angle / 45) for angle in draw_angles(-45, 45, draws)]
    if name == "snow":
        turned = (draw_angles(-135, -45, draws, stream=1) + 90) / 45
        fields = draws.normal(height, width).double().numpy()
        return [Scripted(field, angle) for field, angle in zip(fields, turned, strict=True)]
    if name == "spatter":
        return [Scripted(field) for field in draws.normal(height, width).double().numpy()]
    if name == "frost":
        sheet = draws.integers(5).numpy()
        corner = np.stack(
            [draws.integers(SIDE, stream=1).numpy(), draws.integers(SIDE, stream=2).numpy()], 1
        )
        return [Scripted(number, place) for number, place in zip(sheet, corner, strict=True)]
    if name == "elastic_transform":
        jitter = draws.signed(3, 2).double().numpy()[:, :, ::-1]
        down = draws.signed(height, width, stream=1).double().numpy()
        across = draws.signed(height, width, stream=2).double().numpy()
        return [Scripted(*numbers) for numbers in zip(jitter, down, across, strict=True)]
    if name == "glass_blur":
        _, shift, times = constant
        return glass_scripts(draws, (height, width), shift, times)
    assert name == "fog"
    side = max(constant[2], 1 << (max(height, width) - 1).bit_length())
    return fog_scripts(draws, side)


def glass_scripts(draws: Draws, size: tuple[int, int], shift: int, times: int) -> list[Scripted]:
    passes = []
    for time in range(times):
        words = draws.words(*size, stream=time).numpy()
        offsets = [
            (half & 0xFFFF) * 2 * shift // (1 << 16) - shift for half in (words >> 16, words)
        ]
        passes.append(np.stack(offsets, -1))
    return [Scripted(*image_passes) for image_passes in zip(*passes, strict=True)]


def fog_scripts(draws: Draws, side: int) -> list[Scripted]:
    answers = []
    for field in draws.signed(side, side).double().numpy():
        parts = []
        step = side
        while step >= 2:
            half = step // 2
            parts += [
                field[half::step, half::step],
                field[::step, half::step],
                field[half::step, ::step],
            ]
            step = half
        answers.append(Scripted(*parts))
    return answers


# one image at a time


@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_corruptions_are_within_one_level_of_their_definitions(
    name: str, constants: str
) -> None:
    for shape in SHAPES:
        images = pictures(2, *shape)
        for severity in range(1, 6):
            ours = hwc(corrupt(images, name, severity, constants=constants)).astype(int)
            theirs = np.stack(
                [oracles.corrupted(image, name, severity, constants) for image in hwc(images)]
            ).astype(int)
            assert np.abs(ours - theirs).max() <= (
                0 if name in ("jpeg_compression", "pixelate") else 1
            ), (shape, severity)
            assert (ours != theirs).mean() < 0.3, (
                "SciPy's float64 may lose a level where ours is exact"
            )


@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", [name for name in RANDOM if name not in NOISE])
def test_random_corruptions_are_their_definitions_given_the_same_numbers(
    name: str, constants: str
) -> None:
    ice = draw_sheets(torch.device("cpu")).numpy()
    for shape in ((3, 32, 32), (1, 33, 47)):
        images = pictures(3, *shape)
        for severity in range(1, 6):
            constant = (tables.CIFAR if constants == "cifar" else tables.IMAGENET)[name][
                severity - 1
            ]
            draws = Draws.from_key(5, name, severity, indices=torch.arange(3))
            ours = hwc(corrupt(images, name, severity, seed=5, constants=constants)).astype(int)
            theirs = np.stack(
                [
                    oracles.corrupted(
                        image, name, severity, constants, cast(np.random.Generator, script), ice
                    )
                    for image, script in zip(
                        hwc(images), scripts(name, draws, shape, constant), strict=True
                    )
                ]
            )
            assert (np.abs(ours - theirs) > 1).mean() < 0.002, (shape, severity)
            assert (ours != theirs).mean() < 0.1, (shape, severity)


@pytest.mark.slow
@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", NOISE)
def test_noise_has_the_law_of_its_definition_at_every_level(name: str, constants: str) -> None:
    """Compare draws with the law, and the law with a simulation, by the least p of 120 tests."""
    rng = np.random.default_rng(1)
    least = []
    for severity in range(1, 6):
        constant = (tables.CIFAR if constants == "cifar" else tables.IMAGENET)[name][severity - 1]
        law = NOISE[name](constant)
        assert law.min() > -1e-12
        assert law.sum(1) == pytest.approx(np.ones(256))
        for level in (0, 1, 40, 128, 250, 255):
            flat = torch.full((1, 1, 160, 160), level, dtype=torch.uint8)
            ours = corrupt(flat, name, severity, constants=constants).numpy()
            theirs = oracles.corrupted(
                flat[0, 0, :, :, None].numpy(), name, severity, constants, rng
            )
            for noisy in (ours, theirs):
                counts = np.bincount(noisy.ravel(), minlength=256)
                assert not counts[law[level] <= 0].any()
                # at least 40 expected in all bins but the last
                bins = np.cumsum(law[level] * noisy.size) // 40
                observed = np.bincount(bins.astype(int), counts)
                expected = np.bincount(bins.astype(int), law[level] * noisy.size)
                kept = expected > 5
                if kept.sum() > 1:
                    scale = observed[kept].sum() / expected[kept].sum()
                    least.append(stats.chisquare(observed[kept], expected[kept] * scale).pvalue)
    assert len(least) > 30
    assert min(least) > 1e-5, "the law, the draws or the simulation are off"
    assert stats.kstest(least, "uniform").pvalue > 1e-4


def statistics(corrupted_images: np.ndarray, clean: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of each corrupted image.

    They are the mean and the size of the change, its correlation with its neighbours, and its top.
    """
    change = corrupted_images.astype(float) - clean
    near = change - change.mean((1, 2), keepdims=True)
    size = (near**2).mean((1, 2, 3)) + 1e-9
    return {
        "mean": change.mean((1, 2, 3)),
        "size": (change**2).mean((1, 2, 3)),
        "most": np.quantile(change, 0.95, (1, 2, 3)),
        "across": (near[:, :, 1:] * near[:, :, :-1]).mean((1, 2, 3)) / size,
        "down": (near[:, 1:] * near[:, :-1]).mean((1, 2, 3)) / size,
    }


TOLERANCES = {"mean": 0.05, "most": 1.0, "across": 0.01, "down": 0.01}
"""The difference that cutting of levels may add: float64 loses levels where ours is exact."""


def same_distribution(name: str, severity: int, constants: str, number: int) -> None:
    picture = pictures(1, 3, 32, 32)
    ice = draw_sheets(torch.device("cpu")).numpy()
    rng = np.random.default_rng(2)
    images = picture.expand(number, -1, -1, -1)
    clean = hwc(picture)
    ours = statistics(hwc(corrupt(images, name, severity, seed=9, constants=constants)), clean)
    singles = [
        oracles.corrupted(clean[0], name, severity, constants, rng, ice) for _ in range(number)
    ]
    theirs = statistics(np.stack(singles), clean)
    for key, values in ours.items():
        tolerance = TOLERANCES.get(key, 0.01 * values.mean() + 0.2)
        sides: tuple[tuple[float, Literal["greater", "less"]], ...] = (
            (tolerance, "greater"),
            (-tolerance, "less"),
        )
        for shift, side in sides:
            test = stats.ks_2samp(values + shift, theirs[key], alternative=side, method="asymp")
            assert test.pvalue > 1e-4, (name, severity, key, side)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_have_the_distribution_of_their_definitions(name: str) -> None:
    same_distribution(name, 3, "cifar", 200)


@pytest.mark.slow
@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_have_the_distribution_of_their_definitions_at_every_severity(
    name: str, constants: str
) -> None:
    """At those that the fast test leaves out; the constants of each are compared above, given the
    same numbers.
    """
    for severity in (1, 2, 4, 5) if constants == "cifar" else (1, 3, 5):
        same_distribution(name, severity, constants, 300)
