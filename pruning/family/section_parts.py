"""Curves and names that several sections of a family's report share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pruning.schemas.report import Curve, Estimate, Scale, Unit

STEPS = 40
"""The number of points of a drawn law."""


@dataclass(frozen=True)
class Axis:
    """An axis of a plot."""

    label: str
    unit: Unit = "number"
    scale: Scale = "linear"


def name_size(depth: float, width: float) -> str:
    """The name of the networks of one size."""
    return f"depth {depth:g}, width {width:g}"


def draw_curve(
    x: Iterable[float],
    y: Iterable[float],
    *,
    x_axis: Axis,
    y_axis: Axis,
    drawn: Literal["points", "line"],
) -> Curve:
    """A curve of plain values, without intervals."""
    return Curve(
        x=tuple(float(value) for value in x),
        y=tuple(Estimate(value=float(value)) for value in y),
        x_label=x_axis.label,
        x_unit=x_axis.unit,
        x_scale=x_axis.scale,
        y_label=y_axis.label,
        y_unit=y_axis.unit,
        y_scale=y_axis.scale,
        drawn=drawn,
    )
