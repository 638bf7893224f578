"""Plots of the curves of a section as inline SVG: digits only inside, words around them in HTML,
colours through CSS variables.

Every string of a report stays outside the SVG, in the page, where it is escaped, wraps and follows
the reader's font.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pruning.reporting.axes import (
    HUNDREDTHS,
    IN_HUNDREDTHS,
    Plot,
    axis_unit,
    create_figure,
    draw_dots,
    draw_spans,
    lower_bound,
    render_svg,
    rescale_values,
    set_log_axis,
    set_sparsity_axis,
    spread_sideways,
    stretch_sparsity,
    upper_bound,
)
from pruning.reporting.labels import read_curve
from pruning.reporting.series_styles import (
    INK,
    LONE,
    Entry,
    Look,
    choose_style,
)
from pruning.reporting.tables import format_heading
from pruning.schemas.report import Curve, Section, Unit

CROWD = 16
"""The largest number of curves on one pair of axes."""
THIN = 25
"""The number of points beyond which a curve marks only some of them."""
SCATTERED = 250
"""The number of points beyond which a curve without a line draws only some of them."""


@dataclass(frozen=True)
class _XAxis:
    """The spacing of the horizontal axis of a plot, and where its curves stand on it."""

    kind: Literal["sparsity", "logarithmic", "fraction", "count", "plain"]
    unit: Unit
    shifts: tuple[float, ...]
    """The sideways shift of each curve, in the units of the axis."""

    def place(self, curve: int, x: float) -> float:
        """Return where the value `x` of the curve of this number is drawn."""
        return stretch_sparsity(x) + self.shifts[curve] if self.kind == "sparsity" else x


def plot_section(name: str, section: Section, without: tuple[str, ...] = ()) -> tuple[Plot, ...]:
    """Return the curves of a section, those of equal axes together, at most sixteen to a plot."""
    groups: dict[tuple[str, str], list[tuple[str, Curve]]] = {}
    for key, curve in section.curves.items():
        if curve.x and not key.startswith(without):
            groups.setdefault((curve.x_label, curve.y_label), []).append((key, curve))
    names = [[key for key, _ in group] for group in groups.values()]
    words = section.labels
    titles = _build_titles(section.title, names, list(groups), words)
    chunks = [
        (title, group[i : i + CROWD])
        for title, group in zip(titles, groups.values(), strict=True)
        for i in range(0, len(group), CROWD)
    ]
    return tuple(
        _plot_curves(f"{name}-{i}", title, chunk, words) for i, (title, chunk) in enumerate(chunks)
    )


def _build_titles(
    title: str,
    names: Sequence[Sequence[str]],
    labels: Sequence[tuple[str, str]],
    words: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Return the section's title and, with several pairs of axes, what their curves' names begin
    with, in `words`, else what they show.

    >>> _build_titles("Law", [["law/old/a", "law/old/b"], ["law/new/a"]], [("x", "error")] * 2)
    ['Law: old', 'Law: new']
    >>> _build_titles("Law", [["old/a"], ["c", "d"]], [("x", "y"), ("x", "test error")])
    ['Law: old', 'Law: test error']
    """
    if len(names) == 1:
        return [title]
    prefixes = [_find_common_prefix([name.split("/")[:-1] for name in group]) for group in names]
    shared = len(_find_common_prefix(prefixes))
    subtitles = [
        _name_prefix("/".join(prefix[shared:]), words) or y
        for prefix, (_, y) in zip(prefixes, labels, strict=True)
    ]
    titles = []
    for subtitle, (x, y) in zip(subtitles, labels, strict=True):
        if subtitles.count(subtitle) == 1:
            titles.append(f"{title}: {subtitle}")
        else:
            titles.append(f"{title}: {y}, {x}")
    return titles


def _name_prefix(prefix: str, words: Mapping[str, str]) -> str:
    """Return the beginning of names in words, or with spaces for underscores where there are none
    for them.
    """
    return read_curve(prefix, words) if words else format_heading(prefix)


def _find_common_prefix(paths: Sequence[list[str]]) -> list[str]:
    """Return the segments that all paths begin with."""
    levels = zip(*paths, strict=False)
    return [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels)]


