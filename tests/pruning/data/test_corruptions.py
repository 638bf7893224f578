"""The corruptions against one image at a time in NumPy, SciPy and Pillow.

They are compared with the same random numbers and with others.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from pruning.data import corrupted
from pruning.data.corruptions import choose_table, corruptions
from pruning.data.corruptions._edges import detect_edges, measure_distances
from pruning.data.corruptions._linear import (
    apply_separable,
    build_smoothing,
    build_zooming,
    index_beyond,
)
from pruning.data.corruptions._plasma import draw_plasma
from pruning.data.corruptions._streaks import draw_angles
from pruning.data.corruptions.frost import SIDE, draw_sheets
from pruning.data.corruptions.glass_blur import find_fronts, shuffle_pixels
from pruning.data.corruptions.noise import (
    tabulate_gaussian,
    tabulate_impulse,
    tabulate_shot,
    tabulate_speckle,
)
from pruning.data.corruptions.spatter import shade_water
from pruning.data.keyed_random import Draws, hash_
from pruning.errors import DataError, ParameterError, UnknownNameError
from pruning.library import corrupt
from tests.support import corruption_oracles as oracles
from tests.support import corruption_tables as tables

STANDARD = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
)
DETERMINISTIC = (
    "brightness",
    "contrast",
    "defocus_blur",
    "gaussian_blur",
    "jpeg_compression",
    "pixelate",
    "saturate",
    "zoom_blur",
)
RANDOM = tuple(name for name in STANDARD if name not in DETERMINISTIC)
NOISE = {
    "gaussian_noise": tabulate_gaussian,
    "shot_noise": tabulate_shot,
    "impulse_noise": tabulate_impulse,
    "speckle_noise": tabulate_speckle,
}
SHAPES = ((3, 32, 32), (1, 33, 47), (3, 47, 33), (3, 96, 80))


def pictures(number: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth shapes and fine noise, some black, white and grey pixels among them."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((number, channels, height, width))
    shapes = 130 + 400 * ndimage.gaussian_filter(noise, (0, 0, 3, 3)) + 15 * noise
    shapes[:, :, : height // 4] += 150 * (rng.random((number, channels, 1, 1)) - 0.5)
    shapes[:, :, -2:, :3] = rng.choice([0, 128, 255], (number, 1, 1, 1))
    return torch.from_numpy(np.clip(shapes, 0, 255).astype(np.uint8))


def hwc(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


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


@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_have_the_distribution_of_their_definitions(name: str) -> None:
    same_distribution(name, 3, "cifar", 200)


@pytest.mark.slow
@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_have_the_distribution_of_their_definitions_at_every_severity(
    name: str, constants: str
) -> None:
    for severity in range(1, 6):
        same_distribution(name, severity, constants, 500)


# keys


@pytest.mark.parametrize("name", STANDARD)
def test_batches_and_order_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((3, 32, 32), (1, 9, 14)):
        images = pictures(21, *shape)
        before = torch.get_rng_state()
        kept = images.clone()
        whole = corrupt(images, name, 4)
        assert whole.dtype == torch.uint8
        assert whole.shape == images.shape
        assert whole.is_contiguous()
        order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
        assert torch.equal(corrupt(images[order], name, 4, indices=order), whole[order])
        for i in (0, 7, 20):
            assert torch.equal(
                corrupt(images[i : i + 1], name, 4, indices=torch.tensor([i])), whole[i : i + 1]
            )
        with monkeypatch.context() as patch:
            patch.setitem(corrupted.VALUES_AT_ONCE, "cpu", 4 * images[0].numel())
            assert torch.equal(corrupt(images, name, 4), whole)
        last = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(corrupt(last, name, 4), whole)
        assert torch.equal(images, kept)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", RANDOM)
def test_other_seeds_indices_and_severities_are_other_draws(name: str) -> None:
    images = pictures(1, 3, 32, 32).expand(2, -1, -1, -1)
    far = torch.tensor([3, 3 + (1 << 32)])
    pairs = [
        corrupt(images, name, 3),
        corrupt(images, name, 3, seed=1),
        corrupt(images, name, 3, indices=far),
        corrupt(images, name, 4),
    ]
    distinct = {image.numpy().tobytes() for pair in pairs for image in pair}
    assert len(distinct) >= (5 if name == "motion_blur" else 7), (
        "of 7; near angles may be the same shifts in whole pixels"
    )
    draws = {
        Draws.from_key(seed, other, severity, indices=far).words(1)[0].item()
        for seed in (0, 1, -1)
        for other in ("fog", "snow")
        for severity in (1, 2)
    }
    assert len(draws) == 12


def unsigned_hash(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D % (1 << 32)
    x ^= x >> 15
    x = x * 0x846CA68B % (1 << 32)
    return x ^ x >> 16


def test_words_are_those_of_unsigned_arithmetic_and_stay_so() -> None:
    numbers = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xDEADBEEF, 0xFFFFFFFF]
    words = torch.tensor(
        [number - (1 << 32) if number >> 31 else number for number in numbers], dtype=torch.int32
    )
    assert [word & 0xFFFFFFFF for word in hash_(words).tolist()] == [
        unsigned_hash(number) for number in numbers
    ]
    draws = Draws.from_key(3, "fog", 2, indices=torch.tensor([0, 11, 1 << 40]))
    first, second = ([key & 0xFFFFFFFF for key in column] for column in draws.keys.T.tolist())
    for stream in (0, 1, 5):
        words_by_image = draws.words(4, stream=stream).tolist()
        for row, k1, k2 in zip(words_by_image, first, second, strict=True):
            for position, word in enumerate(row):
                place = unsigned_hash(unsigned_hash(position) ^ (stream * 0x9E3779B9) % (1 << 32))
                assert word & 0xFFFFFFFF == unsigned_hash(
                    (unsigned_hash(place ^ k1) + k2) % (1 << 32)
                )
    assert Draws.from_key(0, "fog", 1, indices=torch.tensor([5])).words(2).tolist() == [
        [-143189812, 295269214]
    ]


def test_words_are_uniform_and_independent() -> None:
    words = Draws.from_key(0, "test", indices=torch.arange(400)).words(5000).numpy()
    values = words.view(np.uint32).astype(np.float64) / 2**32
    assert stats.kstest(values.ravel()[:1_000_000], "uniform").pvalue > 1e-3
    for shift in range(0, 32, 8):
        counts = np.bincount((words.ravel() >> shift) & 0xFF, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-3
    bits = (words[:, :2000, None] >> np.arange(32)) & 1
    assert abs(bits.mean((0, 1)) - 0.5).max() < 5 * 0.5 / math.sqrt(800_000)
    limit = 5 / math.sqrt(values.size)
    centred = (values - 0.5) * math.sqrt(12)
    other = (
        Draws.from_key(1, "test", indices=torch.arange(400)).words(5000).numpy().view(np.uint32)
        / 2**32
    )
    stream = (
        Draws.from_key(0, "test", indices=torch.arange(400))
        .words(5000, stream=1)
        .numpy()
        .view(np.uint32)
        / 2**32
    )
    for shifted in (
        np.roll(centred, 1, 0),
        np.roll(centred, 1, 1),
        np.roll(centred, 32, 1),
        np.roll(centred, 1024, 1),
        np.roll(centred, (1, 1), (0, 1)),
        (other - 0.5) * math.sqrt(12),
        (stream - 0.5) * math.sqrt(12),
    ):
        assert abs((centred * shifted).mean()) < limit
    pairs = np.bincount(
        ((values[:, :-1] * 16).astype(int) * 16 + (values[:, 1:] * 16).astype(int)).ravel(),
        minlength=256,
    )
    assert stats.chisquare(pairs).pvalue > 1e-3
    assert len(np.unique(words)) > words.size - 3 * words.size**2 / 2**33


def test_normal_numbers_are_normal() -> None:
    normal = (
        Draws.from_key(0, "test", indices=torch.arange(400)).normal(2500).numpy().astype(np.float64)
    )
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    assert abs(normal.mean()) < 5e-3
    assert normal.var() == pytest.approx(1.0, abs=7e-3)
    assert stats.kurtosis(normal.ravel()) == pytest.approx(0.0, abs=0.025)
    assert (np.abs(normal) > 3).mean() == pytest.approx(0.0027, abs=3e-4)
    assert (normal * 4096 == np.round(normal * 4096)).all()


def test_integers_and_signed_numbers_are_uniform() -> None:
    draws = Draws.from_key(0, "test", indices=torch.arange(100))
    for limit in (1, 3, 5, 512):
        integers = draws.integers(limit, 2000).numpy()
        assert integers.min() == 0
        assert integers.max() == limit - 1
        if limit > 1:
            assert stats.chisquare(np.bincount(integers.ravel())).pvalue > 1e-3
    signed = draws.signed(2000).numpy().astype(np.float64)
    assert stats.kstest(signed.ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert -1 <= signed.min() < -0.999
    assert 0.999 < signed.max() < 1


# parts


def test_the_constants_are_those_of_the_paper() -> None:
    assert sorted(STANDARD) == corruptions.names()
    for name in STANDARD:
        method = corruptions.get(name)
        for ours, theirs in (
            (method.cifar, tables.CIFAR[name]),
            (method.imagenet, tables.IMAGENET[name]),
        ):
            rows = [row if isinstance(row, tuple) else (row,) for row in theirs]
            assert len(ours) == len(rows) == 5
            for row, published in zip(ours, rows, strict=True):
                assert row[: 2 if name == "frost" else None] == pytest.approx(published)


def test_auto_takes_the_constants_for_small_images_to_64_pixels() -> None:
    contrast = corruptions.get("contrast")
    assert [
        choose_table(contrast, "auto", *size)[0]
        for size in ((8, 8), (64, 500), (65, 64), (65, 65), (224, 300))
    ] == [(0.75,), (0.75,), (0.75,), (0.4,), (0.4,)]
    for side, constants in ((64, "cifar"), (65, "imagenet")):
        images = pictures(1, 3, side, side)
        assert torch.equal(
            corrupt(images, "fog", 2), corrupt(images, "fog", 2, constants=constants)
        )


@pytest.mark.parametrize("border", ["nearest", "mirror", "reflect"])
def test_lines_continue_as_scipy_continues_them(border: Any) -> None:
    for length in (1, 2, 3, 7):
        line = np.arange(length)
        modes: dict[str, Literal["edge", "reflect", "symmetric"]] = {
            "nearest": "edge",
            "mirror": "reflect",
            "reflect": "symmetric",
        }
        mode = modes[border]
        assert (index_beyond(length, 17, 9, border) == np.pad(line, (17, 9), mode=mode)).all()


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 6.0])
def test_smoothing_is_scipys_and_sums_exactly(sigma: float) -> None:
    levels = pictures(1, 1, 33, 47)[0, 0]
    ours = apply_separable(
        levels,
        build_smoothing(33, sigma, 4.0, "nearest"),
        build_smoothing(47, sigma, 4.0, "nearest"),
    ).numpy()
    assert (
        np.abs(ours - ndimage.gaussian_filter(levels.double().numpy(), sigma, mode="nearest")).max()
        < 0.01
    )
    flat = apply_separable(
        torch.full((5, 5), 255),
        build_smoothing(5, sigma, 4.0, "nearest"),
        build_smoothing(5, sigma, 4.0, "nearest"),
    )
    assert (flat == 255).all()
    assert (build_zooming(33, 30, 35).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("height", "width", "shift"),
    [(32, 32, 1), (13, 9, 2), (9, 21, 4), (3, 3, 1), (2, 9, 1), (1, 1, 1), (4, 40, 2), (40, 5, 2)],
)
def test_glass_swaps_front_by_front_are_those_pixel_by_pixel(
    height: int, width: int, shift: int
) -> None:
    draws = Draws.from_key(0, "glass", indices=torch.arange(4))
    images = torch.arange(4 * height * width).view(4, 1, height, width)
    ours = shuffle_pixels(images, shift, 2, draws)
    for n, expected in enumerate(images.clone()[:, 0].numpy()):
        for time in range(2):
            words = draws.words(height, width, stream=time)[n].numpy()
            for y in range(height - shift, shift, -1):
                for x in range(width - shift, shift, -1):
                    word = int(words[y, x]) & 0xFFFFFFFF
                    dy, dx = (
                        (word >> 16) * 2 * shift // 65536 - shift,
                        (word & 0xFFFF) * 2 * shift // 65536 - shift,
                    )
                    expected[y, x], expected[y + dy, x + dx] = (
                        int(expected[y + dy, x + dx]),
                        int(expected[y, x]),
                    )
        assert (ours[n, 0].numpy() == expected).all()
    visited = [
        pixel
        for rows, columns in find_fronts(height, width, shift)
        for pixel in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    assert (
        len(visited) == len(set(visited)) == max(height - 2 * shift, 0) * max(width - 2 * shift, 0)
    )


@pytest.mark.parametrize(("side", "decay"), [(32, 1.75), (32, 3.0), (64, 2.0)])
def test_plasma_has_the_spectrum_of_midpoint_displacement(side: int, decay: float) -> None:
    ours = (
        draw_plasma(side, decay, Draws.from_key(0, "plasma", indices=torch.arange(300)))
        .double()
        .numpy()
    )
    rng = np.random.default_rng(0)
    theirs = np.stack([oracles.clouds(side, decay, rng) for _ in range(300)])
    assert (ours.min((1, 2)) == 0).all()
    assert (ours.max((1, 2)) == 1).all()
    for lag in (1, 4, side // 2):
        our_roughness, their_roughness = (
            ((maps - np.roll(maps, lag, 1)) ** 2).mean((1, 2)) for maps in (ours, theirs)
        )
        assert stats.ks_2samp(our_roughness, their_roughness, method="asymp").pvalue > 1e-4
    assert stats.ks_2samp(ours.mean((1, 2)), theirs.mean((1, 2)), method="asymp").pvalue > 1e-4


def test_edges_and_distances_are_those_of_one_map_at_a_time() -> None:
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.normal(0.65, 0.4, (20, 33, 47)), (0, 1.2, 1.2))
    levelled = np.clip(np.where(smooth < 0.69, 0.3 * smooth, smooth), 0, 1)
    maps = (levelled * 255).astype(np.uint8)
    maps[0] = 7
    ours = detect_edges(torch.from_numpy(maps.astype(np.int32)), 50, 150)
    for levels, edges in zip(maps, ours.numpy(), strict=True):
        assert (edges == oracles.canny(levels, 50, 150)).all()
    assert not ours[0].any()
    assert ours[1:].any()
    away = measure_distances(ours, 20).numpy()
    assert (away[0] == 20).all()
    for distances, marked in zip(away[1:], ours[1:].numpy(), strict=True):
        assert distances == pytest.approx(
            np.minimum(ndimage.distance_transform_edt(~marked), 20), abs=1e-5
        )
    dry = torch.zeros(1, 8, 8, dtype=torch.float64)
    assert not shade_water(dry).any(), "no drops: the image stays as it is"


def test_water_is_that_of_one_map_at_a_time() -> None:
    rng = np.random.default_rng(4)
    liquid = ndimage.gaussian_filter(rng.normal(0.65, 0.3, (20, 32, 32)), (0, 1, 1))
    liquid[liquid < 0.69] = 0
    for drops, shaded in zip(liquid, shade_water(torch.from_numpy(liquid)).numpy(), strict=True):
        assert shaded == pytest.approx(oracles.water(drops), abs=1e-5)


def test_frost_is_synthesised_and_never_ends() -> None:
    ice = draw_sheets(torch.device("cpu")).double()
    rough = (ice[:, :, 1:] - ice[:, :, :-1]).abs().mean()
    seam = (ice[:, :, 0] - ice[:, :, -1]).abs().mean()
    assert seam.item() == pytest.approx(rough.item(), rel=0.2)
    assert 20 < ice[..., 1].std((1, 2)).mean() < 30
    large = corrupt(torch.zeros(1, 3, 10, 600, dtype=torch.uint8), "frost", 1, constants="imagenet")
    assert torch.equal(large[..., :88], large[..., 512:600])


# what does not fit


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 3, 1, 1),
        (2, 1, 1, 1),
        (1, 3, 2, 2),
        (2, 3, 1, 5),
        (1, 1, 6, 3),
        (2, 3, 33, 47),
        (0, 3, 32, 32),
    ],
)
def test_tiny_empty_and_odd_images_are_corrupted(name: str, shape: tuple[int, ...]) -> None:
    images = torch.full(shape, 90, dtype=torch.uint8)
    for constants in ("cifar", "imagenet"):
        for severity in (1, 5):
            result = corrupt(images, name, severity, constants=constants)
            assert result.shape == shape
            assert result.dtype == torch.uint8
            assert result is not images
            if name.endswith("blur") or name in ("contrast", "pixelate", "elastic_transform"):
                assert torch.equal(result, images), "a flat image stays flat"


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("name", STANDARD)
def test_black_and_white_images_are_corrupted(name: str, level: int) -> None:
    images = torch.full((2, 3, 16, 16), level, dtype=torch.uint8)
    result = corrupt(images, name, 5)
    if name in ("shot_noise", "speckle_noise", "fog") and level == 0:
        assert not result.any()
    if name in ("brightness",) and level == 255:
        assert torch.equal(result, images)


def test_wrong_arguments_are_refused() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for severity in (0, 6, -1, 2.0, True, "3", None):
        with pytest.raises(ParameterError, match=r"severity is an integer from 1 to 5, not"):
            corrupt(images, "fog", severity)  # type: ignore[arg-type]
    with pytest.raises(
        UnknownNameError,
        match=r"unknown corruption 'gausian_noise'; did you mean 'gaussian_noise'\?",
    ):
        corrupt(images, "gausian_noise", 1)
    with pytest.raises(
        ParameterError, match=r"constants are 'auto', 'cifar', 'imagenet', not 'mnist'"
    ):
        corrupt(images, "fog", 1, constants="mnist")
    with pytest.raises(DataError, match=r"uint8 levels 0 to 255, not float32"):
        corrupt(images.float(), "fog", 1)
    for shape in ((2, 2, 8, 8), (2, 4, 8, 8), (3, 8, 8), (2, 0, 8, 8)):
        with pytest.raises(DataError, match=r"\(N, C, H, W\) with 1 or 3 channels, not \("):
            corrupt(torch.zeros(shape, dtype=torch.uint8), "fog", 1)
    with pytest.raises(DataError, match="at least 1 pixel each way, not 0 x 8"):
        corrupt(torch.zeros(2, 3, 0, 8, dtype=torch.uint8), "fog", 1)
    with pytest.raises(ParameterError, match=r"2 images need as many indices, not \(3,\)"):
        corrupt(images, "fog", 1, indices=torch.arange(3))
    with pytest.raises(ParameterError, match="indices are integers, not float32"):
        corrupt(images, "fog", 1, indices=torch.zeros(2))
    with pytest.raises(ParameterError, match="indices are at least 0, not -1"):
        corrupt(images, "fog", 1, indices=torch.tensor([0, -1]))
    with pytest.raises(ParameterError, match="severity"):
        corrupt(images[:0], "fog", 9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", STANDARD)
def test_a_cuda_device_gives_the_same_numbers(name: str) -> None:
    far = torch.tensor([0, 5, 1 << 40])
    on_cpu, on_cuda = (
        Draws.from_key(1, name, indices=far.to(device)) for device in ("cpu", "cuda")
    )
    assert torch.equal(on_cpu.words(100, stream=2), on_cuda.words(100, stream=2).cpu())
    assert torch.equal(on_cpu.normal(100), on_cuda.normal(100).cpu())
    images = pictures(5, 3, 33, 47)
    for severity in (1, 5):
        for constants in ("cifar", "imagenet"):
            cpu, cuda = (
                corrupt(images.to(device), name, severity, constants=constants)
                for device in ("cpu", "cuda")
            )
            assert cuda.device.type == "cuda"
            difference = (cpu.int() - cuda.cpu().int()).abs()
            assert (difference > (1 if name == "elastic_transform" else 0)).double().mean() == 0
