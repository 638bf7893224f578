"""The error of densities that the job did not run, by the scaling law of its own points.

Source: Rosenfeld, Frankle, Carbin and Shavit, On the predictability of pruning across scales, ICML
2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from pruning import wording as q
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.errors import InsufficientPointsError, SecateurError
from pruning.evaluations import evaluations
from pruning.laws.density import DensityLaw, fit_density_law
from pruning.laws.queries import REFUSALS, answer_error, forecast_error
from pruning.laws.selection import Selection, compare_density_laws
from pruning.schemas.report import Curve, Estimate, Section

RAW = "raw_laws"
"""By criterion, what it is and its fitted law, as documents: what a later question is answered
from.
"""
FEWEST = 4
"""With fewer points of every criterion the evaluation does not run by itself."""
INCREASES = (0.005, 0.01, 0.02, 0.05)
"""Tolerated errors above the unpruned one, where the recipe asks for none."""
HALVINGS = 2
"""So often the sparsest measured density is halved to extrapolate."""
STEPS = 48
NOTES = (
    "The law: error(d) = e0 [(d^2 + p^2 r^2) / (d^2 + p^2)]^(gamma/2), r = (plateau / "
    "e0)^(1/gamma), e0 the error of the "
    "dense control (observed, not fitted), d the density. Between the densities p r and p the "
    "error is a power of the "
    "density; above little is lost, below the network guesses. Fitted to relative deviations; "
    "gamma, p and plateau trade "
    "off, the curve is what is determined.",
    "The paper: relative deviations of a network's points from the law have a mean below 2 % and "
    "a standard deviation below "
    "4 %; networks that differ in their seed alone differ by 3.4 %.",
    "Bands are of the curve. Densities below the sparsest measured one are extrapolated, with a "
    "band widened by what the "
    "back-test missed, and only where an error of 1.5 times the unpruned one was seen.",
)


@evaluations.register("scaling_law")
@dataclass(frozen=True)
class ScalingLaw:
    """Fit, back-test and inverse of the law of each criterion's rounds: what other densities cost,
    and which one is enough.

    Every round is a point: test error against density, retrained where the job retrains; only those
    that end at a target where the job prunes before it trains, or gradually. `POST
    /v1/jobs/{id}/predict` asks the same law afterwards.
    """

    version: ClassVar[int] = 1
    max_error: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...] | None,
        Field(description="errors that are tolerated; null: a few above the unpruned one"),
    ] = None
    densities: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(description="densities to predict, beside two below the sparsest"),
    ] = ()
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9

    def applies(self, trial: JobRecord) -> bool:
        """With points enough to try."""
        return any(len(_rounds(trial, label)) >= FEWEST for label in _labels(trial))

    def evaluate(self, trial: JobRecord) -> Section:
        """Curves `law/<criterion>/...`; tables of laws, contenders, back-test, answers, forecasts;
        the laws themselves.
        """
        section = _Parts()
        refused: list[SecateurError] = []
        for label in _labels(trial):
            rounds = _rounds(trial, label)
            try:
                law = _fit(trial, rounds)
            except REFUSALS as error:
                refused.append(error)
                section.notes.append(f"{label}: no law ({error.code}): {error.message}.")
                section.refused.append(
                    {"criterion": label, "code": error.code, "reason": error.message}
                )
                continue
            section.add(label, rounds, law, self, trial)
        if not section.laws and trial.recipe.evaluations is not None and refused:
            raise refused[0]
        tables = {
            "laws": section.laws,
            "contenders": section.contenders,
            "back_test": section.back_test,
            "answers": section.answers,
            "forecasts": section.forecasts,
            "criteria_without_a_law": section.refused,
        }
        return Section(
            title="Scaling law",
            version=self.version,
            curves=section.curves,
            notes=(*section.notes, *NOTES),
            details={name: rows for name, rows in tables.items() if rows}
            | ({RAW: section.raw} if section.raw else {}),
        )


class _Parts:
    """What is said of every criterion."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.notes: list[str] = []
        self.raw: dict[str, Any] = {}
        self.refused: list[dict[str, Any]] = []
        self.laws: list[dict[str, Any]] = []
        self.contenders: list[dict[str, Any]] = []
        self.back_test: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.forecasts: list[dict[str, Any]] = []

    def add(
        self,
        label: str,
        rounds: Sequence[RoundRecord],
        law: DensityLaw,
        asked: ScalingLaw,
        trial: JobRecord,
    ) -> None:
        self.raw[label] = {
            "criterion": rounds[0].criterion.model_dump(mode="json"),
            "law": law.model_dump(mode="json"),
        }
        self.laws.append(_row(label, law))
        found, _ = compare_density_laws(
            [one.density for one in rounds],
            [_error(one) for one in rounds],
            law.unpruned_error,
            classes=len(trial.data.classes),
            law=law,
        )
        self.contenders += [
            {
                "criterion": label,
                "law": one.name,
                "parameters": one.parameters,
                "missed_at_held_out_densities": one.held_out,
                "missed_in_back_test": one.back_test,
            }
            for one in found.contenders
        ]
        tested = law.back_test
        if tested is not None:
            self.back_test += [
                {
                    "criterion": label,
                    "density": one.density,
                    "error_measured": one.measured,
                    "error_predicted": one.predicted,
                }
                for one in tested.points
            ]
        errors = asked.max_error or [min(law.unpruned_error + more, 1.0) for more in INCREASES]
        answers = [answer_error(law, error, asked.confidence) for error in errors]
        self.answers += [{"criterion": label} | row for row in answers]
        sparsest = law.fit_range[0]
        wanted = [*asked.densities, *(sparsest / 2**k for k in range(1, HALVINGS + 1))]
        self.forecasts += [
            {"criterion": label} | forecast_error(law, density, asked.confidence)
            for density in wanted
        ]
        self._draw(label, rounds, law, asked.confidence, answers)
        self.notes += [
            *_said(label, law, found, len(rounds)),
            *(f"{label}: {one}." for one in law.warnings),
        ]

    def _draw(
        self,
        label: str,
        rounds: Sequence[RoundRecord],
        law: DensityLaw,
        confidence: float,
        answers: Sequence[dict[str, Any]],
    ) -> None:
        sparsest, densest = law.fit_range
        lowest = sparsest / 2**HALVINGS
        try:
            law.forecasts(lowest, confidence=confidence)
        except InsufficientPointsError:
            lowest = sparsest
        grid = np.geomspace(lowest, max(densest, 0.999), STEPS)
        band = [one.error for one in law.forecasts(grid, confidence=confidence)]
        y_label = f"test error, {label}"

        def curve(x: Sequence[float], y: Sequence[Estimate], drawn: Any) -> Curve:
            return Curve(x=tuple(x), y=tuple(y), x_label="sparsity", y_label=y_label, drawn=drawn)

        self.curves[f"law/{label}/law"] = curve([1 - float(d) for d in grid], band, "band")
        self.curves[f"law/{label}/measured"] = curve(
            [one.sparsity for one in rounds],
            [one.measured.document().error for one in rounds],
            "points",
        )
        reached = [row for row in answers if row["density"]]
        if reached:
            self.curves[f"law/{label}/answers"] = curve(
                [1 - row["density"] for row in reached],
                [Estimate(value=row["max_error"]) for row in reached],
                "points",
            )
        if law.plateau <= 2 * max(one.high or one.value for one in band):
            ends_of_axis = [1 - float(grid[-1]), 1 - float(grid[0])]
            self.curves[f"law/{label}/plateau"] = curve(
                ends_of_axis, [Estimate(value=law.plateau)] * 2, "line"
            )
        upper, lower = law.transitions
        ends = [d for d in (upper, lower) if grid[0] <= d < 1]
        if ends:
            self.curves[f"law/{label}/ends of the power law"] = curve(
                [1 - d for d in ends], [Estimate(value=float(law.curve(d))) for d in ends], "points"
            )


