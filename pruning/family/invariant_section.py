"""The section on the invariant of a family: whether depth and width enter by depth^phi width^psi
density alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning import wording
from pruning.family.halves import Half, fit_density_alone, predict_other_half
from pruning.family.lack_of_fit import FEWEST_TRIALS, LackOfFit, measure_lack_of_fit
from pruning.family.measurements import FamilyMeasurements
from pruning.family.section_parts import STEPS, Axis, draw_curve, name_size
from pruning.laws.forms import Floats
from pruning.laws.joint import JointLaw
from pruning.schemas.report import Curve, Estimate, Section

INVARIANT = (
    "Networks of equal invariant m have equal error where pruning has taken over from training. "
    "If depth and width do enter by m alone, the curves of all networks fall together over m, "
    "though they lie apart over the density.",
)
SIGNIFICANT = 0.05
"""The p-value from which down a lack of fit is claimed."""
INVARIANT_AXIS = Axis("invariant m / p", scale="log")
DENSITY_AXIS = Axis("kept density", "share", "log")
ERROR_AXIS = Axis("error", "fraction", "log")
PREDICTED_AXIS = Axis("predicted error", "fraction", "log")
MEASURED_AXIS = Axis("measured error", "fraction", "log")


def build_invariant_section(law: JointLaw, points: FamilyMeasurements) -> Section:
    """Build the section: curves over the invariant and over the density, and the two halves."""
    invariant = law.invariant(points.depth, points.width, points.density) / law.p
    curves = _draw_sizes(points, invariant, group="collapsed", x_axis=INVARIANT_AXIS)
    curves |= _draw_sizes(points, points.density, group="apart", x_axis=DENSITY_AXIS)
    common = _draw_common(law, points, invariant)
    curves["collapsed/law for an unpruned error of 0"] = common
    halves, refusals = predict_other_half(points)
    lack = measure_lack_of_fit(law, points)
    curves |= _draw_halves(halves)
    notes = [
        *_note_halves(halves),
        *_note_density_alone(law, points),
        _note_lack_of_fit(lack),
        *INVARIANT,
    ]
    if common.x:
        notes.append(
            "The dashed line is the law without an unpruned error, plateau (1 + "
            "(m/p)^2)^(-gamma/2): every curve leaves it for an unpruned error of its own."
        )
    notes += [f"{refusal}." for refusal in dict.fromkeys(refusals)]
    scalars = {}
    if halves:
        deviation = _join_deviations(halves)
        scalars["missed error of the other half"] = Estimate(
            value=float(np.abs(deviation).mean()), n=len(deviation), unit="fraction"
        )
    if lack is not None:
        scalars["lack of fit, p-value"] = Estimate(value=lack.p_value, n=lack.trials)
    rows = [_describe_half(half) for half in halves]
    return Section(
        title="The invariant",
        version=1,
        curves=curves,
        notes=tuple(notes),
        scalars=scalars,
        details={"halves": rows} if rows else {},
        units={
            "missed_error": "fraction",
            "missed_on_average": "fraction",
            "missed_sigma": "fraction",
        },
    )


def _draw_sizes(
    points: FamilyMeasurements, x: Floats, *, group: str, x_axis: Axis
) -> dict[str, Curve]:
    """The measured errors over x, one curve for each depth and width."""
    curves = {}
    for depth, width in sorted({network[:2] for network in points.networks}):
        rows = np.flatnonzero((points.depth == depth) & (points.width == width))
        rows = rows[np.argsort(x[rows])]
        curves[f"{group}/{name_size(depth, width)}"] = draw_curve(
            x[rows], points.error[rows], x_axis=x_axis, y_axis=ERROR_AXIS, drawn="points"
        )
    return curves


def _draw_common(law: JointLaw, points: FamilyMeasurements, invariant: Floats) -> Curve:
    """The law without an unpruned error, as far down as errors were measured."""
    grid = np.geomspace(invariant.min(), invariant.max(), STEPS)
    errors = law.plateau * (1 + grid**2) ** (-law.gamma / 2)
    shown = errors >= points.error.min()
    return draw_curve(
        grid[shown], errors[shown], x_axis=INVARIANT_AXIS, y_axis=ERROR_AXIS, drawn="line"
    )


def _draw_halves(halves: list[Half]) -> dict[str, Curve]:
    """Measured over predicted errors of each half, and the line on which they are equal."""
    curves = {}
    for number, half in enumerate(halves, start=1):
        curves[f"other half/fitted on half {number}"] = draw_curve(
            half.predicted,
            half.measured,
            x_axis=PREDICTED_AXIS,
            y_axis=MEASURED_AXIS,
            drawn="points",
        )
    if halves:
        ends = [
            float(min(half.measured.min() for half in halves)),
            float(max(half.measured.max() for half in halves)),
        ]
        curves["other half/predicted = measured"] = draw_curve(
            ends, ends, x_axis=PREDICTED_AXIS, y_axis=MEASURED_AXIS, drawn="line"
        )
    return curves


def _join_deviations(halves: list[Half]) -> Floats:
    return np.concatenate([half.deviation for half in halves])


def _note_halves(halves: list[Half]) -> list[str]:
    if not halves:
        return []
    deviation = _join_deviations(halves)
    points = wording.count_of(len(deviation), "point")
    mean = wording.percent(float(np.abs(deviation).mean()))
    bias = wording.percent(float(deviation.mean()))
    sd = wording.percent(float(deviation.std()))
    shared = any(
        {network[:2] for network in half.fitted} & {network[:2] for network in half.networks}
        for half in halves
    )
    overlap = ", no size in both"
    if shared:  # a weaker test
        overlap = "; sizes are in both halves, with other fractions of the images"
    return [
        f"Fitted on one half of the networks (as on a chessboard{overlap}), the law predicts the "
        f"other half's {points} with a mean deviation of {mean} (bias {bias}, standard deviation "
        f"{sd})."
    ]


def _note_lack_of_fit(lack: LackOfFit | None) -> str:
    """A note on what the scatter of seeds says of the law, or why it says nothing."""
    if lack is None:
        return (
            f"Whether the law misses more than the seeds scatter was not tested: it takes "
            f"{FEWEST_TRIALS} trainings more than networks, under other seeds."
        )
    verdict = "no lack of fit is seen"
    if lack.p_value <= SIGNIFICANT:
        verdict = "the invariant does not hold to within the scatter of seeds"
    return (
        f"Lack of fit against pure error: the law misses the means of the networks by "
        f"{lack.ratio:.2f} times what the scatter of seeds explains (mean squares, whole curves, "
        f"{wording.count_of(lack.trials, 'degree')} of freedom), p = {lack.p_value:.2g}: {verdict}."
    )


def _note_density_alone(law: JointLaw, points: FamilyMeasurements) -> list[str]:
    alone = fit_density_alone(points)
    sizes = {network[:2] for network in points.networks}
    if alone is None or len(sizes) < 2:
        return []
    return [
        f"With phi = {law.phi:.2f} and psi = {law.psi:.2f} the points scatter about one law by a "
        f"relative standard deviation of {wording.percent(law.fit.residual_sd)}; by the density "
        f"alone (phi = psi = 0), with two constants fewer, by {wording.percent(alone)}."
    ]


def _describe_half(half: Half) -> dict[str, Any]:
    missed = half.deviation
    return {
        "fitted_networks": len(half.fitted),
        "phi": half.phi,
        "psi": half.psi,
        "predicted_networks": len(set(half.networks)),
        "points": len(missed),
        "missed_error": float(np.abs(missed).mean()),
        "missed_on_average": float(missed.mean()),
        "missed_sigma": float(missed.std()),
    }
