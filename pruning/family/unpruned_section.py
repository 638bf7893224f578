"""The section on the unpruned errors of a family and the law through them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning import wording
from pruning.family.section_parts import STEPS, Axis, draw_curve
from pruning.family.turn import State
from pruning.laws.dense import DenseLaw
from pruning.schemas.report import Curve, Estimate, Section

PARAMETERS = Axis("parameters", scale="log")
ERROR = Axis("unpruned error", "fraction")


def build_unpruned_section(state: State) -> Section:
    """Build the section: unpruned errors over parameters, one plot for each amount of images."""
    dense = state.dense
    if dense is None:
        return Section(
            title="Unpruned errors",
            version=1,
            notes=(
                f"No law of the unpruned errors: {state.dense_refusal}. The unpruned errors of "
                "networks that were not run are predicted by a regression on the measured ones, "
                "where these are enough.",
            ),
        )
    rows = _list_rows(state, dense)
    curves: dict[str, Curve] = {}
    for images in sorted({row["images"] for row in rows}):
        points = sorted(
            (row["parameters"], row["error_measured"]) for row in rows if row["images"] == images
        )
        curves |= _draw_amount(dense, images, points)
    note = (
        "error = e0 x / sqrt(x^2 + eta^2), x = n^-alpha + b m^-beta + c, of m parameters and n "
        f"training images; off by a standard deviation of {wording.percent(dense.sigma)}. It tells "
        "the errors of networks that were not run."
    )
    return Section(
        title="Unpruned errors",
        version=1,
        notes=(note, *(f"{warning}." for warning in dense.warnings)),
        curves=curves,
        scalars={
            name: Estimate(value=value)
            for name, value in dense.coefficients.items()
            if name != "chance"
        },
        details={"networks": rows},
        units={"error_measured": "fraction", "error_of_the_law": "fraction"},
    )


def _list_rows(state: State, dense: DenseLaw) -> list[dict[str, Any]]:
    """A row for each member that succeeded, beside the error of the law."""
    rows = []
    for run in sorted(state.runs, key=lambda run: (run.member.network, run.member.seed)):
        if run.curve is None or run.status != "succeeded" or run.member.role != "member":
            continue
        row = {
            "depth": run.member.depth,
            "width": run.member.width,
            "seed": run.member.seed,
            "parameters": run.curve.parameters,
            "images": run.curve.images,
            "error_measured": run.curve.unpruned_error,
            "error_of_the_law": float(dense.curve(run.curve.parameters, run.curve.images)[0]),
        }
        rows.append(row)
    return rows


def _draw_amount(dense: DenseLaw, images: int, points: list[tuple[int, float]]) -> dict[str, Curve]:
    """The law and the measured errors by parameters, `points` sorted, at one amount of images."""
    parameters = [count for count, _ in points]
    smallest, largest = parameters[0], parameters[-1]
    grid = np.array([smallest])
    if smallest < largest:
        grid = np.geomspace(smallest, largest, STEPS)
    law = draw_curve(grid, dense.curve(grid, images), x_axis=PARAMETERS, y_axis=ERROR, drawn="line")
    measured = draw_curve(
        parameters,
        [error for _, error in points],
        x_axis=PARAMETERS,
        y_axis=ERROR,
        drawn="points",
    )
    return {f"{images} images/law": law, f"{images} images/measured": measured}