def _plot_bars(
    key: str, title: str, curves: Sequence[tuple[str, Curve]], words: Mapping[str, str]
) -> Plot:
    """Return named values side by side, one bar for each curve, with their intervals."""
    first = curves[0][1]
    names = [
        read_curve(name, words) for name in _drop_common_prefix([label for label, _ in curves])
    ]
    figure, axes = create_figure()
    width = 0.8 / len(curves)
    legend = []
    for i, (_, curve) in enumerate(curves):
        look = choose_style(i)
        places = [x + width * (i - (len(curves) - 1) / 2) for x in curve.x]
        axes.bar(places, [y.value for y in curve.y], width, color=look.colour, alpha=0.8)
        draw_spans(axes, places, curve.y, INK, 1.0)
        legend.append(look.entry(names[i]))
    scale_note = _set_value_axis(axes, curves)
    assert first.x_names is not None
    axes.set_xticks(list(first.x), labels=[str(int(x) + 1) for x in first.x])
    numbered = ", ".join(
        f"{int(x) + 1}: {name}".replace(" ", "\N{NO-BREAK SPACE}")
        for x, name in zip(first.x, first.x_names, strict=True)
    )
    return Plot(
        svg=render_svg(figure, key),
        title=title,
        x_label=f"{first.x_label} ({numbered})",
        y_label=first.y_label + scale_note,
        legend=tuple(legend),
        description=f"{title}: {first.y_label} for {', '.join(names)}: {numbered}.",
    )


def _plot_curves(
    key: str, title: str, curves: Sequence[tuple[str, Curve]], words: Mapping[str, str]
) -> Plot:
    """Return curves with equal axes as one plot."""
    first = curves[0][1]
    if first.x_names is not None:
        return _plot_bars(key, title, curves, words)
    figure, axes = create_figure()
    x_axis = _choose_x_axis([curve for _, curve in curves])
    names = _drop_common_prefix([label for label, _ in curves])
    drawn = [curve.drawn for _, curve in curves]
    looks = _choose_looks(drawn)
    for i, (_, curve) in enumerate(curves):
        _draw_curve(axes, curve, looks[i], x_axis, i)
    legend, pair_note = _build_legend(names, drawn, looks, words)
    scale_note = _set_value_axis(axes, curves)
    axis_note = _set_x_axis(axes, x_axis, [curve for _, curve in curves])
    return Plot(
        svg=render_svg(figure, key),
        title=title,
        x_label=first.x_label + axis_note,
        y_label=first.y_label + scale_note + pair_note,
        legend=legend,
        description=f"{title}: {first.y_label} against {first.x_label} for "
        f"{', '.join(read_curve(name, words) for name in names)}.",
    )


def _choose_x_axis(curves: Sequence[Curve]) -> _XAxis:
    """Return the kind of axis that the unit, the scale and the values of the curves allow."""
    unit, scale = curves[0].x_unit, curves[0].x_scale
    values = [x for curve in curves for x in curve.x]
    no_shifts = (0.0,) * len(curves)
    if scale == "log" and all(x > 0 for x in values):
        return _XAxis("logarithmic", unit, no_shifts)
    if scale == "sparsity" and all(0 <= x < 1 for x in values):
        if any(curve.drawn is not None for curve in curves):
            # a law and its points must stay on each other
            return _XAxis("sparsity", unit, no_shifts)
        places = [stretch_sparsity(x) for x in values]
        return _XAxis("sparsity", unit, tuple(spread_sideways(len(curves), places)))
    if unit in IN_HUNDREDTHS:
        return _XAxis("fraction", unit, no_shifts)
    if all(float(x).is_integer() for x in values):
        return _XAxis("count", unit, no_shifts)
    return _XAxis("plain", unit, no_shifts)


def _set_x_axis(axes: Axes, x_axis: _XAxis, curves: Sequence[Curve]) -> str:
    """Mark the horizontal axis; returns what its label adds."""
    match x_axis.kind:
        case "sparsity":
            places = [stretch_sparsity(x) for curve in curves for x in curve.x]
            set_sparsity_axis(axes, min(places), max(places))
            return " (axis spaced by compression)"
        case "logarithmic":
            return set_log_axis(axes.xaxis, x_axis.unit)
        case "fraction":
            axes.xaxis.set_major_formatter(HUNDREDTHS)
            return f" ({axis_unit(x_axis.unit)})"
        case "count":
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    return ""


