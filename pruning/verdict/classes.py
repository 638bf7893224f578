"""Readings of the section `class_damage` for the recommended checkpoint."""

from __future__ import annotations

from typing import Any

from pruning import wording
from pruning.measurement.paired import PairedErrors
from pruning.schemas.estimates import Estimate
from pruning.schemas.report import Checkpoint, Section
from pruning.schemas.verdicts import CrossedVariance
from pruning.verdict.increases import Increase, PairedIncrease, ReplicatedIncrease

STANDS_OUT = "loses more than the others"
"""The finding of a class that both tests of the section name."""
MOST = 3
"""The number of classes that a statement names at most."""


def list_class_increases(best: Checkpoint, section: Section | None) -> dict[str, Increase]:
    """Return the increase of the checkpoint's error over that of its control by class."""
    return {str(row["class"]): _read_row(row) for row in _list_rows(best, section)}


def _read_row(row: dict[str, Any]) -> Increase:
    """Return the increase in a class: over replicates where the row is of several."""
    if row.get("variance") is not None:
        variance = CrossedVariance.model_validate(row["variance"])
        return ReplicatedIncrease(row["increase"]["value"], variance)
    return PairedIncrease(PairedErrors(row["only_pruned"], row["only_control"], row["n"]))


def list_findings(best: Checkpoint, section: Section | None) -> list[tuple[str, float]]:
    """Return what is found of classes that stand out, the surest first, with the adjusted p-value
    of the weaker of its two tests.
    """
    rows = [row for row in _list_rows(best, section) if row["finding"] == STANDS_OUT]
    findings = [
        (
            f"the class {row['class']} loses more than the others: "
            + wording.points_with_interval(Estimate.model_validate(row["increase"])),
            max(row["adjusted_p_value"], row["adjusted_p_value_above_others"]),
        )
        for row in rows
    ]
    return sorted(findings, key=lambda finding: finding[1])[:MOST]


def describe_resolution(best: Checkpoint, section: Section | None) -> str | None:
    """Return which damage to a class would have been found, where none stands out; None where one
    does, or nothing was compared.
    """
    rows = _list_rows(best, section)
    if not rows or any(row["finding"] == STANDS_OUT for row in rows):
        return None
    detectable = [row["detectable_increase"] for row in rows]
    known = [increase for increase in detectable if increase is not None]
    text = "no class is found to lose more than the others"
    if not known or len(known) < len(rows):
        return f"{text}, and in some class no loss could be found on so few images"
    largest = wording.percentage_points(max(known), 1)
    return f"{text}, which would be found in four of five jobs from {largest} on"


def _list_rows(best: Checkpoint, section: Section | None) -> list[dict[str, Any]]:
    rows = [] if section is None else section.details.get("classes", [])
    return [row for row in rows if row["checkpoint"] == best.id]
