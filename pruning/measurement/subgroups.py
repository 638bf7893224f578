"""Paired tests of two networks by class or group of the images.

Images are the units of the tests, or clusters of images: copies and near-duplicates of an image err
together, and count once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.measurement.paired import PairedErrors, mcnemar_p_value
from pruning.schemas.report import Estimate

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
POWER = 0.8
HALVINGS = 20
"""Steps of the search for a detectable increase."""
TAIL = 1e-7
"""The probability of numbers of discordant images that the power leaves out at each end."""


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """Two networks compared on the images of one class or group."""

    errors: PairedErrors
    """The images that only one of the networks gets wrong."""
    wrong_first: int
    """The images that the first network gets wrong."""
    wrong_second: int
    """The images that the second network gets wrong."""
    tested: PairedErrors
    """The units that one of the networks gets wrong more often: clusters of images, or the images
    where each stands alone.
    """
    centre: float
    """The middle of the interval of the increase, a little nearer to 0 than the increase."""
    deviation: float
    """The standard deviation of the increase."""
    p_value: float
    """McNemar's exact two-sided p-value, against "both err equally often"."""
    p_value_above_rest: float
    """The one-sided p-value against "the error rises no more than on the images of the other
    groups"; 1 where there are no others.
    """

    def estimate_increase(self, z: float) -> Estimate:
        """The error of the first network less that of the second, with its interval; `z` is the
        quantile of a normal distribution at its level.
        """
        value = self.errors.increase
        width = z * self.deviation
        return Estimate(
            value=value,
            low=max(-1.0, min(value, self.centre - width)),
            high=min(1.0, max(value, self.centre + width)),
            n=self.errors.n,
            unit="points",
        )


def compare_subgroups(
    first_wrong: Tensor,
    second_wrong: Tensor,
    codes: Tensor,
    count: int,
    clusters: Tensor | None = None,
) -> list[Subgroup | None]:
    """Return for each of `count` groups how two networks compare on its images; None for a group
    without images.

    The errors are bool (images,); `codes` int64 (images,) are the groups, -1 for an image that is
    in none; `clusters` int64 (images,) are equal for images that err together. A unit is the part
    of a cluster that lies in one group. McNemar's test takes the units that the first network gets
    wrong more often, and those that the second does. The rise S of the error, over units of m
    images with the net number d of images that only the first gets wrong, is compared with that of
    the rest by z = (S - S_rest) / sqrt(V + V_rest), S = sum d / n, V = sum (d - S m)^2 / n^2, with
    two more units of net +m and -m, m the mean size of an image's unit: for single images this is
    the variance of Bonett and Price (2012).
    """
    flags = [wrong.cpu().numpy().astype(np.int64) for wrong in (first_wrong, second_wrong)]
    groups = codes.cpu().numpy().astype(np.int64)
    members = groups >= 0
    first, second = (flag[members] for flag in flags)
    groups = groups[members]
    only_first = _sum_by_group(groups, first * (1 - second), count)
    only_second = _sum_by_group(groups, second * (1 - first), count)
    wrong_first = _sum_by_group(groups, first, count)
    wrong_second = _sum_by_group(groups, second, count)
    sizes = _sum_by_group(groups, np.ones_like(groups), count)
    units = _collect_units(
        first - second, groups, None if clusters is None else clusters.cpu().numpy()[members]
    )
    tested = units.count_signs(count)
    centres, deviations, above_rest = _compare_with_rest(units, count)
    return [
        None
        if sizes[code] == 0
        else Subgroup(
            errors=PairedErrors(int(only_first[code]), int(only_second[code]), int(sizes[code])),
            wrong_first=int(wrong_first[code]),
            wrong_second=int(wrong_second[code]),
            tested=tested[code],
            centre=float(centres[code]),
            deviation=float(deviations[code]),
            p_value=mcnemar_p_value(tested[code]),
            p_value_above_rest=float(above_rest[code]),
        )
        for code in range(count)
    ]


@dataclass(frozen=True)
class _Units:
    """The units of the tests: the group, the net number and the number of images of each."""

    groups: Integers
    nets: Integers
    sizes: Integers

    def count_signs(self, count: int) -> list[PairedErrors]:
        """The units of each group that one of the networks gets wrong more often."""
        positive = _sum_by_group(self.groups, self.nets > 0, count)
        negative = _sum_by_group(self.groups, self.nets < 0, count)
        total = _sum_by_group(self.groups, np.ones_like(self.groups), count)
        return [
            PairedErrors(int(positive[code]), int(negative[code]), max(1, int(total[code])))
            for code in range(count)
        ]


