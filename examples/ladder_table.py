"""The results of the difficulty ladder, as one table along the ladder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pruning import wording
from pruning.analysis.bound_findings import FACTORS
from pruning.schemas.report import Section

CERTIFIED = ("minimum", "deterministic")
"""The tightest certified form, of methods that draw and of those that do not."""
COLUMNS = (
    "method",
    "sparsity",
    "network",
    "measured accuracy",
    "promised accuracy",
    "log10 tightness",
    "the paper's form",
    "vacuous from",
    "costs most (log10)",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method's certified bound at one sparsity of one rung."""

    rung: str
    method: str
    sparsity: float
    measured: float
    predicted: float
    tightness: float | None
    """The median of log10 of bound over measured distance of a logit; None where nothing is lost,
    and infinite where the bound is.
    """
    paper: float | None
    """The same median for the form in the method's paper."""
    vacuous_from: float | None
    """The sparsity from which the bound promises no more than chance."""
    factor: str
    """The factor that costs the bound most."""


def list_rows(rung: str, section: Section) -> list[Row]:
    """Read the rows of a rung from the section `bounds` of its report."""
    details = section.details
    predictions = details.get("predictions", [])
    vacuous_from = {
        (coverage["method"], coverage["form"]): coverage["vacuous_from_sparsity"]
        for coverage in details.get("coverage", [])
    }
    paper = {
        (prediction["method"], prediction["requested_sparsity"]): _log10(prediction)
        for prediction in predictions
        if prediction["form"] == "paper"
    }
    rows = []
    for prediction in predictions:
        method, form = prediction["method"], prediction["form"]
        sparsity = prediction["requested_sparsity"]
        if form not in CERTIFIED:
            continue
        costs = [
            (_or_infinite(component["log10_of_its_cost"]), component["factor"])
            for component in details.get("components", [])
            if (component["method"], component["form"], component["sparsity"])
            == (method, form, sparsity)
        ]
        most, factor = max(costs, default=(0.0, ""))
        rows.append(
            Row(
                rung=rung,
                method=method,
                sparsity=sparsity,
                measured=prediction["measured_accuracy"],
                predicted=prediction["predicted_accuracy"],
                tightness=_log10(prediction),
                paper=paper.get((method, sparsity)),
                vacuous_from=vacuous_from[method, form],
                factor=f"{FACTORS.get(factor, factor)} ({_format(most)})" if most > 0 else "–",
            )
        )
    return rows


def render_markdown(rows: Sequence[Row], rungs: Sequence[str]) -> str:
    """Render the tightness of every method by rung, then every row."""
    order = {rung: place for place, rung in enumerate(rungs)}
    ordered = sorted(rows, key=lambda row: (row.method, row.sparsity, order[row.rung]))
    vacuous_from = {(row.method, row.rung): _format_start(row.vacuous_from) for row in ordered}
    useful = [
        [method, *(vacuous_from.get((method, rung), "–") for rung in rungs)]
        for method in dict.fromkeys(row.method for row in ordered)
    ]
    whole = [
        [
            row.method,
            wording.short_percent(row.sparsity),
            row.rung,
            wording.percent(row.measured),
            wording.percent(row.predicted),
            _format(row.tightness),
            _format(row.paper),
            _format_start(row.vacuous_from),
            row.factor,
        ]
        for row in ordered
    ]
    parts = [
        "log10 of the certified bound of a logit over its measured distance from the dense "
        "network, the median (–: nothing that was removed matters, or the method does not reach "
        "the sparsity):",
        _render_table(["method", "sparsity", *rungs], _compare_rungs(ordered, rungs)),
        *describe_verdicts(ordered, rungs),
        "Sparsity from which the bound promises no more than chance:",
        _render_table(["method", *rungs], useful),
        _render_table(COLUMNS, whole),
    ]
    return "\n\n".join(parts) + "\n"


def _compare_rungs(ordered: Sequence[Row], rungs: Sequence[str]) -> list[list[str]]:
    """The tightness on every rung, by method and sparsity."""
    overview = []
    for (method, sparsity), group in groupby(ordered, lambda row: (row.method, row.sparsity)):
        by_rung = {row.rung: row for row in group}
        cells = [_format(by_rung[rung].tightness) if rung in by_rung else "–" for rung in rungs]
        overview.append([method, wording.short_percent(sparsity), *cells])
    return overview


def describe_verdicts(rows: Sequence[Row], rungs: Sequence[str]) -> list[str]:
    """Say whether bounds, where finite, are tighter than on the last rung, at equal method and
    sparsity.
    """
    last = {(row.method, row.sparsity): row.tightness for row in rows if row.rung == rungs[-1]}
    sentences = []
    for rung in rungs[:-1]:
        pairs = [
            (last.get((row.method, row.sparsity)), row.tightness)
            for row in rows
            if row.rung == rung
        ]
        steps = sorted(
            on_last - on_rung
            for on_last, on_rung in pairs
            if on_last is not None and on_rung is not None and math.inf not in (on_last, on_rung)
        )
        if steps:
            tighter = sum(step > 0 for step in steps)
            median = steps[len(steps) // 2]
            change = f"10^{abs(median):.1f} times {'tighter' if median > 0 else 'looser'}"
            sentences.append(
                f"On {rung} the bound is tighter than on {rungs[-1]} at {tighter} of "
                f"{len(steps)} methods and sparsities; the median is {change}."
            )
    return sentences


def _log10(prediction: dict[str, Any]) -> float | None:
    tightness = prediction["tightness"]
    if tightness is None or tightness["median"] == 0:
        return None
    return _or_infinite(tightness["log10_median"])


def _or_infinite(value: float | None) -> float:
    """The value; infinity for null, as reports have no infinity."""
    return math.inf if value is None else value


def _format_start(vacuous_from: float | None) -> str:
    return "never" if vacuous_from is None else wording.short_percent(vacuous_from)


def _format(value: float | None) -> str:
    if value is None:
        return "–"
    if value == math.inf:
        return "∞"
    return wording.signed(f"{value:.1f}")


def _render_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))
