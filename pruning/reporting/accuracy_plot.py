"""Accuracy against sparsity, of every criterion of a report beside its dense networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from pruning import wording
from pruning.reporting.axes import (
    HUNDREDTHS,
    Plot,
    create_figure,
    draw_dots,
    lower_bound,
    render_svg,
    set_sparsity_axis,
    spread_sideways,
    stretch_sparsity,
    upper_bound,
)
from pruning.reporting.series_styles import (
    CONTROL,
    GIVEN,
    VARIABLES,
    Entry,
    Look,
    choose_style,
)
from pruning.reporting.summary import find_label, list_controls, list_labels
from pruning.schemas.report import Estimate, Evaluated, Network, Report


@dataclass(frozen=True)
class _Point:
    """The errors of one network at its sparsity."""

    sparsity: float
    final: Estimate
    pruned: Estimate | None
    """The error right after pruning; `None` where nothing was retrained."""
    is_target: bool


def plot_accuracy(report: Report) -> tuple[Plot, ...]:
    """Return accuracy against sparsity as it would be shipped and, where the job retrains, right
    after pruning.
    """
    series = {label: _list_points(report, label) for label in list_labels(report)}
    series = {label: points for label, points in series.items() if points}
    if not series:
        return ()
    if all(point.pruned is None for points in series.values() for point in points):
        return (_plot_accuracies(report, series, "Accuracy against sparsity", "a"),)
    before = {
        label: [
            _Point(point.sparsity, point.pruned or point.final, None, point.is_target)
            for point in points
        ]
        for label, points in series.items()
    }
    return (
        _plot_accuracies(report, series, "Accuracy after retraining", "a"),
        _plot_accuracies(report, before, "Accuracy right after pruning, before retraining", "b"),
    )


def _list_points(report: Report, label: str) -> list[_Point]:
    """Return what is known of one criterion, by sparsity: its checkpoints, and the rounds between
    them.
    """
    points = [
        _make_point(
            checkpoint.sparsity,
            checkpoint,
            checkpoint.pruned,
            checkpoint.retrained,
            is_target=True,
        )
        for checkpoint in report.checkpoints
        if find_label(report, checkpoint.criterion) == label
    ]
    known = {round(point.sparsity, 9) for point in points}
    points += [
        _make_point(
            between.sparsity,
            between.retrained or between.pruned,
            between.pruned,
            between.retrained,
            is_target=False,
        )
        for between in report.rounds
        if find_label(report, between.criterion) == label
        and round(between.sparsity, 9) not in known
    ]
    return sorted(points, key=lambda point: point.sparsity)


def _make_point(
    sparsity: float,
    final: Evaluated,
    pruned: Evaluated,
    retrained: Evaluated | None,
    *,
    is_target: bool,
) -> _Point:
    return _Point(sparsity, final.error, pruned.error if retrained else None, is_target)


def _plot_accuracies(report: Report, series: dict[str, list[_Point]], title: str, key: str) -> Plot:
    figure, axes = create_figure()
    xs = [stretch_sparsity(point.sparsity) for points in series.values() for point in points]
    shifts = spread_sideways(len(series), xs)
    legend = _draw_references(axes, report)
    for i, (label, points) in enumerate(series.items()):
        look = choose_style(i)
        _draw_accuracies(axes, points, shifts[i], look)
        legend.append(look.entry(label))
    set_sparsity_axis(axes, min(xs), max(xs))
    axes.yaxis.set_major_formatter(HUNDREDTHS)
    segmentation = report.data.task == "segmentation"
    return Plot(
        svg=render_svg(figure, f"accuracy-{key}"),
        title=title,
        x_label="sparsity (axis spaced by compression)",
        y_label="mean IoU of a test image (%)" if segmentation else "test accuracy (%)",
        legend=tuple(legend),
        description=_describe_accuracies(report, series, title),
    )


def _draw_references(axes: Axes, report: Report) -> list[Entry]:
    """Draw the dense networks as lines in their intervals; returns their legend."""
    _draw_reference(axes, report.baseline, GIVEN, ":")
    if len(report.controls) > 1:
        _draw_controls(axes, report)
    else:
        _draw_reference(axes, report.control, CONTROL, "-.")
    return [
        Entry("given (95 % interval)", VARIABLES[GIVEN], "", "dotted"),
        Entry("dense control", VARIABLES[CONTROL], "", "dashdot"),
    ]


def _draw_reference(axes: Axes, network: Network, colour: str, style: str) -> None:
    """Draw one dense network as a line across the plot."""
    accuracy = _to_accuracy(network.error)
    low, high = lower_bound(accuracy), upper_bound(accuracy)
    axes.axhspan(low, high, facecolor=colour, alpha=0.16, linewidth=0)
    axes.axhline(accuracy.value, color=colour, linestyle=style, linewidth=1.4)


def _draw_controls(axes: Axes, report: Report) -> None:
    """Draw the control of each checkpoint at the checkpoint's sparsity, and a line through them."""
    controls = list_controls(report)
    pairs = sorted((checkpoint.sparsity, checkpoint.control) for checkpoint in report.checkpoints)
    xs = [stretch_sparsity(sparsity) for sparsity, _ in pairs]
    accuracies = [_to_accuracy(controls[name].error) for _, name in pairs]
    axes.fill_between(
        xs,
        [lower_bound(accuracy) for accuracy in accuracies],
        [upper_bound(accuracy) for accuracy in accuracies],
        facecolor=CONTROL,
        alpha=0.16,
        linewidth=0,
    )
    values = [accuracy.value for accuracy in accuracies]
    axes.plot(xs, values, color=CONTROL, linestyle="-.", linewidth=1.4)


def _draw_accuracies(axes: Axes, points: Sequence[_Point], shift: float, look: Look) -> None:
    """Draw one criterion: a line through all points, large markers at targets, small ones
    between.
    """
    axes.plot(
        [stretch_sparsity(point.sparsity) + shift for point in points],
        [_to_accuracy(point.final).value for point in points],
        color=look.colour,
        linestyle=look.line,
        linewidth=1.8,
    )
    for is_target, markersize in ((True, 6.5), (False, 3.0)):
        marked = [point for point in points if point.is_target is is_target]
        xs = [stretch_sparsity(point.sparsity) + shift for point in marked]
        draw_dots(axes, xs, [_to_accuracy(point.final) for point in marked], look, markersize)


def _describe_accuracies(report: Report, series: dict[str, list[_Point]], title: str) -> str:
    """Return the plot in words, for readers who do not see it."""
    described = []
    for label, points in series.items():
        values = [
            f"{wording.percent(1 - point.final.value)} at {wording.short_percent(point.sparsity)}"
            for point in points
            if point.is_target
        ]
        described.append(f"{label}: " + ", ".join(values))
    controls = [
        f"dense {name} {wording.percent(1 - control.error.value)}"
        for name, control in list_controls(report).items()
    ]
    return (
        f"{title}. Given {wording.percent(1 - report.baseline.error.value)}, "
        f"{', '.join(controls)}. {'; '.join(described)}."
    )


def _to_accuracy(error: Estimate) -> Estimate:
    """Return the accuracy of an error; the ends of its interval change places."""
    low, high = error.low, error.high
    return Estimate(
        value=1 - error.value,
        low=None if high is None else 1 - high,
        high=None if low is None else 1 - low,
    )
