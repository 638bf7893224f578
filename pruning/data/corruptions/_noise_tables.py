"""Noise of single values as a distribution over grey levels, drawn by Walker's alias method.

A noise that treats every value by itself knows only 256 inputs and 256 outputs, so the whole noise
is a matrix of 256 rows P(new level | old level). It is computed once in float64 and drawn with one
32-bit word and one look-up for each value, exactly to 2^-24.
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
COUNT = 256
LEVELS: Floats = np.arange(256.0)


def build_table(survival: Callable[[Floats, Floats], Floats]) -> Floats:
    """P(new | old), (256, 256), from survival(x, y) = P(X >= y | x).

    Intensities x (256, 1) and y (1, 255) are in [0, 1]. The new level is floor(255 X), X clipped to
    [0, 1]: it is at least j where X >= j / 255.

    >>> float(build_table(lambda x, y: (x >= y).astype(float)).trace())
    256.0
    """
    old = LEVELS[:, None] / 255.0
    new = LEVELS[None, 1:] / 255.0
    at_least = survival(old, new)
    certain = np.ones((COUNT, 1))  # every level is at least 0, and none is at least 256
    return -np.diff(np.concatenate([certain, at_least, 0.0 * certain], 1), axis=1)


def build_alias_table(probabilities: Floats) -> Tensor:
    """Walker's table of every row as int32 (256 * 256,), at row * 256 + column.

    An entry is threshold x 2^8 + alias. A uniform column j is kept where a uniform 16-bit number is
    below its threshold, and is its alias otherwise.
    """
    rows = np.arange(COUNT)
    remaining = probabilities * 256.0  # in columns: the mean of a row is 1
    threshold = np.full((COUNT, COUNT), 1 << 16)
    alias = np.tile(np.arange(COUNT), (COUNT, 1))
    finished = np.zeros((COUNT, COUNT), bool)
    for _ in range(COUNT - 1):
        # The emptiest column of each row is filled up from the fullest, and is finished then.
        least = np.where(finished, np.inf, remaining).argmin(1)
        most = np.where(finished, -np.inf, remaining).argmax(1)
        share = np.clip(remaining[rows, least], 0.0, 1.0)
        threshold[rows, least] = np.round(share * (1 << 16))
        alias[rows, least] = most
        remaining[rows, most] -= 1.0 - remaining[rows, least]
        finished[rows, least] = True
    entries = (threshold << 8) + alias
    return torch.from_numpy(entries.astype(np.int32).ravel())


def draw_levels(images: Tensor, table: Tensor, draws: Draws) -> Tensor:
    """A new level for every value of the images, from the distribution of its old level."""
    words = draws.words(*images.shape[1:]).view(-1)
    column = words & 0xFF
    place = images.reshape(-1).to(torch.int32).mul_(COUNT).add_(column)
    entry = table.to(images.device).index_select(0, place)
    uniform = words.bitwise_right_shift_(16).bitwise_and_(0xFFFF)  # bits other than the column's
    is_kept = uniform < (entry >> 8)
    alias = entry.bitwise_and_(0xFF)
    return torch.where(is_kept, column, alias).to(torch.uint8).view(images.shape)
