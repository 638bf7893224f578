"""The sections on errors under shift and prune potentials, pooled over replicates from what each
of them reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pruning import wording
from pruning.evaluations.robustness import GROWTH
from pruning.measurement.replicated import pool_estimates, pool_values
from pruning.measurement.trend import FEWEST_POINTS
from pruning.replicates.finished import FEWEST, Finished
from pruning.schemas.estimates import Estimate
from pruning.schemas.report import Curve, Section
from pruning.verdict.shift_guidelines import VALIDATION

POTENTIAL = "prune_potential"
ROBUSTNESS = "robustness"
POTENTIALS = "potential_by_distribution"
BY_REPLICATE = "potential_by_replicate"
NOTE = (
    "Means over replicates of what each of them measured; their own reports have the tables of "
    "shifts. Intervals are 95 % for other seeds and other images: nothing is known here of single "
    "images, and they are as wide as if all replicates erred alike on other images."
)
GROWTH_NOTE = (
    "Growth is the slope of the delta excess error with the prune ratio, of each replicate, and "
    "its mean: the cascades of replicates are independent, so that it is of the method, not of one "
    "run."
)
NO_GROWTH = (
    "Whether the delta excess error grows with the prune ratio takes "
    f"{FEWEST_POINTS} ratios or more."
)
SAFE_NOTE = (
    "The safe limit is the least of the replicates': at 95 % it is at most the mean of their true "
    "potentials. Of another run it says less."
)
Row = dict[str, Any]


def build_robustness_section(finished: Sequence[Finished]) -> Section | None:
    """Build the section on errors under shift; None where fewer than two replicates have one."""
    sections = _find_sections(finished, ROBUSTNESS)
    if len(sections) < FEWEST:
        return None
    growth = {
        label: _pool_growth(rows)
        for label, rows in _match_rows(sections, GROWTH, lambda row: row["method"])
    }
    scalars = _pool_scalars(sections)
    scalars |= {f"delta_excess_error_growth/{label}": slope for label, slope in growth.items()}
    spans = {
        label: rows[0]["span"]
        for label, rows in _match_rows(sections, GROWTH, lambda row: row["method"])
    }
    return Section(
        title=sections[0].title,
        version=sections[0].version,
        scalars=scalars,
        curves=_pool_curves(sections),
        details={"excess_error": list(_pool_excess(sections))},
        units=sections[0].units,
        labels=sections[0].labels,
        notes=(
            *_describe_levels(scalars, len(sections)),
            *(_describe_growth(label, slope, spans[label]) for label, slope in growth.items()),
            NOTE,
            GROWTH_NOTE if growth else NO_GROWTH,
        ),
    )


def build_potential_section(finished: Sequence[Finished]) -> Section | None:
    """Build the section on prune potentials; None where fewer than two replicates have one."""
    sections = _find_sections(finished, POTENTIAL)
    if len(sections) < FEWEST:
        return None
    details: dict[str, Any] = {
        POTENTIALS: list(_pool_potentials(sections)),
        BY_REPLICATE: list(_list_potentials(finished)),
    }
    details |= {
        name: sections[0].details[name]
        for name in sections[0].hidden
        if name in sections[0].details
    }
    validation = list(_pool_validation(sections))
    if validation:
        details[VALIDATION] = validation
    notes = [
        f"{row['method']}, {row['distribution']}: prune potential "
        f"{wording.percent_with_interval(Estimate.model_validate(row['potential']), 1)} on average "
        f"over {wording.count_of(len(sections), 'replicate')}, and "
        f"{wording.percent_at_least(row['safe'])} are safe at 95 % in each."
        for row in details[POTENTIALS]
        if row["distribution"] == "nominal"
    ]
    return Section(
        title=sections[0].title,
        version=sections[0].version,
        scalars={name: _limit(value) for name, value in _pool_scalars(sections).items()},
        details=details,
        hidden=sections[0].hidden,
        labels=sections[0].labels,
        units={"potential": "fraction", "safe": "fraction"},
        notes=(*notes, NOTE, SAFE_NOTE),
    )


def _find_sections(finished: Sequence[Finished], name: str) -> list[Section]:
    sections = [replicate.report.sections.get(name) for replicate in finished]
    return [section for section in sections if section is not None]


def _match_rows(
    sections: Sequence[Section], table: str, key: Callable[[Row], Any]
) -> Iterator[tuple[Any, list[Row]]]:
    """Yield the rows of a table that have one key, where every replicate has one."""
    by_key: dict[Any, list[Row]] = {}
    for section in sections:
        for row in section.details.get(table, ()):
            by_key.setdefault(key(row), []).append(row)
    for name, rows in by_key.items():
        if len(rows) == len(sections):
            yield name, rows


def _pool_scalars(sections: Sequence[Section]) -> dict[str, Estimate]:
    """The means of the scalars that every replicate has; safe limits are the least of them."""
    pooled = {}
    for name in sections[0].scalars:
        values = [section.scalars[name] for section in sections if name in section.scalars]
        if len(values) < len(sections):
            continue
        if name.startswith("safe_"):
            pooled[name] = min(values, key=lambda estimate: estimate.value)
        else:
            pooled[name], _ = pool_estimates(values)
    return pooled


def _pool_curves(sections: Sequence[Section]) -> dict[str, Curve]:
    """The means of the curves that every replicate has with as many points."""
    pooled = {}
    for name, first in sections[0].curves.items():
        curves = [section.curves[name] for section in sections if name in section.curves]
        if len(curves) < len(sections) or len({len(curve.x) for curve in curves}) > 1:
            continue
        x = [sum(values) / len(values) for values in zip(*(c.x for c in curves), strict=True)]
        y = [pool_estimates(values)[0] for values in zip(*(c.y for c in curves), strict=True)]
        pooled[name] = first.model_copy(update={"x": tuple(x), "y": tuple(y)})
    return pooled


def _pool_excess(sections: Sequence[Section]) -> Iterator[Row]:
    """Yield the rows of the table of excess errors, each with the variance of the last value."""
    for checkpoint, rows in _match_rows(sections, "excess_error", lambda row: row["checkpoint"]):
        ratios = [row["prune_ratio"] for row in rows]
        pooled: Row = {"checkpoint": checkpoint, "prune_ratio": sum(ratios) / len(ratios)}
        variance = None
        for name in ("nominal_error", "shifted_error", "excess_error", "delta_excess_error"):
            estimates = [Estimate.model_validate(row[name]) for row in rows]
            estimate, variance = pool_estimates(estimates)
            pooled[name] = estimate.model_dump()
        assert variance is not None
        yield pooled | {"variance": variance.model_dump()}


def _pool_growth(rows: Sequence[Row]) -> Estimate:
    """The mean slope over replicates, with what images and what replicates move it by."""
    slope, _ = pool_values(
        [row["slope"] for row in rows],
        [row["deviation_by_images"] for row in rows],
        images=0,
        unit="points",
    )
    return slope


def _describe_levels(scalars: Mapping[str, Estimate], replicates: int) -> Iterator[str]:
    """Yield the level of the delta excess error of each criterion, in words."""
    for name, level in scalars.items():
        kind, _, label = name.partition("/")
        if kind == "delta_excess_error":
            yield (
                f"{label}: delta excess error {wording.points_with_interval(level, 2)} on average "
                f"over the checkpoints and {wording.count_of(replicates, 'replicate')}."
            )


def _describe_growth(label: str, slope: Estimate, span: float) -> str:
    """Whether the delta excess error grows, in words: claimed where the interval excludes 0."""
    assert slope.low is not None
    assert slope.high is not None
    if slope.low <= 0 <= slope.high:
        return (
            f"{label}: no evidence that the delta excess error grows or falls with the prune ratio."
        )
    change = Estimate(value=slope.value * span, low=slope.low * span, high=slope.high * span)
    verb = "grows, as in the paper" if slope.low > 0 else "falls, unlike in the paper"
    return (
        f"{label}: the delta excess error {verb}: {wording.points_with_interval(change, 2)} from "
        "the smallest to the largest prune ratio, on average over the replicates."
    )


def _pool_potentials(sections: Sequence[Section]) -> Iterator[Row]:
    """Yield the rows of the table of potentials by distribution."""

    def identify(row: Row) -> tuple[str, str, str]:
        return row["method"], row["distribution"], row["group"]

    for (method, distribution, group), rows in _match_rows(sections, POTENTIALS, identify):
        potential, _ = pool_estimates([Estimate.model_validate(row["potential"]) for row in rows])
        yield {
            "method": method,
            "distribution": distribution,
            "group": group,
            "potential": _limit(potential).model_dump(),
            "safe": min(row["safe"] for row in rows),
        }


def _pool_validation(sections: Sequence[Section]) -> Iterator[Row]:
    """Yield the rows that the recommendation under shift reads."""

    def identify(row: Row) -> tuple[str, str]:
        return row["method"], row["distribution"]

    for _, rows in _match_rows(sections, VALIDATION, identify):
        yield rows[0] | {
            "potential": sum(row["potential"] for row in rows) / len(rows),
            "safe": min(row["safe"] for row in rows),
        }


def _list_potentials(finished: Sequence[Finished]) -> Iterator[Row]:
    """Yield the potential of every replicate by distribution."""
    for replicate in finished:
        section = replicate.report.sections.get(POTENTIAL)
        for row in [] if section is None else section.details.get(POTENTIALS, ()):
            yield {"seed": replicate.seed, "job": replicate.run.job} | row


def _limit(potential: Estimate) -> Estimate:
    """A prune potential whose interval lies within 0 and 1."""
    low = None if potential.low is None else max(0.0, potential.low)
    high = None if potential.high is None else min(1.0, potential.high)
    return potential.model_copy(update={"low": low, "high": high})
