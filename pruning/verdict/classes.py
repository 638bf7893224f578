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
            f"the error in the class {row['class']} rises by "
            f"{wording.points_with_interval(Estimate.model_validate(row['increase']))}, more than "
            "in the others",
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
    detectable = describe_detectable(best, section)
    text = "no class is found to lose more than the others"
    return f"{text}; {detectable}" if detectable else text


def describe_detectable(best: Checkpoint, section: Section | None) -> str:
    """Return how large a loss the test of the section finds in the class where it finds only the
    largest; empty where rows do not say it.
    """
    rows = [row for row in _list_rows(best, section) if "detectable_increase" in row]
    if not rows:
        return ""
    unknown = [row for row in rows if row["detectable_increase"] is None]
    if unknown:
        row = min(unknown, key=lambda row: row["n"])
        images = wording.count_of(row["n"], "test image")
        return (
            f"in the class {row['class']}, with {images}, the test of class_damage could find no "
            "loss"
        )
    row = max(rows, key=lambda row: row["detectable_increase"])
    loss = wording.percentage_points(row["detectable_increase"], 1)
    images = wording.count_of(row["n"], "test image")
    return (
        f"in the class {row['class']}, with {images}, the test of class_damage finds a loss of "
        f"{loss} in four of five jobs, a smaller one less often"
    )


def _list_rows(best: Checkpoint, section: Section | None) -> list[dict[str, Any]]:
    rows = [] if section is None else section.details.get("classes", [])
    return [row for row in rows if row["checkpoint"] == best.id]
