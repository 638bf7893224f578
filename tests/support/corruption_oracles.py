"""The 19 corruptions one image at a time, as the usual packages make them.

They use NumPy, SciPy and Pillow, and nothing of ours. Images are uint8 (H, W, C). Constants are
those published for CIFAR-10-C and ImageNet-C. Random corruptions take a NumPy generator, so that
they agree with ours in distribution only. The benchmark times these functions.
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
    """An image under a corruption; frost takes `sheets`, uint8 (K, S, S, 3)."""
    constant = (CIFAR if constants == "cifar" else IMAGENET)[name][severity - 1]
    if name == "frost":
        assert rng is not None
        assert sheets is not None
        levels = frost(image, constant, rng, sheets, step=5 if constants == "cifar" else 1)
    else:
        levels = FUNCTIONS[name](image, constant, rng)
    return np.clip(levels, 0, 255).astype(np.uint8)


def gaussian_noise(image: Array, sigma: float, rng: Generator) -> Array:
    x = image / 255.0
    return np.clip(x + rng.normal(size=x.shape, scale=sigma), 0, 1) * 255


def shot_noise(image: Array, photons: float, rng: Generator) -> Array:
    return np.clip(rng.poisson(image / 255.0 * photons) / photons, 0, 1) * 255


def impulse_noise(image: Array, amount: float, rng: Generator) -> Array:
    uniform = rng.random(image.shape)
    salted = np.where(uniform < amount, 255, image)
    return np.where(uniform < amount / 2, 0, salted)


def speckle_noise(image: Array, sigma: float, rng: Generator) -> Array:
    x = image / 255.0
    return np.clip(x + x * rng.normal(size=x.shape, scale=sigma), 0, 1) * 255


def gaussian_blur(image: Array, sigma: float, rng: Generator) -> Array:
    x = image / 255.0
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=4) * 255


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
    inner = slice(reach - used, reach + used + 1)
    disk = disk[inner, inner]
    return ndimage.correlate(image.astype(float), disk[:, :, None], mode="mirror")


def glass_blur(image: Array, constant: tuple[float, int, int], rng: Generator) -> Array:
    sigma, shift, times = constant
    x = (gaussian_blur(image, sigma, rng) + 1e-9).astype(np.uint8)
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
    rows = np.arange(image.shape[0])
    columns = np.arange(image.shape[1])
    across = math.cos(math.radians(degrees))
    down = math.sin(math.radians(degrees))
    total = np.zeros(image.shape)
    for i, weight in enumerate(weights):
        y = np.clip(rows + math.ceil(i * down - 0.5), 0, len(rows) - 1)
        x = np.clip(columns + math.ceil(i * across - 0.5), 0, len(columns) - 1)
        total += weight * image[y][:, x]
    return total


def motion_blur(image: Array, constant: tuple[int, float], rng: Generator) -> Array:
    return streaks(image, *constant, rng.uniform(-45, 45))


def enlarged(image: Array, factor: float) -> Array:
    height, width = image.shape[:2]
    crop_height, crop_width = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    middle = image[top : top + crop_height, left : left + crop_width]
    factors = [factor, factor, 1][: image.ndim]
    zoomed = ndimage.zoom(middle, factors, order=1)
    top, left = (zoomed.shape[0] - height) // 2, (zoomed.shape[1] - width) // 2
    return zoomed[top : top + height, left : left + width]


def zoom_blur(image: Array, constant: tuple[float, float], rng: Generator) -> Array:
    x = image.astype(np.float64)
    factors = np.arange(1, *constant)
    return (x + sum(enlarged(x, factor) for factor in factors)) / (len(factors) + 1)


def luma(image: Array) -> Array:
    if image.shape[2] == 1:
        return image
    return (image @ np.array([0.299, 0.587, 0.114]))[:, :, None]


def snow(image: Array, constant: tuple[float, ...], rng: Generator) -> Array:
    loc, scale, zoom, threshold, radius, sigma, mix = constant
    layer = enlarged(rng.normal(size=image.shape[:2], loc=loc, scale=scale), zoom)
    layer[layer < threshold] = 0
    layer = (np.clip(layer, 0, 1) * 255).astype(np.uint8)
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
    rows = (top + step * np.arange(height)) % len(sheet)
    columns = (left + step * np.arange(width)) % len(sheet)
    piece = sheet[rows][:, columns]
    if channels == 1:
        piece = np.round(luma(piece))
    return np.clip(constant[0] * image + constant[1] * piece, 0, 255)


def clouds(side: int, decay: float, rng: Generator) -> Array:
    field = np.zeros((side, side))
    step, wibble = side, 100.0
    while step >= 2:
        half, size = step // 2, wibble**2
        corners = field[::step, ::step]
        sums = corners + np.roll(corners, -1, 0)
        sums = sums + np.roll(sums, -1, 1)
        field[half::step, half::step] = sums / 4 + rng.uniform(-size, size, sums.shape)
        centres = field[half::step, half::step]
        sums = centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1)
        field[::step, half::step] = sums / 4 + rng.uniform(-size, size, sums.shape)
        sums = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0)
        field[half::step, ::step] = sums / 4 + rng.uniform(-size, size, sums.shape)
        step, wibble = half, wibble / decay
    field -= field.min()
    return field / field.max()


def fog(image: Array, constant: tuple[float, float, int], rng: Generator) -> Array:
    density, decay, side = constant
    height, width = image.shape[:2]
    while side < max(height, width):
        side *= 2
    x = image / 255.0
    brightest = x.max()
    x = x + density * clouds(side, decay, rng)[:height, :width, None]
    return np.clip(x * brightest / (brightest + density), 0, 1) * 255


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
        planes = [
            ndimage.affine_transform(
                x[:, :, channel], back[:, :2], back[:, 2], order=1, mode="mirror"
            )
            for channel in range(channels)
        ]
        x = np.stack(planes, -1)
    if alpha:
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        fields = rng.uniform(-1, 1, (height, width)), rng.uniform(-1, 1, (height, width))
        dy, dx = (
            ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3) * alpha
            for field in fields
        )
        places = [rows + dy, columns + dx]
        planes = [
            ndimage.map_coordinates(x[:, :, channel], places, order=1, mode="reflect")
            for channel in range(channels)
        ]
        x = np.stack(planes, -1)
    return x


def picture(image: Array) -> Image.Image:
    return Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])


def pixels(shown: Image.Image, channels: int) -> Array:
    return np.asarray(shown).reshape(shown.height, shown.width, channels)


def pixelate(image: Array, part: float, rng: Generator) -> Array:
    height, width, channels = image.shape
    small_size = max(int(width * part), 1), max(int(height * part), 1)
    small = picture(image).resize(small_size, Image.Resampling.BOX)
    return pixels(small.resize((width, height), Image.Resampling.BOX), channels)


def jpeg_compression(image: Array, quality: int, rng: Generator) -> Array:
    file = io.BytesIO()
    picture(image).save(file, "JPEG", quality=quality)
    return pixels(Image.open(file), image.shape[2])


def canny(levels: Array, low: int, high: int) -> Array:
    wide = np.pad(levels.astype(int), 1, mode="edge")
    gx = ndimage.sobel(wide, 1)[1:-1, 1:-1]
    gy = ndimage.sobel(wide, 0)[1:-1, 1:-1]
    height, width = levels.shape
    padded = np.pad(np.abs(gx) + np.abs(gy), 1)
    size = padded[1:-1, 1:-1]
    near = {
        (y, x): padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.abs(gy) / np.abs(gx)
    flat = slope < math.tan(math.pi / 8)
    steep = slope > math.tan(3 * math.pi / 8)
    weak = np.select(
        [flat, steep, gx * gy < 0],
        [
            (size > near[0, -1]) & (size >= near[0, 1]),
            (size > near[-1, 0]) & (size >= near[1, 0]),
            (size > near[-1, 1]) & (size > near[1, -1]),
        ],
        (size > near[-1, -1]) & (size > near[1, 1]),
    )
    weak &= size > low
    patches, _ = ndimage.label(weak, np.ones((3, 3)))
    return np.isin(patches, np.setdiff1d(patches[weak & (size > high)], [0]))


def equalised(levels: Array) -> Array:
    counts = np.bincount(levels.ravel(), minlength=256)
    first = int(np.flatnonzero(counts)[0])
    if counts[first] == levels.size:
        return levels
    lowest = counts[first]
    table = np.round((np.cumsum(counts) - lowest) * (255 / (levels.size - lowest)))
    return np.clip(table, 0, 255)[levels]


def water(liquid: Array) -> Array:
    drops = np.clip(liquid * 255, 0, 255).astype(np.uint8)
    outline = canny(drops, 50, 150)
    mean = np.ones((3, 3)) / 9
    away = np.full(drops.shape, 20.0)
    if outline.any():
        away = np.minimum(ndimage.distance_transform_edt(~outline), 20)
    away = np.floor(ndimage.correlate(away, mean, mode="mirror") + 1e-6).astype(int)
    slopes = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = ndimage.correlate(equalised(away).astype(float), slopes, mode="mirror")
    relief = np.round(ndimage.correlate(np.clip(relief, 0, 255), mean, mode="mirror"))
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
        wet = (liquid > threshold).astype(float)
        m = ndimage.gaussian_filter(wet, intensity, mode="nearest", truncate=4)
        m[m < 0.8] = 0
        m = m[:, :, None]
        return np.clip(x * (1 - m) + m * colour, 0, 1) * 255
    return np.clip(x + intensity * water(liquid)[:, :, None] * colour, 0, 1) * 255


FUNCTIONS: dict[str, Callable[..., Array]] = {
    function.__name__: function
    for function in (
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
