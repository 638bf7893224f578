"""The 19 corruptions one image at a time, as the usual packages make them: NumPy, SciPy and Pillow,
nothing of ours.

Images are uint8 (H, W, C). Constants as published for CIFAR-10-C and ImageNet-C. Random ones take a
NumPy generator, so that they agree with ours in distribution only. The benchmark times these
functions.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tests.support.corruption_tables import CIFAR, IMAGENET

Array = NDArray[Any]


def corrupted(
    image: Array,
    name: str,
    severity: int,
    constants: str,
    rng: Generator | None = None,
    sheets: Array | None = None,
) -> Array:
    """One image corrupted; frost takes `sheets`, uint8 (K, S, S, 3)."""
    constant = (CIFAR if constants == "cifar" else IMAGENET)[name][severity - 1]
    if name == "frost":
        found = frost(image, constant, rng, sheets, 5 if constants == "cifar" else 1)
    else:
        found = FUNCTIONS[name](image, constant, rng)
    return np.uint8(np.clip(found, 0, 255))


def gaussian_noise(image: Array, sigma: float, rng: Generator) -> Array:
    x = image / 255.0
    return np.clip(x + rng.normal(size=x.shape, scale=sigma), 0, 1) * 255


def shot_noise(image: Array, photons: float, rng: Generator) -> Array:
    return np.clip(rng.poisson(image / 255.0 * photons) / photons, 0, 1) * 255


def impulse_noise(image: Array, amount: float, rng: Generator) -> Array:
    u = rng.random(image.shape)
    return np.where(u < amount / 2, 0, np.where(u < amount, 255, image))


def speckle_noise(image: Array, sigma: float, rng: Generator) -> Array:
    x = image / 255.0
    return np.clip(x + x * rng.normal(size=x.shape, scale=sigma), 0, 1) * 255


def gaussian_blur(image: Array, sigma: float, rng: Generator) -> Array:
    return (
        ndimage.gaussian_filter(image / 255.0, (sigma, sigma, 0), mode="nearest", truncate=4) * 255
    )


def defocus_blur(image: Array, constant: tuple[float, float], rng: Generator) -> Array:
    radius, sigma = constant
    reach, size = (8, 3) if radius <= 8 else (int(radius), 5)
    line = np.arange(-reach, reach + 1)
    x, y = np.meshgrid(line, line)
    disk = (x**2 + y**2 <= radius**2).astype(float)
    disk /= disk.sum()
    near = np.arange(size) - size // 2
    soft = np.exp(-(near**2) / (2 * sigma**2))
    soft = np.outer(soft, soft) / soft.sum() ** 2
    disk = ndimage.correlate(disk, soft, mode="mirror")
    used = int(np.abs(np.argwhere(disk > 1e-9) - reach).max())
    disk = disk[reach - used : reach + used + 1, reach - used : reach + used + 1]
    return ndimage.correlate(image.astype(float), disk[:, :, None], mode="mirror")


def glass_blur(image: Array, constant: tuple[float, int, int], rng: Generator) -> Array:
    sigma, shift, times = constant
    x = np.uint8(gaussian_blur(image, sigma, rng) + 1e-9)
    height, width, _ = x.shape
    for _ in range(times):
        offsets = rng.integers(-shift, shift, size=(height, width, 2)).tolist()
        for h in range(height - shift, shift, -1):
            for w in range(width - shift, shift, -1):
                dy, dx = offsets[h][w]
                kept = x[h, w].copy()
                x[h, w] = x[h + dy, w + dx]
                x[h + dy, w + dx] = kept
    return gaussian_blur(x, sigma, rng)


def streaks(image: Array, radius: int, sigma: float, degrees: float) -> Array:
    width = 2 * radius + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    rows, columns = np.arange(image.shape[0]), np.arange(image.shape[1])
    across, down = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found = np.zeros(image.shape)
    for i, weight in enumerate(weights):
        y = np.clip(rows + math.ceil(i * down - 0.5), 0, len(rows) - 1)
        x = np.clip(columns + math.ceil(i * across - 0.5), 0, len(columns) - 1)
        found += weight * image[y][:, x]
    return found


def motion_blur(image: Array, constant: tuple[int, float], rng: Generator) -> Array:
    return streaks(image, *constant, rng.uniform(-45, 45))


def enlarged(image: Array, factor: float) -> Array:
    crops = [math.ceil(n / factor) for n in image.shape[:2]]
    top, left = ((n - crop) // 2 for n, crop in zip(image.shape[:2], crops, strict=True))
    middle, factors = (
        image[top : top + crops[0], left : left + crops[1]],
        (factor, factor) + (1,) * (image.ndim - 2),
    )
    found = ndimage.zoom(middle, factors, order=1)
    top, left = ((found.shape[axis] - image.shape[axis]) // 2 for axis in (0, 1))
    return found[top : top + image.shape[0], left : left + image.shape[1]]


def zoom_blur(image: Array, constant: tuple[float, float], rng: Generator) -> Array:
    x = image.astype(np.float64)
    factors = np.arange(1, *constant)
    return (x + sum(enlarged(x, factor) for factor in factors)) / (len(factors) + 1)


def luma(image: Array) -> Array:
    return image if image.shape[2] == 1 else (image @ np.array([0.299, 0.587, 0.114]))[:, :, None]


def snow(image: Array, constant: tuple[float, ...], rng: Generator) -> Array:
    loc, scale, zoom, threshold, radius, sigma, mix = constant
    layer = enlarged(rng.normal(size=image.shape[:2], loc=loc, scale=scale), zoom)
    layer[layer < threshold] = 0
    layer = np.uint8(np.clip(layer, 0, 1) * 255)
    layer = np.round(streaks(layer, int(radius), sigma, rng.uniform(-135, -45)))[:, :, None] / 255.0
    x = image / 255.0
    x = mix * x + (1 - mix) * np.maximum(x, luma(x) * 1.5 + 0.5)
    return np.clip(x + layer + np.rot90(layer, k=2), 0, 1) * 255


def frost(
    image: Array, constant: tuple[float, float], rng: Generator, sheets: Array, step: int
) -> Array:
    sheet = sheets[rng.integers(len(sheets))]
    height, width, channels = image.shape
    top, left = rng.integers(0, len(sheet), 2)
    rows, columns = (
        (top + step * np.arange(height)) % len(sheet),
        (left + step * np.arange(width)) % len(sheet),
    )
    piece = sheet[rows][:, columns]
    piece = np.round(luma(piece)) if channels == 1 else piece
    return np.clip(constant[0] * image + constant[1] * piece, 0, 255)


def clouds(side: int, decay: float, rng: Generator) -> Array:
    found = np.zeros((side, side))
    step, wibble = side, 100.0
    while step >= 2:
        half, size = step // 2, wibble**2
        corners = found[::step, ::step]
        sums = corners + np.roll(corners, -1, 0)
        sums = sums + np.roll(sums, -1, 1)
        found[half::step, half::step] = sums / 4 + rng.uniform(-size, size, sums.shape)
        middles = found[half::step, half::step]
        beside = middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)
        found[::step, half::step] = beside / 4 + rng.uniform(-size, size, beside.shape)
        beside = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)
        found[half::step, ::step] = beside / 4 + rng.uniform(-size, size, beside.shape)
        step, wibble = half, wibble / decay
    found -= found.min()
    return found / found.max()


def fog(image: Array, constant: tuple[float, float, int], rng: Generator) -> Array:
    x = image / 255.0
    brightest, side = x.max(), constant[2]
    while side < max(image.shape[:2]):
        side *= 2
    x = x + constant[0] * clouds(side, constant[1], rng)[: image.shape[0], : image.shape[1], None]
    return np.clip(x * brightest / (brightest + constant[0]), 0, 1) * 255


def hsv(image: Array, change: Callable[[Array], None]) -> Array:
    colour = rgb_to_hsv(np.broadcast_to(image, (*image.shape[:2], 3)) / 255.0)
    change(colour)
    return np.clip(hsv_to_rgb(colour), 0, 1)[:, :, : image.shape[2]] * 255


def brightness(image: Array, more: float, rng: Generator) -> Array:
    def change(colour: Array) -> None:
        colour[:, :, 2] = np.clip(colour[:, :, 2] + more, 0, 1)

    return hsv(image, change)


def saturate(image: Array, constant: tuple[float, float], rng: Generator) -> Array:
    def change(colour: Array) -> None:
        colour[:, :, 1] = np.clip(colour[:, :, 1] * constant[0] + constant[1], 0, 1)

    return hsv(image, change)


def contrast(image: Array, part: float, rng: Generator) -> Array:
    x = image / 255.0
    mean = x.mean((0, 1), keepdims=True)
    return np.clip((x - mean) * part + mean, 0, 1) * 255


def elastic_transform(image: Array, constant: tuple[float, ...], rng: Generator) -> Array:
    height, width, channels = image.shape
    alpha, sigma, jitter = (part * min(height, width) for part in constant)
    x = image.astype(np.float64)
    third = min(height, width) // 3
    if third:
        centre = np.array([height // 2, width // 2])
        fixed = centre + third * np.array([[1, 1], [-1, 1], [-1, -1]])
        moved = fixed + rng.uniform(-jitter, jitter, (3, 2))
        back = np.linalg.solve(np.c_[moved, np.ones(3)], fixed).T
        x = np.stack(
            [
                ndimage.affine_transform(
                    x[:, :, c], back[:, :2], back[:, 2], order=1, mode="mirror"
                )
                for c in range(channels)
            ],
            -1,
        )
    if alpha:
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        dy, dx = (
            ndimage.gaussian_filter(
                rng.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3
            )
            * alpha
            for _ in range(2)
        )
        x = np.stack(
            [
                ndimage.map_coordinates(
                    x[:, :, c], [rows + dy, columns + dx], order=1, mode="reflect"
                )
                for c in range(channels)
            ],
            -1,
        )
    return x


def picture(image: Array) -> Image.Image:
    return Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])


def pixels(shown: Image.Image, channels: int) -> Array:
    return np.asarray(shown).reshape(shown.height, shown.width, channels)


def pixelate(image: Array, part: float, rng: Generator) -> Array:
    height, width, channels = image.shape
    small = picture(image).resize(
        (max(int(width * part), 1), max(int(height * part), 1)), Image.Resampling.BOX
    )
    return pixels(small.resize((width, height), Image.Resampling.BOX), channels)


def jpeg_compression(image: Array, quality: int, rng: Generator) -> Array:
    file = io.BytesIO()
    picture(image).save(file, "JPEG", quality=quality)
    return pixels(Image.open(file), image.shape[2])


def canny(levels: Array, low: int, high: int) -> Array:
    wide = np.pad(levels.astype(int), 1, mode="edge")
    gx = ndimage.sobel(wide, 1)[1:-1, 1:-1]
    gy = ndimage.sobel(wide, 0)[1:-1, 1:-1]
    size = np.pad(np.abs(gx) + np.abs(gy), 1)
    here, near = (
        size[1:-1, 1:-1],
        {
            (y, x): size[1 + y : 1 + y + len(levels), 1 + x : 1 + x + levels.shape[1]]
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        },
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.abs(gy) / np.abs(gx)
    level, steep = slope < math.tan(math.pi / 8), slope > math.tan(3 * math.pi / 8)
    weak = np.where(
        level,
        (here > near[0, -1]) & (here >= near[0, 1]),
        np.where(
            steep,
            (here > near[-1, 0]) & (here >= near[1, 0]),
            np.where(
                gx * gy < 0,
                (here > near[-1, 1]) & (here > near[1, -1]),
                (here > near[-1, -1]) & (here > near[1, 1]),
            ),
        ),
    )
    weak &= here > low
    patches, _ = ndimage.label(weak, np.ones((3, 3)))
    return np.isin(patches, np.setdiff1d(patches[weak & (here > high)], [0]))


def equalised(levels: Array) -> Array:
    counts = np.bincount(levels.ravel(), minlength=256)
    first = int(np.flatnonzero(counts)[0])
    if counts[first] == levels.size:
        return levels
    table = np.round((np.cumsum(counts) - counts[first]) * (255 / (levels.size - counts[first])))
    return np.clip(table, 0, 255)[levels]


def water(liquid: Array) -> Array:
    drops = np.uint8(np.clip(liquid * 255, 0, 255))
    outline = canny(drops, 50, 150)
    away = ndimage.distance_transform_edt(~outline) if outline.any() else np.full(drops.shape, 20.0)
    away = np.floor(
        ndimage.correlate(np.minimum(away, 20), np.ones((3, 3)) / 9, mode="mirror") + 1e-6
    ).astype(int)
    relief = ndimage.correlate(
        equalised(away).astype(float), np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror"
    )
    relief = np.round(
        ndimage.correlate(np.clip(relief, 0, 255), np.ones((3, 3)) / 9, mode="mirror")
    )
    shaded = drops * relief
    return shaded / max(shaded.max(), 1)


def spatter(image: Array, constant: tuple[float, ...], rng: Generator) -> Array:
    loc, scale, sigma, threshold, intensity, mud = constant
    x = image / 255.0
    liquid = rng.normal(size=image.shape[:2], loc=loc, scale=scale)
    liquid = ndimage.gaussian_filter(liquid, sigma, mode="nearest", truncate=4)
    liquid[liquid < threshold] = 0
    colour = np.array([63, 42, 20] if mud else [175, 238, 238]) / 255.0
    if image.shape[2] == 1:
        colour = colour @ np.array([0.299, 0.587, 0.114])
    if mud:
        m = ndimage.gaussian_filter(
            (liquid > threshold).astype(float), intensity, mode="nearest", truncate=4
        )
        m[m < 0.8] = 0
        return np.clip(x * (1 - m[:, :, None]) + m[:, :, None] * colour, 0, 1) * 255
    return np.clip(x + intensity * water(liquid)[:, :, None] * colour, 0, 1) * 255


FUNCTIONS: dict[str, Callable[..., Array]] = {
    one.__name__: one
    for one in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        gaussian_blur,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        fog,
        brightness,
        saturate,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
        spatter,
    )
}
