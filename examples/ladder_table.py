"""What the reports of the difficulty ladder say, as one table along the ladder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pruning import wording as q
from pruning.analysis.bound_findings import FACTORS
from pruning.schemas.report import Section

CERTIFIED = ("minimum", "deterministic")
"""The tightest certified form, of methods that draw and of those that do not."""


@dataclass(frozen=True)
class Row:
    """A method's certified bound at one sparsity of one rung."""

    rung: str
    method: str
    sparsity: float
    measured: float
    predicted: float
    tightness: float | None
    """log10 of bound over measured distance of a logit, the median; None where nothing is lost,
    else perhaps infinite.
    """
    paper: float | None
    """The same of the form in the method's paper."""
    vacuous_from: float | None
    factor: str
    """What costs the bound most."""


def rows(rung: str, section: Section) -> list[Row]:
    """Of the section `bounds` of a report."""
    details = section.details
    predictions = details.get("predictions", [])
    starts = {
        (one["method"], one["form"]): one["vacuous_from_sparsity"]
        for one in details.get("coverage", [])
    }
    paper = {
        (one["method"], one["requested_sparsity"]): _log10(one)
        for one in predictions
        if one["form"] == "paper"
    }
    found = []
    for one in predictions:
        if one["form"] not in CERTIFIED:
            continue
        method, asked = one["method"], one["requested_sparsity"]
        costs = [
            (_or_infinite(cost["log10_of_its_cost"]), cost["factor"])
            for cost in details.get("components", [])
            if (cost["method"], cost["form"], cost["sparsity"]) == (method, one["form"], asked)
        ]
        most, factor = max(costs, default=(0.0, ""))
        found.append(
            Row(
                rung,
                method,
                asked,
                one["measured_accuracy"],
                one["predicted_accuracy"],
                _log10(one),
                paper.get((method, asked)),
                starts[method, one["form"]],
                f"{FACTORS.get(factor, factor)} ({_number(most)})" if most > 0 else "–",
            )
        )
    return found


def markdown(found: Sequence[Row], rungs: Sequence[str]) -> str:
    """The tightness of every method by rung, then every row."""
    order = {rung: place for place, rung in enumerate(rungs)}
    ordered = sorted(found, key=lambda row: (row.method, row.sparsity, order[row.rung]))
    overview = [
        [
            method,
            q.short_percent(sparsity),
            *(_number(mine[rung].tightness) if rung in mine else "–" for rung in rungs),
        ]
        for (method, sparsity), group in groupby(ordered, lambda row: (row.method, row.sparsity))
        for mine in [{row.rung: row for row in group}]
    ]
    starts = {(row.method, row.rung): _share(row.vacuous_from) for row in ordered}
    useful = [
        [method, *(starts.get((method, rung), "–") for rung in rungs)]
        for method in dict.fromkeys(row.method for row in ordered)
    ]
    whole = [
        [
            row.method,
            q.short_percent(row.sparsity),
            row.rung,
            q.percent(row.measured),
            q.percent(row.predicted),
            _number(row.tightness),
            _number(row.paper),
            _share(row.vacuous_from),
            row.factor,
        ]
        for row in ordered
    ]
    return (
        "\n\n".join(
            [
                "log10 of the certified bound of a logit over its measured distance from the "
                "dense network, the median (–: nothing "
                "that was removed matters, or the method does not reach the sparsity):",
                _table(["method", "sparsity", *rungs], overview),
                *verdicts(ordered, rungs),
                "Sparsity from which the bound promises no more than chance:",
                _table(["method", *rungs], useful),
                _table(
                    [
                        "method",
                        "sparsity",
                        "network",
                        "measured accuracy",
                        "promised accuracy",
                        "log10 tightness",
                        "the paper's form",
                        "vacuous from",
                        "costs most (log10)",
                    ],
                    whole,
                ),
            ]
        )
        + "\n"
    )


def verdicts(found: Sequence[Row], rungs: Sequence[str]) -> list[str]:
    """Whether bounds, where finite, are tighter than on the last rung, at equal method and
    sparsity.
    """
    last = {(row.method, row.sparsity): row.tightness for row in found if row.rung == rungs[-1]}
    sentences = []
    for rung in rungs[:-1]:
        pairs = [
            (last.get((row.method, row.sparsity)), row.tightness)
            for row in found
            if row.rung == rung
        ]
        steps = sorted(
            other - mine
            for other, mine in pairs
            if other is not None and mine is not None and math.inf not in (other, mine)
        )
        if steps:
            tighter, median = sum(step > 0 for step in steps), steps[len(steps) // 2]
            change = f"10^{abs(median):.1f} times {'tighter' if median > 0 else 'looser'}"
            sentences.append(
                f"On {rung} the bound is tighter than on {rungs[-1]} at {tighter} of "
                f"{len(steps)} methods and "
                f"sparsities; the median is {change}."
            )
    return sentences


def _log10(prediction: dict[str, Any]) -> float | None:
    tightness = prediction["tightness"]
    if tightness is None or tightness["median"] == 0:
        return None
    return _or_infinite(tightness["log10_median"])


def _or_infinite(value: float | None) -> float:
    """Reports have no infinity: it is null there."""
    return math.inf if value is None else value


def _share(vacuous_from: float | None) -> str:
    return "never" if vacuous_from is None else q.short_percent(vacuous_from)


def _number(value: float | None) -> str:
    return "–" if value is None else "∞" if value == math.inf else q.signed(f"{value:.1f}")


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))
