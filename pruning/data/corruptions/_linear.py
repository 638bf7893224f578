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
"""What lies beyond abc: nearest aaa|abc, mirror cb|abc|ba, reflect ba|abc|cb."""
BITS = 18


def index_beyond(length: int, before: int, after: int, border: Border) -> NDArray[np.int64]:
    """The index within a line of each place from `before` places in front of it to `after` behind
    it.

    >>> (
    ...     index_beyond(3, 2, 2, "mirror").tolist(),
    ...     index_beyond(3, 2, 2, "reflect").tolist(),
    ...     index_beyond(1, 1, 1, "mirror").tolist(),
    ... )
    ([2, 1, 0, 1, 2, 1, 0], [1, 0, 0, 1, 2, 2, 1], [0, 0, 0])
    """
    places: NDArray[np.int64] = np.arange(-before, length + after)
    if border == "nearest" or length == 1:
        return np.clip(places, 0, length - 1)
    if border == "mirror":
        turned = np.abs(places) % (2 * length - 2)
        return np.where(turned < length, turned, 2 * length - 2 - turned)
    turned = places % (2 * length)
    return np.where(turned < length, turned, 2 * length - 1 - turned)


def round_weights(weights: NDArray[np.float64], bits: int = BITS) -> NDArray[np.float64]:
    """Weights (..., K) that sum to about 1, as multiples of 2^-bits; the largest takes what is left
    of their sum.

    >>> round_weights(np.array([1.0, 1.0, 1.0]) / 3, bits=2).tolist()
    [0.5, 0.25, 0.25]
    """
    units = np.round(weights * (1 << bits))
    most = np.expand_dims(units.argmax(-1), -1)
    lacking = np.round(weights.sum(-1, keepdims=True) * (1 << bits)) - units.sum(-1, keepdims=True)
    np.put_along_axis(units, most, np.take_along_axis(units, most, -1) + lacking, -1)
    return units / (1 << bits)


@lru_cache(maxsize=64)
def build_smoothing(length: int, sigma: float, truncate: float, border: Border) -> Tensor:
    """A Gaussian along a line, w_k ~ exp(-k^2 / (2 sigma^2)), |k| <= floor(truncate sigma + 1/2):
    float64 (L, L).
    """
    radius = int(truncate * sigma + 0.5)
    places = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (places / sigma) ** 2) if radius else np.ones(1)
    weights = round_weights(weights / weights.sum())
    matrix, index = np.zeros((length, length)), index_beyond(length, radius, radius, border)
    for k, weight in enumerate(weights):
        np.add.at(matrix, (np.arange(length), index[k : k + length]), weight)
    return torch.from_numpy(matrix)


def measure_enlargement(length: int, factor: float) -> tuple[int, int]:
    """How many of a line's places are enlarged by a factor of at least 1, and to how many: ceil(L /
    f), round(that f).
    """
    crop = math.ceil(length / factor)
    return crop, round(crop * factor)


@lru_cache(maxsize=256)
def build_zooming(length: int, crop: int, enlarged: int) -> Tensor:
    """The middle `crop` of a line's places become `enlarged` ones, of which the middle L remain:
    float64 (L, L).

    Interpolation is linear, the first place on the first and the last on the last.

    >>> build_zooming(3, *measure_enlargement(3, 2.0))
    tensor([[1.0000, 0.0000, 0.0000],
            [0.6667, 0.3333, 0.0000],
            [0.3333, 0.6667, 0.0000]], dtype=torch.float64)
    """
    top, trim = (length - crop) // 2, (enlarged - length) // 2
    at = (np.arange(length) + trim) * ((crop - 1) / max(enlarged - 1, 1))
    first = np.minimum(np.floor(at + 1e-9).astype(np.int64), crop - 1)
    part = np.round(np.clip(at - first, 0.0, 1.0) * (1 << BITS)) / (1 << BITS)
    matrix, lines = np.zeros((length, length)), np.arange(length)
    np.add.at(matrix, (lines, top + first), 1.0 - part)
    np.add.at(matrix, (lines, top + np.minimum(first + 1, crop - 1)), part)
    return torch.from_numpy(matrix)


def apply_separable(levels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """R X C^T for every image X (..., H, W) whose values have at most 16 significant bits: float64,
    exact.
    """
    rows, columns = rows.to(levels.device), columns.to(levels.device)
    *_, height, width = levels.shape
    across = levels.to(torch.float64).reshape(-1, width) @ columns.T
    found = torch.matmul(rows, across.view(-1, height, len(columns)))
    return found.view(*levels.shape[:-2], len(rows), len(columns))
