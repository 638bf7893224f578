"""Curves and names that several sections of a family's report share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pruning.schemas.report import Curve, Estimate

STEPS = 40
"""The number of points of a drawn law."""


def name_size(depth: float, width: float) -> str:
    """The name of the networks of one size."""
    return f"depth {depth:g}, width {width:g}"


def draw_curve(
    x: Iterable[float],
    y: Iterable[float],
    *,
    x_label: str,
    y_label: str,
    drawn: Literal["points", "line"],
) -> Curve:
    """A curve of plain values, without intervals."""
    return Curve(
        x=tuple(float(value) for value in x),
        y=tuple(Estimate(value=float(value)) for value in y),
        x_label=x_label,
        y_label=y_label,
        drawn=drawn,
    )