def _set_value_axis(axes: Axes, curves: Sequence[tuple[str, Curve]]) -> str:
    """Scale the vertical axis by its unit and the values; returns what the label adds for it."""
    first = curves[0][1]
    values = [[y.value for y in curve.y] for _, curve in curves]
    positive = all(value > 0 for series in values for value in series)
    if first.y_scale == "log" and positive:
        return set_log_axis(axes.yaxis, first.y_unit)
    return rescale_values(axes, first.y_unit, values)


def _draw_curve(axes: Axes, curve: Curve, look: Look, x_axis: _XAxis, number: int) -> None:
    """Draw the curve of this number as its `drawn` says, from left to right."""
    points = sorted(zip(curve.x, curve.y, strict=False), key=lambda point: point[0])
    xs = [x_axis.place(number, x) for x, _ in points]
    ys = [y for _, y in points]
    if curve.drawn != "points":
        axes.plot(
            xs,
            [y.value for y in ys],
            color=look.colour,
            linestyle=look.line,
            linewidth=1.6,
        )
    if curve.drawn == "band":
        axes.fill_between(
            xs,
            [lower_bound(y) for y in ys],
            [upper_bound(y) for y in ys],
            color=look.colour,
            alpha=0.16,
            linewidth=0,
        )
    elif curve.drawn != "line":
        most = SCATTERED if curve.drawn == "points" else THIN
        step = 1 + (len(points) - 1) // most
        # counted from the right, so that the sparsest point always has its marker
        draw_dots(axes, xs[::-step], ys[::-step], look, 5.0)


def _choose_looks(drawn: Sequence[str | None]) -> list[Look]:
    """Return a look for each curve: the first law has that of the first measured, and a lone line
    the colour of the axes.
    """
    lone = drawn.count("line") == 1 < drawn.count("points")
    looks = []
    for i, kind in enumerate(drawn):
        if kind == "line" and lone:
            looks.append(LONE)
        else:
            looks.append(choose_style(i if kind is None else drawn[:i].count(kind)))
    return looks


def _build_legend(
    names: Sequence[str],
    drawn: Sequence[str | None],
    looks: Sequence[Look],
    words: Mapping[str, str],
) -> tuple[tuple[Entry, ...], str]:
    """Return the legend, and what the label adds to it: curves that are measured and fitted in turn
    have one entry together.
    """
    pairs = [name.rpartition("/")[0] for name in names]
    endings: dict[str | None, set[str]] = {kind: set() for kind in drawn}
    for name, kind in zip(names, drawn, strict=True):
        endings[kind].add(name.rpartition("/")[2])
    if _are_pairs(pairs, endings):
        note = ", ".join(
            f"{'markers' if kind == 'points' else 'lines'}: {read_curve(next(iter(ending)), words)}"
            for kind, ending in endings.items()
        )
        shared = dict(zip(pairs, looks, strict=True))
        entries = tuple(look.entry(read_curve(pair, words)) for pair, look in shared.items())
        return entries, f"; {note}"
    entries = tuple(
        look.entry(read_curve(name, words), kind)
        for name, kind, look in zip(names, drawn, looks, strict=True)
    )
    return entries, ""


def _are_pairs(pairs: Sequence[str], endings: Mapping[str | None, set[str]]) -> bool:
    """Whether every name but its ending stands twice: once for points, once for what is fitted to
    them.
    """
    distinct = len(set(pairs))
    return (
        distinct > 1
        and len(pairs) == 2 * distinct
        and len(endings) == 2
        and "points" in endings
        and all(len(ending) == 1 for ending in endings.values())
    )


def _drop_common_prefix(names: list[str]) -> list[str]:
    """Return the names less what stands before a `/` in all of them: the axis says that already."""
    while len({name.partition("/")[0] for name in names}) == 1 and all(
        "/" in name[:-1] for name in names
    ):
        names = [name.partition("/")[2] for name in names]
    return names
