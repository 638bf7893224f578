"""Axes of a plot: how values are spaced, marked and named, and how the figure becomes an SVG
element.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from pruning import wording
from pruning.reporting.series_styles import GRID, INK, VARIABLES, Entry, Look
from pruning.schemas.report import Estimate, Unit

SPARSITY_TICKS = (
    0.0,
    0.5,
    0.8,
    0.9,
    0.95,
    0.98,
    0.99,
    0.995,
    0.999,
    0.9995,
    0.9999,
    0.7,
    0.6,
    0.2,
    0.4,
    0.998,
    0.9998,
)
"""The sparsities that may be marked, in order of preference."""
WIDE = 300
"""The ratio of the largest value to a common one, or to the top of most curves, above which a
linear axis would flatten these.
"""
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "secateur",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.unicode_minus": True,
    "text.usetex": False,
    "text.parse_math": False,
    "path.simplify": False,
}
HUNDREDTHS = FuncFormatter(lambda value, _: wording.signed(f"{100 * value:.4g}"))
"""The formatter of fractions in percent or percentage points."""
AXIS_UNITS: Mapping[Unit, str] = {
    "fraction": "%",
    "fraction_at_least": "%",
    "fraction_at_most": "%",
    "share": "%",
    "points": "pp",
    "nats": "nats",
    "nats_difference": "nats",
    "milliseconds": "ms",
    "seconds": "s",
    "bytes": "bytes",
}
"""The units of axes; ticks of fractions, shares and points are in hundredths."""
IN_HUNDREDTHS = frozenset({"fraction", "fraction_at_least", "fraction_at_most", "share", "points"})
"""The units whose values are shown in hundredths."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing and the words that belong to it."""

    svg: str
    title: str
    x_label: str
    y_label: str
    legend: tuple[Entry, ...]
    description: str


