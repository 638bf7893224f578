"""Plots as inline SVG: digits only inside, words around them in HTML, colours through CSS variables.

Every string of a report stays outside the SVG, in the page, where it is escaped, wraps and follows the reader's font.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from pruning.reporting import quantities as q
from pruning.reporting.looks import CONTROL, GIVEN, GRID, INK, VARIABLES, Entry, Look, look
from pruning.reporting.summary import label as label_of
from pruning.reporting.summary import labels
from pruning.schemas.report import Curve, Estimate, Evaluated, Report, Section

CROWD = 16
"""At most so many curves on one pair of axes."""
THIN = 25
"""Beyond so many points a curve marks only some."""
SPARSITY_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.7, 0.6, 0.2, 0.4, 0.998, 0.9998)
"""In order of preference."""
WIDE = 300
"""Where the largest value is so many times a common one, or the top of most curves, a linear axis would flatten these."""
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


_HUNDREDTHS = FuncFormatter(lambda value, _: q.signed(f"{100 * value:.4g}"))


@dataclass(frozen=True)
class Plot:
    """A drawing and the words that belong to it."""

    svg: str
    title: str
    x_label: str
    y_label: str
    legend: tuple[Entry, ...]
    description: str


@dataclass(frozen=True)
class _Point:
    sparsity: float
    final: Estimate
    pruned: Estimate | None
    target: bool


def accuracy_plots(report: Report) -> tuple[Plot, ...]:
    """Return accuracy against sparsity as it would be shipped and, where the job retrains, right after pruning."""
    series = {label: _points(report, label) for label in labels(report)}
    series = {label: points for label, points in series.items() if points}
    if not series:
        return ()
    if all(point.pruned is None for points in series.values() for point in points):
        return (_accuracy_plot(report, series, "Accuracy against sparsity", "a"),)
    before = {label: [_Point(p.sparsity, p.pruned or p.final, None, p.target) for p in points]
              for label, points in series.items()}
    return (_accuracy_plot(report, series, "Accuracy after retraining", "a"),
            _accuracy_plot(report, before, "Accuracy right after pruning, before retraining", "b"))


def section_plots(name: str, section: Section, without: tuple[str, ...] = ()) -> tuple[Plot, ...]:
    """Return the curves of a section, those of equal axes together, at most sixteen to a plot."""
    groups: dict[tuple[str, str], list[tuple[str, Curve]]] = {}
    for key, curve in section.curves.items():
        if curve.x and not key.startswith(without):
            groups.setdefault((curve.x_label, curve.y_label), []).append((key, curve))
    chunks = [group[i : i + CROWD] for group in groups.values() for i in range(0, len(group), CROWD)]
    return tuple(_curves_plot(f"{name}-{i}", section.title, chunk) for i, chunk in enumerate(chunks))


def _points(report: Report, label: str) -> list[_Point]:
    """What is known of one criterion, by sparsity: its checkpoints, and the rounds between them."""
    found = [_point(c.sparsity, c, c.pruned, c.retrained, True)
             for c in report.checkpoints if label_of(report, c.criterion) == label]
    known = {round(point.sparsity, 9) for point in found}
    found += [
        _point(r.sparsity, r.retrained or r.pruned, r.pruned, r.retrained, False)
        for r in report.rounds
        if label_of(report, r.criterion) == label and round(r.sparsity, 9) not in known
    ]
    return sorted(found, key=lambda point: point.sparsity)


def _point(sparsity: float, final: Evaluated, pruned: Evaluated, retrained: Evaluated | None, target: bool) -> _Point:
    return _Point(sparsity, final.error, pruned.error if retrained else None, target)


def _accuracy_plot(report: Report, series: dict[str, list[_Point]], title: str, key: str) -> Plot:
    figure, axes = _figure()
    xs = [_stretch(p.sparsity) for points in series.values() for p in points]
    aside = _aside(len(series), xs)
    legend = []
    for label, network, colour, style in (
        ("given (95 % interval)", report.baseline, GIVEN, ":"),
        ("dense control", report.control, CONTROL, "-."),
    ):
        estimate = _accuracy(network.error)
        axes.axhspan(_low(estimate), _high(estimate), facecolor=colour, alpha=0.16, linewidth=0)
        axes.axhline(estimate.value, color=colour, linestyle=style, linewidth=1.4)
        legend.append(Entry(label, VARIABLES[colour], "", "dotted" if style == ":" else "dashdot"))
    for i, (label, points) in enumerate(series.items()):
        chosen = look(i)
        axes.plot(
            [_stretch(p.sparsity) + aside[i] for p in points],
            [_accuracy(p.final).value for p in points],
            color=chosen.colour,
            linestyle=chosen.line,
            linewidth=1.8,
        )
        for target, markersize in ((True, 6.5), (False, 3.0)):
            some = [p for p in points if p.target is target]
            xs_some = [_stretch(p.sparsity) + aside[i] for p in some]
            _dots(axes, xs_some, [_accuracy(p.final) for p in some], chosen, markersize)
        legend.append(chosen.entry(label))
    _sparsity_axis(axes, min(xs), max(xs))
    axes.yaxis.set_major_formatter(_HUNDREDTHS)
    described = "; ".join(
        f"{label}: " + ", ".join(f"{q.percent(1 - p.final.value)} at {q.share(p.sparsity)}" for p in points if p.target)
        for label, points in series.items()
    )
    return Plot(
        _svg(figure, f"accuracy-{key}"),
        title,
        "sparsity (axis spaced by compression)",
        "test accuracy (%)",
        tuple(legend),
        f"{title}. Given {q.percent(1 - report.baseline.error.value)}, dense control "
        f"{q.percent(1 - report.control.error.value)}. {described}.",
    )


def _curves_plot(key: str, title: str, curves: Sequence[tuple[str, Curve]]) -> Plot:
    figure, axes = _figure()
    first = curves[0][1]
    logarithmic = first.x_label == q.LOG_SPARSITY and all(0 < x < 1 for _, c in curves for x in c.x)
    sparse = not logarithmic and first.x_label.lower().startswith("sparsity") and all(
        0 <= x < 1 for _, c in curves for x in c.x)
    stretched = [_stretch(x) if sparse else x for _, c in curves for x in c.x]
    aside = _aside(len(curves) if sparse else 1, stretched)
    legend, names = [], _without_common_prefix([label for label, _ in curves])
    for i, (_, curve) in enumerate(curves):
        points = sorted(zip(curve.x, curve.y, strict=False), key=lambda point: point[0])
        xs = [_stretch(x) + aside[i] if sparse else x for x, _ in points]
        chosen, step = look(i), 1 + (len(points) - 1) // THIN
        axes.plot(xs, [y.value for _, y in points], color=chosen.colour, linestyle=chosen.line, linewidth=1.6)
        _dots(axes, xs[::-step], [y for _, y in points][::-step], chosen, 5.0)
        legend.append(chosen.entry(names[i]))
    added = _scale_values(axes, first.y_label, [[y.value for y in c.y] for _, c in curves])
    if sparse:
        _sparsity_axis(axes, min(stretched), max(stretched))
    elif logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: q.share(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif all(float(x).is_integer() for x in stretched):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    described = f"{title}: {first.y_label} against {first.x_label} for {', '.join(names)}."
    note = " (axis spaced by compression)" if sparse else ""
    return Plot(_svg(figure, key), title, first.x_label + note, first.y_label + added, tuple(legend), described)


def _scale_values(axes: Axes, label: str, series: Sequence[Sequence[float]]) -> str:
    """Fractions in hundredths, values over orders of magnitude on a log axis; returns what the label adds for it."""
    values = [value for one in series for value in one]
    unit = q.unit(label)
    if unit and all(abs(value) <= 1 for value in values):
        axes.yaxis.set_major_formatter(_HUNDREDTHS)
        return f" ({unit})"
    sizes = sorted(abs(value) for value in values if value)
    tops = sorted(max(map(abs, one)) for one in series if any(one))
    common = min(sizes[len(sizes) // 2], tops[(len(tops) - 1) // 2]) if sizes else 0.0
    if not sizes or sizes[-1] <= WIDE * common:
        return ""
    note = "log axis"
    if min(values) > 0:
        axes.set_yscale("log")
    else:
        linear = 10.0 ** math.floor(math.log10(common / 10))
        axes.set_yscale("symlog", linthresh=linear)
        note = f"symlog axis, linear within ±{q.plain(linear)}"
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: q.plain(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return f", {note}"


def _without_common_prefix(names: list[str]) -> list[str]:
    """The names less what stands before a `/` in all of them: the axis says that already."""
    while len({name.partition("/")[0] for name in names}) == 1 and all("/" in name[:-1] for name in names):
        names = [name.partition("/")[2] for name in names]
    return names


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, 3.7), layout="constrained")
    FigureCanvasSVG(figure)
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


def _dots(axes: Axes, xs: Sequence[float], ys: Sequence[Estimate], chosen: Look, markersize: float) -> None:
    """Markers, each with its interval as a thin bar."""
    spans = [(x, y.low, y.high) for x, y in zip(xs, ys, strict=True) if y.low is not None and y.high is not None]
    if spans:
        xs_spans, lows, highs = zip(*spans, strict=True)
        axes.vlines(xs_spans, lows, highs, color=chosen.colour, linewidth=1.1, alpha=0.75)
    axes.plot(xs, [y.value for y in ys], color=chosen.colour, linestyle="none", marker=chosen.marker, markersize=markersize,
              fillstyle="none" if chosen.hollow else "full")


def _aside(series: int, xs: Sequence[float]) -> list[float]:
    """How far each series is moved so that the intervals of many at one sparsity stand side by side."""
    if series <= 3:
        return [0.0] * series
    step = 0.03 * max(max(xs) - min(xs), 0.5) / (series - 1)
    return [step * (i - (series - 1) / 2) for i in range(series)]


def _stretch(sparsity: float) -> float:
    """Doublings of compression: as far from 90 to 95 % as from 95 to 97.5 %."""
    return -math.log2(max(1 - sparsity, 1e-6))


def _sparsity_axis(axes: Axes, low: float, high: float) -> None:
    """Ticks named by sparsity, no nearer to each other than a twelfth of the axis."""
    pad = max(0.06 * (high - low), 0.12)
    low, high = max(low - pad, -0.08), high + pad
    chosen: list[float] = []
    for tick in SPARSITY_TICKS:
        at = _stretch(tick)
        if low <= at <= high and all(abs(_stretch(other) - at) > (high - low) / 12 for other in chosen):
            chosen.append(tick)
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks([_stretch(tick) for tick in chosen], labels=[q.share(tick) for tick in chosen])


def _accuracy(error: Estimate) -> Estimate:
    low, high = error.low, error.high
    return Estimate(
        value=1 - error.value, low=None if high is None else 1 - high, high=None if low is None else 1 - low
    )


def _low(estimate: Estimate) -> float:
    return estimate.value if estimate.low is None else estimate.low


def _high(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high


def _svg(figure: Figure, key: str) -> str:
    """The figure as an SVG element fit for an HTML page: no prolog, no links, own ids, colours as variables."""
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    text = re.sub(r"<svg[^>]*>", f'<svg viewBox="{box[1]}" aria-hidden="true" focusable="false">', text, count=1)
    prefix = re.sub(r"[^a-z0-9]+", "-", key.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', text).replace("url(#", f"url(#{prefix}-")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return re.sub(r"\n\s*\n+", "\n", text).strip()
