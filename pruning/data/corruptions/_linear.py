"""Blurs and zooms as small matrices, summed without rounding.

A filter along an axis, its borders included, is a square matrix, and a batch is filtered by one
matrix product. Weights are multiples of 2^-18 that sum to 1, so that sums of two of them times a
number of 16 bits are exact in float64: the order of summation, which a library chooses by batch
size and device, changes nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Border: TypeAlias = Literal["nearest", "mirror", "reflect"]
"""The continuation of a line abc: nearest aaa|abc, mirror cb|abc|ba, reflect ba|abc|cb."""
BITS = 18


def index_beyond(length: int, before: int, after: int, border: Border) -> NDArray[np.int64]:
    """The index within a line of each place from `before` in front of it to `after` behind it.

    >>> (
    ...     index_beyond(3, 2, 2, "mirror").tolist(),
    ...     index_beyond(3, 2, 2, "reflect").tolist(),
    ...     index_beyond(1, 1, 1, "mirror").tolist(),
    ... )
    ([2, 1, 0, 1, 2, 1, 0], [1, 0, 0, 1, 2, 2, 1], [0, 0, 0])
    """
    places: NDArray[np.int64] = np.arange(-before, length + after)
    last = length - 1
    if border == "nearest" or length == 1:
        return np.clip(places, 0, last)
    # Mirrored lines repeat: with the edges once in a period of 2 L - 2, or twice in one of 2 L.
    if border == "mirror":
        folded = np.abs(places) % (2 * last)
        return np.where(folded <= last, folded, 2 * last - folded)
    folded = places % (2 * length)
    return np.where(folded <= last, folded, 2 * length - 1 - folded)


def round_weights(weights: NDArray[np.float64], bits: int = BITS) -> NDArray[np.float64]:
    """Weights (..., K) that sum to about 1, as multiples of 2^-bits.

    The largest takes what rounding lost of their sum.

    >>> round_weights(np.array([1.0, 1.0, 1.0]) / 3, bits=2).tolist()
    [0.5, 0.25, 0.25]
    """
    unit_count = 1 << bits
    units = np.round(weights * unit_count)
    total = np.round(weights.sum(-1, keepdims=True) * unit_count)
    lacking = total - units.sum(-1, keepdims=True)
    largest = np.expand_dims(units.argmax(-1), -1)
    corrected = np.take_along_axis(units, largest, -1) + lacking
    np.put_along_axis(units, largest, corrected, -1)
    return units / unit_count


@lru_cache(maxsize=64)
def build_smoothing(length: int, sigma: float, truncate: float, border: Border) -> Tensor:
    """The matrix of a Gaussian along a line, float64 (L, L).

    w_k ~ exp(-k^2 / (2 sigma^2)), |k| <= floor(truncate sigma + 1/2).
    """
    radius = int(truncate * sigma + 0.5)
    weights = np.ones(1)
    if radius:
        places = np.arange(-radius, radius + 1)
        weights = np.exp(-0.5 * (places / sigma) ** 2)
    weights = round_weights(weights / weights.sum())
    sources = index_beyond(length, radius, radius, border)
    rows = np.arange(length)
    matrix = np.zeros((length, length))
    for k, weight in enumerate(weights):
        # add.at, because borders name a place twice
        np.add.at(matrix, (rows, sources[k : k + length]), weight)
    return torch.from_numpy(matrix)


def measure_enlargement(length: int, factor: float) -> tuple[int, int]:
    """The number of a line's L places that a zoom enlarges, and the number it enlarges them to.

    With the factor f >= 1 these are ceil(L / f) and round(ceil(L / f) f).
    """
    crop = math.ceil(length / factor)
    return crop, round(crop * factor)


@lru_cache(maxsize=256)
def build_zooming(length: int, crop: int, enlarged: int) -> Tensor:
    """The matrix of a zoom along a line, float64 (L, L).

    The middle `crop` of its places become `enlarged` ones, of which the middle L remain.
    Interpolation is linear with aligned ends (`align_corners`), in weights that are multiples of
    2^-18.

    >>> build_zooming(3, *measure_enlargement(3, 2.0))
    tensor([[1.0000, 0.0000, 0.0000],
            [0.6667, 0.3333, 0.0000],
            [0.3333, 0.6667, 0.0000]], dtype=torch.float64)
    """
    start = (length - crop) // 2
    trim = (enlarged - length) // 2
    rows = np.arange(length)
    position = (rows + trim) * ((crop - 1) / max(enlarged - 1, 1))  # within the crop
    # A position that should be whole may be rounded just below; 1e-9 makes floor return it.
    first = np.minimum(np.floor(position + 1e-9).astype(np.int64), crop - 1)
    second = np.minimum(first + 1, crop - 1)
    fraction = np.clip(position - first, 0.0, 1.0)
    second_weight = np.round(fraction * (1 << BITS)) / (1 << BITS)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (rows, start + first), 1.0 - second_weight)
    np.add.at(matrix, (rows, start + second), second_weight)
    return torch.from_numpy(matrix)


def apply_separable(levels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """R X C^T for every image X (..., H, W): float64.

    It is exact for values of at most 16 significant bits.
    """
    rows = rows.to(levels.device)
    columns = columns.to(levels.device)
    height, width = levels.shape[-2:]
    across = levels.to(torch.float64).reshape(-1, width) @ columns.T
    product = torch.matmul(rows, across.view(-1, height, len(columns)))
    return product.view(*levels.shape[:-2], len(rows), len(columns))
