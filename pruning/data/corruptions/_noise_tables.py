"""Noise of single values as a law on grey levels: 256 rows P(new level | old level), drawn by
Walker's alias method.

A noise that treats every value by itself knows only 256 inputs and 256 outputs, so the whole noise
is a matrix. It is computed once in float64 and drawn with one 32-bit word and one look-up a value,
exactly to 2^-24.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.data.keyed_random import Draws

Floats: TypeAlias = NDArray[np.floating[Any]]
LEVELS: Floats = np.arange(256.0)


def build_table(survival: Callable[[Floats, Floats], Floats]) -> Floats:
    """P(new | old), (256, 256), from survival(x, y) = P(X >= y | x) at intensities x (256, 1), y
    (1, 255) in [0, 1].

    The new level is floor(255 X), X clipped to [0, 1]: it is at least j where X >= j / 255.

    >>> float(build_table(lambda x, y: (x >= y).astype(float)).trace())
    256.0
    """
    at_least = survival(LEVELS[:, None] / 255.0, LEVELS[None, 1:] / 255.0)
    rows = np.ones((256, 1))
    return -np.diff(np.concatenate([rows, at_least, 0.0 * rows], 1), axis=1)


def build_alias_table(probabilities: Floats) -> Tensor:
    """Walker's table of every row as int32 (256 * 256,): threshold x 2^8 + alias at row * 256 +
    column.

    A uniform column j is kept where a uniform 16-bit number is below its threshold, and is its
    alias otherwise.
    """
    left, rows = probabilities * 256.0, np.arange(256)
    threshold, alias = np.full((256, 256), 1 << 16), np.tile(np.arange(256), (256, 1))
    shut = np.zeros((256, 256), bool)
    for _ in range(255):
        least = np.where(shut, np.inf, left).argmin(1)
        most = np.where(shut, -np.inf, left).argmax(1)
        threshold[rows, least] = np.round(np.clip(left[rows, least], 0.0, 1.0) * (1 << 16))
        alias[rows, least] = most
        left[rows, most] -= 1.0 - left[rows, least]
        shut[rows, least] = True
    return torch.from_numpy(((threshold << 8) + alias).astype(np.int32).ravel())


def draw_levels(images: Tensor, table: Tensor, draws: Draws) -> Tensor:
    """A new level for every value of the images, by the law of its old one."""
    words = draws.words(*images.shape[1:]).view(-1)
    column = words & 0xFF
    place = images.reshape(-1).to(torch.int32).mul_(256).add_(column)
    found = table.to(images.device).index_select(0, place)
    kept = words.bitwise_right_shift_(16).bitwise_and_(0xFFFF) < (found >> 8)
    return torch.where(kept, column, found.bitwise_and_(0xFF)).to(torch.uint8).view(images.shape)