def create_figure() -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, in the colours that the page sets."""
    figure = Figure(figsize=(7.6, 3.7), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(which="both", colors=INK, length=3)
    axes.tick_params(which="both", color=GRID)
    return figure, axes


def draw_dots(
    axes: Axes, xs: Sequence[float], ys: Sequence[Estimate], look: Look, markersize: float
) -> None:
    """Draw markers, each with its interval as a thin bar."""
    draw_spans(axes, xs, ys, look.colour, 1.1)
    axes.plot(
        xs,
        [y.value for y in ys],
        color=look.colour,
        linestyle="none",
        marker=look.marker,
        markersize=markersize,
        fillstyle="none" if look.hollow else "full",
    )


def draw_spans(
    axes: Axes, xs: Sequence[float], ys: Sequence[Estimate], colour: str, width: float
) -> None:
    """Draw each interval as a thin bar."""
    spans = [
        (x, y.low, y.high)
        for x, y in zip(xs, ys, strict=True)
        if y.low is not None and y.high is not None
    ]
    if spans:
        places, lows, highs = zip(*spans, strict=True)
        axes.vlines(places, lows, highs, color=colour, linewidth=width, alpha=0.75)


def spread_sideways(series: int, xs: Sequence[float]) -> list[float]:
    """Return the shift of each series by which the intervals of many at one sparsity stand side by
    side.
    """
    if series <= 3:
        return [0.0] * series
    step = 0.03 * max(max(xs) - min(xs), 0.5) / (series - 1)
    return [step * (i - (series - 1) / 2) for i in range(series)]


def stretch_sparsity(sparsity: float) -> float:
    """Return the doublings of compression, -log2(1 - sparsity): as far from 90 to 95 % as from 95
    to 97.5 %.
    """
    return -math.log2(max(1 - sparsity, 1e-6))


def set_sparsity_axis(axes: Axes, low: float, high: float) -> None:
    """Set ticks named by sparsity, no nearer to each other than a twelfth of the axis."""
    pad = max(0.06 * (high - low), 0.12)
    low = max(low - pad, -0.08)
    high = high + pad
    ticks: list[float] = []
    for tick in SPARSITY_TICKS:
        place = stretch_sparsity(tick)
        is_apart = all(abs(stretch_sparsity(other) - place) > (high - low) / 12 for other in ticks)
        if low <= place <= high and is_apart:
            ticks.append(tick)
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(
        [stretch_sparsity(tick) for tick in ticks],
        labels=[wording.short_percent(tick) for tick in ticks],
    )


def rescale_values(axes: Axes, unit: Unit, series: Sequence[Sequence[float]]) -> str:
    """Show fractions in hundredths, and values over orders of magnitude on a log axis; returns what
    the label adds for it.
    """
    values = [value for curve in series for value in curve]
    symbol = axis_unit(unit)
    name = f" ({symbol})" if symbol else ""
    if unit in IN_HUNDREDTHS:
        axes.yaxis.set_major_formatter(HUNDREDTHS)
        return name
    sizes = sorted(abs(value) for value in values if value)
    if not sizes:
        return name
    tops = sorted(max(map(abs, curve)) for curve in series if any(curve))
    # the median value or, where smaller, the median of the curves' tops: most of what is drawn
    common = min(sizes[len(sizes) // 2], tops[(len(tops) - 1) // 2])
    if sizes[-1] <= WIDE * common:
        return name
    note = "log axis"
    if min(values) > 0:
        axes.set_yscale("log")
    else:
        linear = 10.0 ** math.floor(math.log10(common / 10))
        axes.set_yscale("symlog", linthresh=linear)
        note = f"symlog axis, linear within ±{wording.number(linear)}"
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return f"{name}, {note}"


def set_log_axis(axis: Axis, unit: Unit) -> str:
    """Make an axis logarithmic, fractions in percent; with few powers of ten in view, 2 and 5 times
    these are written too. Returns what the label adds for it.
    """
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    low, high = sorted(axis.get_view_interval())
    narrow = low > 0 and high / low < WIDE
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    axis.set_major_formatter(
        FuncFormatter(
            lambda value, _: (
                wording.short_percent(value) if unit in IN_HUNDREDTHS else wording.number(value)
            )
        )
    )
    axis.set_minor_formatter(NullFormatter())
    return " (log axis)"


def render_svg(figure: Figure, key: str) -> str:
    """Return the figure as an SVG element fit for an HTML page: no prolog, no links, ids of its
    own, colours as variables.
    """
    buffer = io.StringIO()
    # `savefig` would draw twice: before the canvas draws, it draws for a layout that the figure
    # finds by itself
    with matplotlib.rc_context(SETTINGS):
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL
    )
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    text = re.sub(
        r"<svg[^>]*>",
        f'<svg viewBox="{box[1]}" aria-hidden="true" focusable="false">',
        text,
        count=1,
    )
    # several plots stand in one page: every id begins with the key of its plot
    prefix = re.sub(r"[^a-z0-9]+", "-", key.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', text).replace(
        "url(#", f"url(#{prefix}-"
    )
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return re.sub(r"\n\s*\n+", "\n", text).strip()


def lower_bound(estimate: Estimate) -> float:
    """Return the lower end of the interval, or the value where there is none."""
    return estimate.value if estimate.low is None else estimate.low


def upper_bound(estimate: Estimate) -> float:
    """Return the upper end of the interval, or the value where there is none."""
    return estimate.value if estimate.high is None else estimate.high


def axis_unit(unit: Unit) -> str:
    """Return what is written beside an axis whose values are in this unit; empty for a plain number
    and where every value is written with its unit.

    >>> (
    ...     axis_unit("fraction"),
    ...     axis_unit("points"),
    ...     axis_unit("nats_difference"),
    ...     axis_unit("number"),
    ... )
    ('%', 'pp', 'nats', '')
    """
    return AXIS_UNITS.get(unit, "")
