"""Plots as inline SVG: digits only inside, words around them in HTML, colours through CSS
variables.

Every string of a report stays outside the SVG, in the page, where it is escaped, wraps and follows
the reader's font.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from pruning import wording
from pruning.reporting.axes import (
    HUNDREDTHS,
    create_figure,
    draw_dots,
    draw_spans,
    render_svg,
    rescale_values,
    set_log_axis,
    set_sparsity_axis,
    spread_sideways,
    stretch_sparsity,
)
from pruning.reporting.series_styles import (
    CONTROL,
    GIVEN,
    INK,
    LONE,
    VARIABLES,
    Entry,
    Look,
    choose_style,
)
from pruning.reporting.summary import find_label as label_of
from pruning.reporting.summary import list_labels
from pruning.reporting.tables import format_heading
from pruning.schemas.report import Curve, Estimate, Evaluated, Report, Section

CROWD = 16
"""At most so many curves on one pair of axes."""
THIN = 25
"""Beyond so many points a curve marks only some."""
SCATTERED = 250
"""Beyond so many points of their own, without a line, only some are drawn."""


@dataclass(frozen=True, kw_only=True)
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


def plot_accuracy(report: Report) -> tuple[Plot, ...]:
    """Return accuracy against sparsity as it would be shipped and, where the job retrains, right
    after pruning.
    """
    series = {label: _points(report, label) for label in list_labels(report)}
    series = {label: points for label, points in series.items() if points}
    if not series:
        return ()
    if all(point.pruned is None for points in series.values() for point in points):
        return (_accuracy_plot(report, series, "Accuracy against sparsity", "a"),)
    before = {
        label: [_Point(p.sparsity, p.pruned or p.final, None, p.target) for p in points]
        for label, points in series.items()
    }
    return (
        _accuracy_plot(report, series, "Accuracy after retraining", "a"),
        _accuracy_plot(report, before, "Accuracy right after pruning, before retraining", "b"),
    )


def plot_section(name: str, section: Section, without: tuple[str, ...] = ()) -> tuple[Plot, ...]:
    """Return the curves of a section, those of equal axes together, at most sixteen to a plot."""
    groups: dict[tuple[str, str], list[tuple[str, Curve]]] = {}
    for key, curve in section.curves.items():
        if curve.x and not key.startswith(without):
            groups.setdefault((curve.x_label, curve.y_label), []).append((key, curve))
    titles = _titles(
        section.title, [[key for key, _ in group] for group in groups.values()], list(groups)
    )
    chunks = [
        (title, group[i : i + CROWD])
        for title, group in zip(titles, groups.values(), strict=True)
        for i in range(0, len(group), CROWD)
    ]
    return tuple(
        _curves_plot(f"{name}-{i}", title, chunk) for i, (title, chunk) in enumerate(chunks)
    )


def _titles(
    title: str, names: Sequence[Sequence[str]], labels: Sequence[tuple[str, str]]
) -> list[str]:
    """The section's title and, with several pairs of axes, what their curves' names begin with,
    else what they show.

    >>> _titles("Law", [["law/old/a", "law/old/b"], ["law/new/a"]], [("x", "error")] * 2)
    ['Law: old', 'Law: new']
    >>> _titles("Law", [["old/a"], ["c", "d"]], [("x", "y"), ("x", "test error")])
    ['Law: old', 'Law: test error']
    """
    if len(names) == 1:
        return [title]
    shared = [_shared([name.split("/")[:-1] for name in group]) for group in names]
    known = len(_shared(shared))
    told = [
        format_heading("/".join(one[known:])) or y.removesuffix(wording.LOG_AXIS).strip()
        for one, (_, y) in zip(shared, labels, strict=True)
    ]
    return [
        f"{title}: {one}"
        if told.count(one) == 1
        else f"{title}: {y}, {x}".replace(f" {wording.LOG_AXIS}", "")
        for one, (x, y) in zip(told, labels, strict=True)
    ]


def _shared(paths: Sequence[list[str]]) -> list[str]:
    """What all begin with."""
    return [
        same[0]
        for same in itertools.takewhile(lambda same: len(set(same)) == 1, zip(*paths, strict=False))
    ]


def _points(report: Report, label: str) -> list[_Point]:
    """What is known of one criterion, by sparsity: its checkpoints, and the rounds between them."""
    found = [
        _point(c.sparsity, c, c.pruned, c.retrained, True)
        for c in report.checkpoints
        if label_of(report, c.criterion) == label
    ]
    known = {round(point.sparsity, 9) for point in found}
    found += [
        _point(r.sparsity, r.retrained or r.pruned, r.pruned, r.retrained, False)
        for r in report.rounds
        if label_of(report, r.criterion) == label and round(r.sparsity, 9) not in known
    ]
    return sorted(found, key=lambda point: point.sparsity)


def _point(
    sparsity: float, final: Evaluated, pruned: Evaluated, retrained: Evaluated | None, target: bool
) -> _Point:
    return _Point(sparsity, final.error, pruned.error if retrained else None, target)


def _accuracy_plot(report: Report, series: dict[str, list[_Point]], title: str, key: str) -> Plot:
    figure, axes = create_figure()
    xs = [stretch_sparsity(p.sparsity) for points in series.values() for p in points]
    shifts = spread_sideways(len(series), xs)
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
        chosen = choose_style(i)
        axes.plot(
            [stretch_sparsity(p.sparsity) + shifts[i] for p in points],
            [_accuracy(p.final).value for p in points],
            color=chosen.colour,
            linestyle=chosen.line,
            linewidth=1.8,
        )
        for target, markersize in ((True, 6.5), (False, 3.0)):
            some = [p for p in points if p.target is target]
            xs_some = [stretch_sparsity(p.sparsity) + shifts[i] for p in some]
            draw_dots(axes, xs_some, [_accuracy(p.final) for p in some], chosen, markersize)
        legend.append(chosen.entry(label))
    set_sparsity_axis(axes, min(xs), max(xs))
    axes.yaxis.set_major_formatter(HUNDREDTHS)
    described = "; ".join(
        f"{label}: "
        + ", ".join(
            f"{wording.percent(1 - p.final.value)} at {wording.short_percent(p.sparsity)}"
            for p in points
            if p.target
        )
        for label, points in series.items()
    )
    return Plot(
        svg=render_svg(figure, f"accuracy-{key}"),
        title=title,
        x_label="sparsity (axis spaced by compression)",
        y_label="mean IoU of a test image (%)"
        if report.data.task == "segmentation"
        else "test accuracy (%)",
        legend=tuple(legend),
        description=f"{title}. Given {wording.percent(1 - report.baseline.error.value)}, dense control "
        f"{wording.percent(1 - report.control.error.value)}. {described}.",
    )


def _bars_plot(key: str, title: str, curves: Sequence[tuple[str, Curve]]) -> Plot:
    """Named values side by side, one bar for each curve, with their intervals."""
    first, names = curves[0][1], _without_common_prefix([label for label, _ in curves])
    figure, axes = create_figure()
    width, legend = 0.8 / len(curves), []
    for i, (_, curve) in enumerate(curves):
        chosen = choose_style(i)
        places = [x + width * (i - (len(curves) - 1) / 2) for x in curve.x]
        axes.bar(places, [y.value for y in curve.y], width, color=chosen.colour, alpha=0.8)
        draw_spans(axes, places, curve.y, INK, 1.0)
        legend.append(chosen.entry(names[i]))
    values = [[y.value for y in c.y] for _, c in curves]
    added = ""
    if first.y_label.endswith(wording.LOG_AXIS) and all(
        value > 0 for one in values for value in one
    ):
        set_log_axis(axes.yaxis, first.y_label)
    else:
        added = rescale_values(axes, first.y_label, values)
    assert first.x_names is not None
    axes.set_xticks(list(first.x), labels=[str(int(x) + 1) for x in first.x])
    numbered = ", ".join(
        f"{int(x) + 1}: {name}".replace(" ", "\N{NO-BREAK SPACE}")
        for x, name in zip(first.x, first.x_names, strict=True)
    )
    described = f"{title}: {first.y_label} for {', '.join(names)}: {numbered}."
    return Plot(
        svg=render_svg(figure, key),
        title=title,
        x_label=f"{first.x_label} ({numbered})",
        y_label=first.y_label + added,
        legend=tuple(legend),
        description=described,
    )


def _curves_plot(key: str, title: str, curves: Sequence[tuple[str, Curve]]) -> Plot:
    if curves[0][1].x_names is not None:
        return _bars_plot(key, title, curves)
    figure, axes = create_figure()
    first = curves[0][1]
    logarithmic = first.x_label.endswith(wording.LOG_AXIS) and all(
        x > 0 for _, c in curves for x in c.x
    )
    sparse = (
        not logarithmic
        and first.x_label.lower().startswith("sparsity")
        and all(0 <= x < 1 for _, c in curves for x in c.x)
    )
    stretched = [stretch_sparsity(x) if sparse else x for _, c in curves for x in c.x]
    side_by_side = sparse and all(c.drawn is None for _, c in curves)
    shifts = spread_sideways(len(curves), stretched) if side_by_side else [0.0] * len(curves)
    names = _without_common_prefix([label for label, _ in curves])
    looks = _looks([curve.drawn for _, curve in curves])
    for i, (_, curve) in enumerate(curves):
        points = sorted(zip(curve.x, curve.y, strict=False), key=lambda point: point[0])
        xs = [stretch_sparsity(x) + shifts[i] if sparse else x for x, _ in points]
        chosen, step = (
            looks[i],
            1 + (len(points) - 1) // (SCATTERED if curve.drawn == "points" else THIN),
        )
        if curve.drawn != "points":
            axes.plot(
                xs,
                [y.value for _, y in points],
                color=chosen.colour,
                linestyle=chosen.line,
                linewidth=1.6,
            )
        if curve.drawn == "band":
            axes.fill_between(
                xs,
                [_low(y) for _, y in points],
                [_high(y) for _, y in points],
                color=chosen.colour,
                alpha=0.16,
                linewidth=0,
            )
        elif curve.drawn != "line":
            draw_dots(axes, xs[::-step], [y for _, y in points][::-step], chosen, 5.0)
    legend, key_of_pairs = _legend(names, [curve.drawn for _, curve in curves], looks)
    values = [[y.value for y in c.y] for _, c in curves]
    added = ""
    if first.y_label.endswith(wording.LOG_AXIS) and all(
        value > 0 for one in values for value in one
    ):
        set_log_axis(axes.yaxis, first.y_label)
    else:
        added = rescale_values(axes, first.y_label, values)
    note = " (axis spaced by compression)" if sparse else ""
    if sparse:
        set_sparsity_axis(axes, min(stretched), max(stretched))
    elif logarithmic:
        set_log_axis(axes.xaxis, first.x_label)
    elif wording.unit_of(first.x_label) and all(abs(x) <= 1 for x in stretched):
        axes.xaxis.set_major_formatter(HUNDREDTHS)
        note = f" ({wording.unit_of(first.x_label)})"
    elif all(float(x).is_integer() for x in stretched):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    described = f"{title}: {first.y_label} against {first.x_label} for {', '.join(names)}."
    return Plot(
        svg=render_svg(figure, key),
        title=title,
        x_label=first.x_label + note,
        y_label=first.y_label + added + key_of_pairs,
        legend=legend,
        description=described,
    )


def _looks(drawn: Sequence[str | None]) -> list[Look]:
    """A look for each curve: the first law has that of the first measured, and a lone line the
    colour of the axes.
    """
    lone = drawn.count("line") == 1 < drawn.count("points")
    return [
        LONE
        if kind == "line" and lone
        else choose_style(i if kind is None else drawn[:i].count(kind))
        for i, kind in enumerate(drawn)
    ]


def _legend(
    names: Sequence[str], drawn: Sequence[str | None], looks: Sequence[Look]
) -> tuple[tuple[Entry, ...], str]:
    """The legend, and what the label adds to it: curves that are measured and fitted in turn have
    one entry together.
    """
    pairs = {name.rpartition("/")[0] for name in names}
    kinds = {
        kind: {
            name.rpartition("/")[2] for name, one in zip(names, drawn, strict=True) if one == kind
        }
        for kind in dict.fromkeys(drawn)
    }
    if (
        len(pairs) > 1
        and len(names) == 2 * len(pairs)
        and len(kinds) == 2
        and "points" in kinds
        and all(len(found) == 1 for found in kinds.values())
    ):
        told = ", ".join(
            f"{'markers' if kind == 'points' else 'lines'}: {next(iter(found))}"
            for kind, found in kinds.items()
        )
        whole = dict(zip((name.rpartition("/")[0] for name in names), looks, strict=True))
        return tuple(one.entry(name) for name, one in whole.items()), f"; {told}"
    return tuple(
        one.entry(name, kind) for name, kind, one in zip(names, drawn, looks, strict=True)
    ), ""


def _without_common_prefix(names: list[str]) -> list[str]:
    """The names less what stands before a `/` in all of them: the axis says that already."""
    while len({name.partition("/")[0] for name in names}) == 1 and all(
        "/" in name[:-1] for name in names
    ):
        names = [name.partition("/")[2] for name in names]
    return names


def _accuracy(error: Estimate) -> Estimate:
    low, high = error.low, error.high
    return Estimate(
        value=1 - error.value,
        low=None if high is None else 1 - high,
        high=None if low is None else 1 - low,
    )


def _low(estimate: Estimate) -> float:
    return estimate.value if estimate.low is None else estimate.low


def _high(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high