def _collect_units(nets: Integers, groups: Integers, clusters: Integers | None) -> _Units:
    if clusters is None:
        return _Units(groups, nets, np.ones_like(nets))
    pairs = np.stack([clusters, groups])
    units, place = np.unique(pairs, axis=1, return_inverse=True)
    count = units.shape[1]
    place = place.reshape(-1)
    return _Units(
        units[1],
        _sum_by_group(place, nets, count),
        _sum_by_group(place, np.ones_like(nets), count),
    )


def _sum_by_group(groups: Integers, values: NDArray[np.generic], count: int) -> Integers:
    """The sums of whole numbers by group, int64 (count,)."""
    return np.bincount(groups, weights=values, minlength=count).round().astype(np.int64)


def _compare_with_rest(units: _Units, count: int) -> tuple[Floats, Floats, Floats]:
    """The increase of the error by group, its standard deviation, and the one-sided p-value against
    "the error rises no more than in the other groups".
    """
    from scipy.special import ndtr

    # By row: images, sum d, sum d^2, sum d m, sum m^2.
    parts = (units.sizes, units.nets, units.nets**2, units.nets * units.sizes, units.sizes**2)
    moments = np.stack([_sum_by_group(units.groups, part, count) for part in parts]).astype(float)
    rest = moments.sum(1, keepdims=True) - moments
    comparable = (moments[0] > 0) & (rest[0] > 0)
    value, variance = _estimate_mean(moments)
    rest_value, rest_variance = _estimate_mean(rest)
    z = (value - rest_value) / np.sqrt(variance + rest_variance)
    return value, np.sqrt(variance), np.where(comparable, ndtr(-z), 1.0)


def _estimate_mean(moments: Floats) -> tuple[Floats, Floats]:
    """The mean of d over images and its variance, from the sums over units and two units more."""
    images, nets, squares, products, size_squares = moments
    size = np.where(images > 0, size_squares / np.maximum(images, 1), 1.0)
    images = images + 2 * size
    value = nets / images
    # The nets +size and -size of the two units cancel in all sums but those of squares.
    squares = squares + 2 * size**2
    size_squares = size_squares + 2 * size**2
    variance = (squares - 2 * value * products + value**2 * size_squares) / images**2
    return value, variance


def group_identical(batches: Iterable[Tensor]) -> Tensor | None:
    """Return for each image the index of the first one of the same pixels, int64 (images,); None
    where all images differ.

    The images come in batches uint8 (n, C, H, W), of which one is held at a time.
    """
    digests = [
        hashlib.blake2b(image.tobytes()).digest()
        for images in batches
        for image in images.cpu().numpy()
    ]
    first_index: dict[bytes, int] = {}
    places = [first_index.setdefault(digest, index) for index, digest in enumerate(digests)]
    if len(first_index) == len(places):
        return None
    return torch.tensor(places)


@lru_cache(maxsize=4096)
def find_detectable_increase(
    n: int, rate: float, level: float, power: float = POWER
) -> float | None:
    """Return the smallest increase of the error on `n` images that McNemar's exact two-sided test
    at `level` finds with this `power`; None where not even an error on all images would do.

    `rate` is the share of images that only the second network gets wrong. With q = 2 rate + delta
    the number of discordant images is binomial (n, q), and of these the first network alone errs
    with probability (rate + delta) / q; the test needs at least k(m) of m, the smallest with
    2 P(X >= k) <= level, X binomial (m, 1/2).

    >>> find_detectable_increase(5, 0.0, 0.01) is None
    True
    >>> round(find_detectable_increase(1000, 0.02, 0.05 / 10), 3)
    0.031
    """
    if n < 1:
        return None
    low, high = 0.0, 1 - 2 * rate
    if high <= 0 or _compute_power(n, rate, high, level) < power:
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _compute_power(n, rate, middle, level) < power:
            low = middle
        else:
            high = middle
    return high


def _compute_power(n: int, rate: float, increase: float, level: float) -> float:
    """The probability that McNemar's test at this level finds an increase."""
    from scipy.stats import binom

    discordant_rate = min(1.0, 2 * rate + increase)
    if discordant_rate == 0:
        return 0.0
    first = int(binom.ppf(TAIL, n, discordant_rate))
    last = int(binom.ppf(1 - TAIL, n, discordant_rate))
    discordant = np.arange(max(0, first), last + 1)
    needed = binom.isf(level / 2, discordant, 0.5) + 1
    rejected = binom.sf(needed - 1, discordant, (rate + increase) / discordant_rate)
    return float(binom.pmf(discordant, n, discordant_rate) @ rejected)
