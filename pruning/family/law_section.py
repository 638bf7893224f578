"""The section on the joint law of a family: its constants, its curves and how far the points are
from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning import wording
from pruning.family.measurements import FamilyMeasurements, NetworkKey
from pruning.family.section_parts import STEPS
from pruning.family.turn import State
from pruning.laws.joint import JointLaw
from pruning.measurement.law_misses import relative_misses, sparser_misses
from pruning.schemas.report import Curve, Estimate, Section, Unit

UNITS: dict[str, Unit] = {
    "unpruned_error": "fraction",
    "missed_on_average": "fraction",
    "missed_sigma": "fraction",
    "sparsest_density": "share",
    "power_law_from_density": "share",
    "to_density": "share",
}
LABELS = {
    "missed_on_average": "law above the points on average",
    "missed_sigma": "standard deviation of the misses",
}
"""The words of the names of columns."""
IMAGES = {"val": "validation images", "test": "test images"}
ERRORS = {"val": "validation error", "test": "test error"}
LAW = (
    "The law: error = e0 [(m^2 + p^2 r^2) / (m^2 + p^2)]^(gamma/2), m = depth^phi width^psi "
    "density, r = (plateau / e0)^(1/gamma), e0 the unpruned error of each network (observed, not "
    "fitted: the mean over its trainings without pruning); the training images enter by e0 alone. "
    "Five constants for the whole family, fitted to relative deviations.",
    "The paper: relative deviations from the joint law have a mean below 2 % and a standard "
    "deviation below 6 %, with errors on 10,000 test images or more; on fewer, errors scatter more "
    "by themselves.",
)


def build_law_section(state: State, law: JointLaw, points: FamilyMeasurements) -> Section:
    """Build the section: one curve of the law and one of the points for each network."""
    curves: dict[str, Curve] = {}
    for network in points.networks:
        curves |= _draw_network(law, points, network, state.spec.confidence)
    warnings = [f"{warning}." for warning in points.warnings]
    return Section(
        title="Joint scaling law",
        version=1,
        curves=curves,
        notes=(*_list_notes(state, law), *warnings, *LAW),
        scalars={
            name: Estimate(value=value, unit=unit)
            for name, (value, unit) in _list_scalars(law).items()
            if value is not None
        },
        details={"networks": [_describe_network(law, points, key) for key in points.networks]},
        units=UNITS,
        labels=LABELS,
    )


def _list_scalars(law: JointLaw) -> dict[str, tuple[float | None, Unit]]:
    missed_networks = None
    if law.network_folds is not None:
        missed_networks = float(np.mean(law.network_folds.missed))
    back_test = law.back_test
    return {
        "gamma": (law.gamma, "number"),
        "phi (exponent of depth)": (law.phi, "number"),
        "psi (exponent of width)": (law.psi, "number"),
        "p (invariant at the end of the power law)": (law.p, "number"),
        "error of the plateau": (law.plateau, "fraction"),
        "missed error, standard deviation": (law.fit.residual_sd, "fraction"),
        "missed error, mean": (law.fit.residual_mean, "fraction"),
        "missed error of one run without sampling (sigma)": (law.sigma, "fraction"),
        "missed error at held-out densities": (law.held_out, "fraction"),
        "missed error of networks left out": (missed_networks, "fraction"),
        "missed error in the back-test": (
            None if back_test is None else back_test.mean_absolute,
            "fraction",
        ),
    }


def _list_notes(state: State, law: JointLaw) -> list[str]:
    networks = wording.count_of(len(law.networks), "network")
    points = wording.count_of(len(law.points), "point")
    looked_at = "test images" if state.points is None else IMAGES[state.points.on]
    misses = relative_misses(law.fit.residual_mean, law.fit.residual_sd)
    level = wording.short_percent(state.spec.confidence)
    notes = [
        f"{networks}, {points}, measured on {looked_at}; {misses}.",
        f"Bands ({level}) are of one more run under another seed; {law.seed_effect.describe()}.",
    ]
    plateau = law.describe_plateau()
    notes += [plateau] if plateau else []
    back_test = law.back_test
    if back_test is not None:
        missed = sparser_misses(len(back_test.points), back_test.mean_absolute, back_test.bias)
        notes.append(f"Back-test: fitted to the denser part of every network, {missed}.")
    if state.band is not None and state.spec.adaptive is not None:
        run = len([run for run in state.runs if run.member.role == "member"])
        members = wording.count_of(len(state.members), "member")
        notes.append(
            f"Adaptive: {run} of {members} were run; for given unpruned errors the law's band is "
            f"±{wording.percent(state.band)} of the error on average over all of them, "
            f"{wording.percent(state.spec.adaptive.band)} were asked for."
        )
    return notes


def _draw_network(
    law: JointLaw, points: FamilyMeasurements, network: NetworkKey, confidence: float
) -> dict[str, Curve]:
    """The curve of the law with its band, and the measured points; one plot for each depth."""
    depth, width, fraction = network
    rows = points.mask_networks(network.__eq__)
    label = f"depth {depth:g}/width {width:g}"
    if fraction < 1:
        label += f", {wording.short_percent(fraction)} of the images"
    y_label = f"{ERRORS[points.on]}, depth {depth:g}"
    grid = np.geomspace(points.density[rows].min(), 0.999, STEPS)
    unpruned = points.average_unpruned(network)
    forecasts = law.forecasts(depth, width, grid, unpruned, confidence=confidence)
    law_curve = Curve.over_sparsity(
        [float(1 - density) for density in grid],
        [forecast.error for forecast in forecasts],
        y_label=y_label,
        y_unit="fraction",
        drawn="band",
    )
    measured = Curve.over_sparsity(
        [1 - float(density) for density in points.density[rows]],
        [Estimate(value=float(error)) for error in points.error[rows]],
        y_label=y_label,
        y_unit="fraction",
        drawn="points",
    )
    return {f"{label}/law": law_curve, f"{label}/measured": measured}


def _describe_network(
    law: JointLaw, points: FamilyMeasurements, network: NetworkKey
) -> dict[str, Any]:
    depth, width, fraction = network
    rows = points.mask_networks(network.__eq__)
    unpruned = points.average_unpruned(network)
    # Noise may lift an unpruned error above the plateau, where the law is not defined.
    below_plateau = min(unpruned, law.plateau)
    fitted = law.curve(depth, width, points.density[rows], below_plateau)
    missed = fitted / points.error[rows] - 1
    upper, lower = law.transitions(depth, width, below_plateau)
    return {
        "depth": depth,
        "width": width,
        "fraction_of_images": wording.short_percent(fraction),
        "unpruned_error": unpruned,
        "points": int(rows.sum()),
        "sparsest_density": float(points.density[rows].min()),
        "missed_on_average": float(missed.mean()),
        "missed_sigma": float(missed.std()),
        "power_law_from_density": min(1.0, upper),
        "to_density": lower,
    }
