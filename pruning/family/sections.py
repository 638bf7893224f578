"""What a family's report shows: the joint law, its invariant put to the test, the unpruned errors,
and the answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning import wording as q
from pruning.family.measurements import (
    FamilyMeasurements,
    Half,
    NetworkKey,
    fit_density_alone,
    predict_other_half,
)
from pruning.family.turn import State
from pruning.laws.forms import Floats
from pruning.laws.joint import JointLaw
from pruning.schemas.family_report import FamilyAnswer, MeasuredNetwork
from pruning.schemas.report import Curve, Estimate, Section

STEPS = 40
LAW = (
    "The law: error = e0 [(m^2 + p^2 r^2) / (m^2 + p^2)]^(gamma/2), m = depth^phi width^psi "
    "density, r = (plateau / "
    "e0)^(1/gamma), e0 the unpruned error of each network (observed, not fitted: the mean over "
    "its trainings without "
    "pruning); the training images enter by e0 alone. Five constants for the whole family, "
    "fitted to relative deviations.",
    "The paper: relative deviations from the joint law have a mean below 2 % and a standard "
    "deviation below 6 %.",
)
INVARIANT = (
    "Networks of equal invariant m have equal error where pruning has taken over from training. "
    "If depth and width do "
    "enter by m alone, the curves of all networks fall together over m, though they lie apart "
    "over the density.",
)


def build_sections(state: State) -> dict[str, Section]:
    """The sections that the points so far allow."""
    found = {}
    if state.law is not None and state.points is not None:
        found["scaling_law"] = _law(state, state.law, state.points)
        found["invariant"] = _invariant(state.law, state.points)
        found["answers"] = _answers(state)
    if state.dense is not None or state.dense_refusal:
        found["unpruned_errors"] = _unpruned(state)
    return found


def _name(network: NetworkKey, fraction: bool = True) -> str:
    depth, width, share = network
    return f"depth {depth:g}, width {width:g}" + (
        f", {q.short_percent(share)} of the images" if fraction and share < 1 else ""
    )


def _law(state: State, law: JointLaw, points: FamilyMeasurements) -> Section:
    tested = law.back_test
    scalars = {
        "gamma": law.gamma,
        "phi (exponent of depth)": law.phi,
        "psi (exponent of width)": law.psi,
        "p (invariant at the end of the power law)": law.p,
        "error of the plateau": law.plateau,
        "missed error, standard deviation": law.fit.residual_sd,
        "missed error, mean": law.fit.residual_mean,
        "missed error of one run without sampling (sigma)": law.sigma,
        "missed error at held-out densities": law.held_out,
        "missed error of networks left out": _missed_networks(law),
        "missed error in the back-test": None if tested is None else tested.mean_absolute,
    }
    notes = [
        f"{q.count_of(len(law.networks), 'network')}, {q.count_of(len(law.points), 'point')}; "
        "the law is off by "
        f"{q.percent(law.fit.residual_mean)} on average, with a standard deviation of "
        f"{q.percent(law.fit.residual_sd)}."
    ]
    if tested is not None:
        side = "too low" if tested.bias < 0 else "too high"
        notes.append(
            "Back-test, fitted to the denser part of every network: "
            f"{q.count_of(len(tested.points), 'sparser point')} were missed by "
            f"{q.percent(tested.mean_absolute)}, on average {q.percent(abs(tested.bias))} {side}."
        )
    if state.band is not None and state.spec.adaptive is not None:
        run = len([one for one in state.runs if one.member.role == "member"])
        notes.append(
            f"Adaptive: {run} of {q.count_of(len(state.every), 'member')} were run; for given "
            "unpruned errors "
            f"the law's band is ±{q.percent(state.band)} of the error on average over all of them, "
            f"{q.percent(state.spec.adaptive.band)} were asked for."
        )
    curves: dict[str, Curve] = {}
    for network in points.networks:
        mine = points.of(lambda one, network=network: one == network)  # type: ignore[misc]
        shared, y_label = f"depth {network[0]:g}", f"test error, depth {network[0]:g}"
        label = f"{shared}/{_name(network).removeprefix(f'{shared}, ')}"
        unpruned = points.unpruned_of(network)
        grid = np.geomspace(points.density[mine].min(), 0.999, STEPS)
        band = law.forecasts(
            network[0], network[1], grid, unpruned, confidence=state.spec.confidence
        )
        curves[f"{label}/law"] = _curve(
            [1 - d for d in grid], [one.error for one in band], "sparsity", y_label, "band"
        )
        curves[f"{label}/measured"] = _curve(
            [1 - float(d) for d in points.density[mine]],
            [Estimate(value=float(e)) for e in points.error[mine]],
            "sparsity",
            y_label,
            "points",
        )
    return Section(
        title="Joint scaling law",
        version=1,
        curves=curves,
        notes=(*notes, *(f"{one}." for one in points.warnings), *LAW),
        scalars={
            name: Estimate(value=value) for name, value in scalars.items() if value is not None
        },
        details={"networks": [_network_row(law, points, one) for one in points.networks]},
    )


def _missed_networks(law: JointLaw) -> float | None:
    return None if law.network_folds is None else float(np.mean(law.network_folds.missed))


def _network_row(law: JointLaw, points: FamilyMeasurements, network: NetworkKey) -> dict[str, Any]:
    mine = points.of(lambda one: one == network)
    unpruned = points.unpruned_of(network)
    fitted = law.curve(network[0], network[1], points.density[mine], min(unpruned, law.plateau))
    missed = fitted / points.error[mine] - 1
    upper, lower = law.transitions(network[0], network[1], min(unpruned, law.plateau))
    return {
        "depth": network[0],
        "width": network[1],
        "fraction_of_images": q.short_percent(network[2]),
        "unpruned_error": unpruned,
        "points": int(mine.sum()),
        "sparsest_density": float(points.density[mine].min()),
        "missed_on_average": float(missed.mean()),
        "missed_sigma": float(missed.std()),
        "power_law_from_density": min(1.0, upper),
        "to_density": lower,
    }


def _curve(x: Any, y: Any, x_label: str, y_label: str, drawn: Any) -> Curve:
    return Curve(
        x=tuple(float(one) for one in x), y=tuple(y), x_label=x_label, y_label=y_label, drawn=drawn
    )


def _invariant(law: JointLaw, points: FamilyMeasurements) -> Section:
    curves: dict[str, Curve] = {}
    invariant = law.invariant(points.depth, points.width, points.density) / law.p
    sizes = sorted({one[:2] for one in points.networks})
    log = q.LOG_AXIS
    for x, name in ((invariant, f"invariant m / p {log}"), (points.density, f"kept density {log}")):
        for size in sizes:
            mine = points.of(lambda one, size=size: one[:2] == size)  # type: ignore[misc]
            order = np.argsort(x[mine])
            curves[f"{'collapsed' if x is invariant else 'apart'}/{_name((*size, 1.0))}"] = _curve(
                x[mine][order],
                [Estimate(value=float(e)) for e in points.error[mine][order]],
                name,
                f"test error {log}",
                "points",
            )
    grid = np.geomspace(invariant.min(), invariant.max(), STEPS)
    common = law.plateau * (1 + grid**2) ** (-law.gamma / 2)
    seen = common >= points.error.min()
    curves["collapsed/law for an unpruned error of 0"] = _curve(
        grid[seen],
        [Estimate(value=float(e)) for e in common[seen]],
        f"invariant m / p {log}",
        f"test error {log}",
        "line",
    )
    sides, why = predict_other_half(points)
    notes, rows = [*INVARIANT], []
    if seen.any():
        notes.append(
            "The dashed line is the law without an unpruned error, plateau (1 + "
            "(m/p)^2)^(-gamma/2): every curve "
            "leaves it for an unpruned error of its own."
        )
    alone = fit_density_alone(points)
    if alone is not None and len(sizes) > 1:
        notes.insert(
            0,
            f"With phi = {law.phi:.2f} and psi = {law.psi:.2f} the points lie within a standard "
            "deviation of "
            f"{q.percent(law.fit.residual_sd)} of one law; with the density alone (phi = psi = 0) "
            f"within {q.percent(alone)}.",
        )
    everything: list[Floats] = []
    for number, half in enumerate(sides):
        rows.append(_half_row(half))
        everything.append(half.deviation)
        curves[f"other half/fitted on half {number + 1}"] = _curve(
            half.predicted,
            [Estimate(value=float(e)) for e in half.measured],
            f"predicted error {log}",
            f"measured error {log}",
            "points",
        )
    if sides:
        all_of = np.concatenate(everything)
        notes.insert(
            0,
            f"Fitted on one half of the networks (as on a chessboard{_apart(sides)}), the law "
            "predicts the "
            f"other half's {q.count_of(len(all_of), 'point')} with a mean deviation of "
            f"{q.percent(float(np.abs(all_of).mean()))} "
            f"(bias {q.percent(float(all_of.mean()))}, standard deviation "
            f"{q.percent(float(all_of.std()))}).",
        )
        ends = [
            float(min(one.measured.min() for one in sides)),
            float(max(one.measured.max() for one in sides)),
        ]
        curves["other half/predicted = measured"] = _curve(
            ends,
            [Estimate(value=one) for one in ends],
            f"predicted error {log}",
            f"measured error {log}",
            "line",
        )
    notes += [f"{one}." for one in why]
    scalars = (
        {}
        if not sides
        else {
            "missed error of the other half": Estimate(
                value=float(np.abs(np.concatenate(everything)).mean()),
                n=sum(len(one) for one in everything),
            )
        }
    )
    return Section(
        title="The invariant",
        version=1,
        curves=curves,
        notes=tuple(notes),
        scalars=scalars,
        details={"halves": rows} if rows else {},
    )


def _apart(sides: list[Half]) -> str:
    """What the halves share, which makes the check weaker."""
    both = any(
        {one[:2] for one in half.fitted} & {one[:2] for one in half.networks} for half in sides
    )
    return (
        "; sizes are in both halves, with other fractions of the images"
        if both
        else ", no size in both"
    )


def _half_row(half: Half) -> dict[str, Any]:
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


def _unpruned(state: State) -> Section:
    dense = state.dense
    if dense is None:
        return Section(
            title="Unpruned errors",
            version=1,
            notes=(
                f"No law of the unpruned errors: {state.dense_refusal}. Those of networks that "
                "were not run are by a regression "
                "on the measured ones, where there are enough.",
            ),
        )
    runs = [
        run
        for run in state.runs
        if run.curve is not None and run.status == "succeeded" and run.member.role == "member"
    ]
    rows = []
    for run in sorted(runs, key=lambda one: (one.member.network, one.member.seed)):
        assert run.curve is not None
        told = float(dense.curve(run.curve.parameters, run.curve.images)[0])
        rows.append(
            {
                "depth": run.member.depth,
                "width": run.member.width,
                "seed": run.member.seed,
                "parameters": run.curve.parameters,
                "images": run.curve.images,
                "error_measured": run.curve.unpruned_error,
                "error_of_the_law": told,
            }
        )
    curves = {}
    for images in sorted({row["images"] for row in rows}):
        mine = sorted(
            (row["parameters"], row["error_measured"]) for row in rows if row["images"] == images
        )
        grid = (
            np.geomspace(mine[0][0], mine[-1][0], STEPS)
            if mine[0][0] < mine[-1][0]
            else np.array([mine[0][0]])
        )
        labels = f"parameters {q.LOG_AXIS}", "unpruned error"
        curves[f"{images} images/law"] = _curve(
            grid, [Estimate(value=float(e)) for e in dense.curve(grid, images)], *labels, "line"
        )
        curves[f"{images} images/measured"] = _curve(
            [m for m, _ in mine], [Estimate(value=e) for _, e in mine], *labels, "points"
        )
    said = (
        "error = e0 x / sqrt(x^2 + eta^2), x = n^-alpha + b m^-beta + c, of m parameters and n "
        "training images; off by "
        f"a standard deviation of {q.percent(dense.sigma)}. It tells the errors of networks that "
        "were not run.",
    )
    return Section(
        title="Unpruned errors",
        version=1,
        notes=(*said, *(f"{one}." for one in dense.warnings)),
        curves=curves,
        scalars={
            name: Estimate(value=value)
            for name, value in dense.coefficients.items()
            if name != "chance"
        },
        details={"networks": rows},
    )


def _answers(state: State) -> Section:
    notes, candidates, rows = [], [], []
    for row, asked in zip(state.answers, state.asked, strict=True):
        rows.append(
            {
                "max_error": row.max_error,
                "depth": row.depth,
                "width": row.width,
                "density": row.density,
                "rounds": row.rounds,
                "parameters": row.parameters,
                "error_predicted": None if row.predicted is None else row.predicted.model_dump(),
                "error_measured": None if row.measured is None else row.measured.model_dump(),
                "within_band": row.within_band,
                "job": row.job,
                "remark": "; ".join((*row.notes, row.refused)).strip("; "),
            }
        )
        if isinstance(asked, str):
            notes.append(
                f"Error of at most {q.percent(row.max_error, 2)}: {row.refused}.{_ran(state, row)}"
            )
            continue
        notes.append(f"{_said(state, row)}{_ran(state, row)}")
        for number, one in enumerate((asked.best, *asked.others)):
            candidates.append(
                {
                    "max_error": row.max_error,
                    "order": number + 1,
                    "depth": one.candidate.depth,
                    "width": one.candidate.width,
                    "unpruned_error": one.candidate.unpruned_error,
                    "unpruned_parameters": one.candidate.parameters,
                    "density": one.density,
                    "parameters_that_remain": round(one.parameters),
                    "rounds": one.rounds,
                    "error_predicted": one.error.model_dump(),
                    "extrapolated": one.extrapolated,
                }
            )
        candidates += [
            {
                "max_error": row.max_error,
                "order": None,
                "depth": one.depth,
                "width": one.width,
                "unpruned_error": one.unpruned_error,
                "unpruned_parameters": one.parameters,
                "remark": why,
            }
            for one, why in asked.refused
        ]
    notes += [f"{one}." for one in state.remarks]
    notes.append(
        "Which network, pruned how far, has the fewest parameters at an error of at most k: m* = "
        "p sqrt((r^2 - "
        "s^2) / (s^2 - 1)), s = (k / e0)^(1/gamma), density = m* / (depth^phi width^psi), for "
        "every candidate. "
        f"Bands ({q.short_percent(state.spec.confidence)}) are of one more run, trained under "
        "another "
        f"seed, which moves a whole curve by a standard deviation of {q.percent(_seed_sd(state))}."
    )
    return Section(
        title="The fewest parameters at a tolerated error",
        version=1,
        notes=tuple(notes),
        details={"answers": rows, "candidates": candidates},
    )


def _seed_sd(state: State) -> float:
    return state.points.seed_sd if state.points is not None else 0.0


def _ran(state: State, row: FamilyAnswer) -> str:
    one = row.smallest_run
    if one is None or (one.job, one.parameters) == (
        row.job,
        row.measured_parameters,
    ):  # the answer itself
        return ""
    return f" {describe_smallest_run(one, state.spec.method)}"


def describe_smallest_run(one: MeasuredNetwork, method: str) -> str:
    """What was measured with the fewest parameters, as a sentence."""
    images = f" on {q.short_percent(one.fraction)} of the images" if one.fraction < 1 else ""
    return (
        "Of all that was run, the fewest parameters at no more than that measured "
        f"{q.percent(one.error, 2)}: depth "
        f"{one.depth:g} and width {one.width:g}{images}, seed {one.seed}, at a density of "
        f"{one.density:.3g}, "
        f"{q.count(one.parameters)} parameters. "
        + (
            f"It is a checkpoint of job {one.job}."
            if method == "synflow"
            else f"The spec of job {one.job}, with {one.sparsity} as target, makes it again."
        )
    )


def _said(state: State, row: Any) -> str:
    text = (
        f"Error of at most {q.percent(row.max_error, 2)}: depth {row.depth:g} and width "
        f"{row.width:g}, pruned to a "
        f"density of {row.density:.3g}, {q.count(round(row.parameters))} of "
        f"{q.count(row.unpruned_parameters)} "
        f"parameters; predicted error {q.percent_with_interval(row.predicted, 2)}"
    )
    if row.measured is not None:
        inside = (
            ""
            if row.within_band is None
            else f", {'inside' if row.within_band else 'outside'} the band"
        )
        return f"{text}; trained for real {q.percent_with_interval(row.measured, 2)}{inside}."
    if row.status is not None:
        return f"{text}; its training for real: {row.status}."
    if row.density == 1.0:
        return f"{text}; this is the network without pruning, which is not trained again."
    return text + (
        "; not trained for real yet."
        if state.spec.confirm
        else "; not trained for real, as the job asks."
    )
