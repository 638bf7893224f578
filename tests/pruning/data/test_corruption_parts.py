"""The parts of corruptions against SciPy, the published constants and plain loops."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from pruning.data.corruptions import choose_table, corruptions, list_standard_corruptions
from pruning.data.corruptions._edges import detect_edges, measure_distances
from pruning.data.corruptions._linear import (
    apply_separable,
    build_smoothing,
    build_zooming,
    index_beyond,
)
from pruning.data.corruptions._plasma import draw_plasma
from pruning.data.corruptions.frost import draw_sheets
from pruning.data.corruptions.glass_blur import find_fronts, shuffle_pixels
from pruning.data.corruptions.spatter import shade_water
from pruning.data.keyed_random import Draws
from pruning.library import corrupt
from tests.support import corruption_oracles as oracles
from tests.support import corruption_tables as tables
from tests.support.corrupted_images import STANDARD, VARIANTS, pictures


def test_the_constants_are_those_of_the_paper() -> None:
    assert sorted(STANDARD) == list_standard_corruptions()
    assert sorted([*STANDARD, *VARIANTS]) == corruptions.names()
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


def test_glass_of_the_archives_overwrites_pixels_as_views_of_one_array_do() -> None:
    draws = Draws.from_key(3, "glass_blur_archive", 4, indices=torch.arange(3))
    images = pictures(3, 3, 13, 11)
    words = draws.words(13, 11).numpy()
    shuffled = shuffle_pixels(images, 2, 1, draws, overwrite=True)
    for image, place, ours in zip(images, words, shuffled, strict=True):
        x = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        for h in range(13 - 2, 2, -1):
            for w in range(11 - 2, 2, -1):
                word = int(place[h, w]) & 0xFFFFFFFF
                dy = (word >> 16) * 4 // 65536 - 2
                dx = (word & 0xFFFF) * 4 // 65536 - 2
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]  # as the archives' code
        assert (ours.permute(1, 2, 0).numpy() == x).all()
    swapped, overwritten = (
        (corrupt(pictures(20, 3, 32, 32), name, 1).double() - pictures(20, 3, 32, 32).double())
        for name in ("glass_blur", "glass_blur_archive")
    )
    assert overwritten.square().mean().sqrt() < 0.85 * swapped.square().mean().sqrt()


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
    # the mean green levels of the five photographs of the benchmark
    assert ice[..., 1].mean((1, 2)).tolist() == pytest.approx([149, 205, 205, 153, 123], abs=0.5)
    large = corrupt(torch.zeros(1, 3, 10, 600, dtype=torch.uint8), "frost", 1, constants="imagenet")
    assert torch.equal(large[..., :88], large[..., 512:600])