def _labels(trial: JobRecord) -> list[str]:
    return list(dict.fromkeys(one.label for one in trial.rounds))


def _rounds(trial: JobRecord, label: str) -> list[RoundRecord]:
    """Those of networks that are comparable: where rounds between targets end untrained, or half
    trained, the targets'.
    """
    unfinished = trial.pruned_untrained or trial.recipe.retrain.mode == "gradual"
    mine = (
        one
        for one in trial.rounds
        if one.label == label and (one.target is not None or not unfinished)
    )
    return sorted(mine, key=lambda one: one.sparsity)


def _error(one: RoundRecord) -> float:
    return float(one.measured.wrong.double().mean())


def _fit(trial: JobRecord, rounds: Sequence[RoundRecord]) -> DensityLaw:
    unpruned = float(trial.control_measured.wrong.double().mean())
    return fit_density_law(
        [one.density for one in rounds],
        [_error(one) for one in rounds],
        unpruned,
        classes=len(trial.data.classes),
        images=len(trial.data.test),
        seed=trial.seed % 2**32,
    )


def _row(label: str, law: DensityLaw) -> dict[str, Any]:
    upper, lower = law.transitions
    tested = law.back_test
    return {
        "criterion": label,
        "unpruned_error": law.unpruned_error,
        "gamma": law.gamma,
        "p": law.p,
        "error_of_the_plateau": law.plateau,
        "power_law_from_density": upper,
        "to_density": lower,
        "points": len(law.points),
        "sparsest_density": law.fit_range[0],
        "missed_on_average": law.fit.residual_mean,
        "missed_sigma": law.sigma,
        "condition_number": law.condition,
        "missed_in_back_test": None if tested is None else tested.mean_absolute,
    }


def _said(label: str, law: DensityLaw, found: Selection, points: int) -> list[str]:
    tested = law.back_test
    said = [
        f"{label}: {q.count_of(points, 'point')}; the law is off by "
        f"{q.percent(law.fit.residual_mean)} on average, with "
        f"a standard deviation of {q.percent(law.fit.residual_sd)}."
    ]
    if tested is not None:
        side = "too low" if tested.bias < 0 else "too high"
        said[0] += (
            " Back-test, fitted to the denser part: the "
            f"{q.count_of(len(tested.points), 'sparser point')} were "
            f"missed by {q.percent(tested.mean_absolute)}, on average "
            f"{q.percent(abs(tested.bias))} {side}."
        )
    if found.best != "pruning":
        beyond = (
            "; beyond the densities it was fitted to, this law missed less"
            if found.best_beyond == "pruning"
            else ""
        )
        said.append(
            f"{label}: a {'broken ' * (found.best == 'broken')}power law that knows nothing of "
            "pruning predicts "
            f"densities left out better here{beyond}."
        )
    return said
