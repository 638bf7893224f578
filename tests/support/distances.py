"""Distances of networks, computed one image after the other."""

from __future__ import annotations

from torch import Tensor


def mean_relative_error(a: Tensor, b: Tensor) -> float:
    """The mean relative error, one image after the other."""
    return sum(float((y - x).norm() / x.norm()) for x, y in zip(a, b, strict=True)) / len(a)
