"""The error of densities that the job did not run, by the scaling law of its own points.

Source: Rosenfeld, Frankle, Carbin and Shavit, On the predictability of pruning across scales, ICML
2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pruning import wording
from pruning.analysis.job_record import JobRecord
from pruning.errors import InsufficientPointsError, SecateurError
from pruning.evaluations import evaluations
from pruning.evaluations._law_points import LawPoints, list_labels, list_rounds, measure_points
from pruning.laws.bands import BandTarget
from pruning.laws.density import DensityLaw
from pruning.laws.pair import LawPair, pair_laws
from pruning.laws.queries import REFUSALS, answer_error, forecast_error
from pruning.laws.seeds import SeedEffect
from pruning.laws.selection import Selection, compare_density_laws
from pruning.measurement.law_misses import relative_misses, sparser_misses
from pruning.schemas.report import Curve, Estimate, Section, Unit

RAW = "raw_laws"
"""The key in a section's details: each criterion and its fitted law, as documents, from which
later questions are answered.
"""
UNITS: dict[str, Unit] = {
    "density": "share",
    "sparsity": "share",
    "sparsest_density": "share",
    "power_law_from_density": "share",
    "to_density": "share",
    "max_error": "fraction",
    "unpruned_error": "fraction",
    "error_of_the_plateau": "fraction",
    "error_measured": "fraction",
    "error_predicted": "fraction",
    "missed_at_held_out_densities": "fraction",
    "missed_in_back_test": "fraction",
    "missed_on_average": "fraction",
    "missed_sigma": "fraction",
}
LABELS = {
    "law": "law",
    "missed_on_average": "law above the points on average",
    "missed_sigma": "sigma: standard deviation of one run, sampling of images aside",
    "missed_at_held_out_densities": "mean miss at densities left out",
    "missed_in_back_test": "mean miss in the back-test",
}
"""The words of the names of columns."""
FEWEST = 4
"""The number of points that some criterion must have for the evaluation to run by itself."""
INCREASES = (0.005, 0.01, 0.02, 0.05)
"""Tolerated errors above the unpruned one, where the recipe asks for none."""
HALVINGS = 2
"""The number of times that the sparsest measured density is halved to extrapolate."""
STEPS = 48
"""The number of densities at which the law is drawn."""
NOTES = (
    "The law: error(d) = e0 [(d^2 + p^2 r^2) / (d^2 + p^2)]^(gamma/2), r = (plateau / "
    "e0)^(1/gamma), e0 the error of a dense control (observed, not fitted), d the density. "
    "Between the densities p r and p the error is a power of the density; above little is lost, "
    "below the network guesses. Fitted to relative deviations; gamma, p and plateau trade off, "
    "the curve is what is determined.",
    "The paper: relative deviations of a network's points from the law have a mean below 2 % and "
    "a standard deviation below 4 %; networks that differ in their seed alone differ by 3.4 %.",
    "Densities below the sparsest measured one are extrapolated, with a "
    "band widened by what the back-test missed, and only where an error of 1.5 times the unpruned "
    "one was seen and no exponent ended at a limit of the fit.",
)
BANDS: dict[BandTarget, str] = {
    "run": "Bands are of one more run under another seed.",
    "curve": "Bands are of the curve, the mean of many runs: one more run lies outside them more "
    "often than not.",
}


@evaluations.register("scaling_law")
@dataclass(frozen=True)
class ScalingLaw:
    """The law of each criterion's rounds: what other densities cost, and which one is enough.

    The law is fitted, back-tested and inverted. Every round is a point: test error against density,
    retrained where the job retrains; only those that end at a target where the job prunes before it
    trains, or gradually. `POST /v1/jobs/{id}/predict` asks the same law afterwards.
    """

    version: ClassVar[int] = 3
    asks_how_pruned: ClassVar[bool] = True
    by_default: ClassVar[bool] = True
    max_error: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...] | None,
        Field(description="errors that are tolerated; null: a few above the unpruned one"),
    ] = None
    densities: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(description="densities to predict, beside two below the sparsest"),
    ] = ()
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    of: Annotated[
        BandTarget,
        Field(description="bands of one more run under another seed, or of the mean of many"),
    ] = "run"

    def applies(self, record: JobRecord) -> bool:
        """Return whether there are points enough to try."""
        return any(len(list_rounds(record, label)) >= FEWEST for label in list_labels(record))

    def evaluate(self, record: JobRecord) -> Section:
        """Return curves `law/<criterion>/...`, tables of laws, contenders, back-test, answers and
        forecasts, and the laws themselves.
        """
        by_label = {label: measure_points(record, label) for label in list_labels(record)}
        section = self.describe(by_label, asked_for=record.recipe.names_evaluations)
        reference = describe_unpruned([control.retrainings for control in record.controls])
        return section.model_copy(update={"notes": (*section.notes, *reference)})

    def describe(self, by_label: Mapping[str, LawPoints], *, asked_for: bool) -> Section:
        """Return the section of what was measured for each criterion; where nothing has a law, and
        the evaluation was `asked_for` by name, the first refusal is raised.
        """
        parts = _Parts()
        refusals: list[SecateurError] = []
        for label, points in by_label.items():
            try:
                law = points.fit()
            except REFUSALS as error:
                refusals.append(error)
                parts.notes.append(f"{label}: no law ({error.code}): {error.message}.")
                parts.refused.append(
                    {"criterion": label, "code": error.code, "reason": error.message}
                )
                continue
            parts.add(label, points, law, evaluation=self)
        if not parts.laws and asked_for and refusals:
            raise refusals[0]
        tables = {
            "laws": parts.laws,
            "contenders": parts.contenders,
            "back_test": parts.back_test,
            "answers": parts.answers,
            "forecasts": parts.forecasts,
            "criteria_without_a_law": parts.refused,
        }
        details: dict[str, Any] = {name: rows for name, rows in tables.items() if rows}
        if parts.raw:
            details[RAW] = parts.raw
        return Section(
            title="Scaling law",
            version=self.version,
            curves=parts.curves,
            notes=(*parts.notes, self._describe_bands(parts.seed_effects), *NOTES),
            details=details,
            units=UNITS,
            labels=LABELS,
            hidden=(RAW,) if parts.raw else (),
        )

    def _describe_bands(self, effects: Sequence[SeedEffect]) -> str:
        """The quantity that the bands are of, and the source of the effect of a seed in them."""
        if self.of == "curve":
            return BANDS[self.of]
        sources = dict.fromkeys(effect.describe() for effect in effects)
        return "; ".join((BANDS[self.of].removesuffix("."), *sources)) + "."


def describe_unpruned(retrainings: Sequence[int]) -> list[str]:
    """The control that the law takes for the unpruned network, where the job has several: they
    differ in the number of their retrainings.
    """
    if len(retrainings) < 2:
        return []
    fewest, most = min(retrainings), max(retrainings)
    return [
        f"e0 is the error of the dense control after {wording.count_of(fewest, 'retraining')}, for "
        f"all densities. Networks of later rounds were retrained up to {most} times: what the "
        "further retrainings gained or lost is part of the curve, as if pruning had done it."
    ]


class _Parts:
    """The parts of the section, gathered criterion by criterion."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.notes: list[str] = []
        self.raw: dict[str, Any] = {}
        self.seed_effects: list[SeedEffect] = []
        self.refused: list[dict[str, Any]] = []
        self.laws: list[dict[str, Any]] = []
        self.contenders: list[dict[str, Any]] = []
        self.back_test: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.forecasts: list[dict[str, Any]] = []

    def add(
        self,
        label: str,
        points: LawPoints,
        law: DensityLaw,
        *,
        evaluation: ScalingLaw,
    ) -> None:
        """Add the law of a criterion, and what it answers."""
        self.laws.append(_tabulate_law(label, law))
        self.seed_effects.append(law.seed_effect)
        selection, pair = self._add_contenders(label, points, law)
        self.raw[label] = {
            "criterion": points.criterion.model_dump(mode="json"),
            **pair.model_dump(mode="json"),
        }
        if law.back_test is not None:
            self.back_test += [
                {
                    "criterion": label,
                    "density": point.density,
                    "error_measured": point.measured,
                    "error_predicted": point.predicted,
                }
                for point in law.back_test.points
            ]
        confidence, of = evaluation.confidence, evaluation.of
        errors = evaluation.max_error or [
            min(law.unpruned_error + increase, 1.0) for increase in INCREASES
        ]
        answers = [answer_error(pair, error, confidence, of) for error in errors]
        self.answers += [{"criterion": label} | answer for answer in answers]
        sparsest = law.fit_range[0]
        halved = [sparsest / 2**k for k in range(1, HALVINGS + 1)]
        self.forecasts += [
            {"criterion": label} | forecast_error(pair, density, confidence, of)
            for density in [*evaluation.densities, *halved]
        ]
        self.curves |= _draw_curves(
            label, points, pair, confidence=confidence, of=of, answers=answers
        )
        self.notes += describe_law(label, law, selection, len(points.densities))
        plateau = law.describe_plateau()
        self.notes += [f"{label}: {plateau}"] if plateau else []
        self.notes += [f"{label}: {warning}." for warning in law.warnings]

    def _add_contenders(
        self, label: str, points: LawPoints, law: DensityLaw
    ) -> tuple[Selection, LawPair]:
        """Add the table of laws that know nothing of pruning beside the one that does, and pair
        the pruning law with the one that predicts left-out densities better.
        """
        densities, errors = points.average()
        selection, laws = compare_density_laws(
            densities,
            errors,
            law.unpruned_error,
            guessing_error=points.guessing_error,
            law=law,
        )
        self.contenders += [
            {
                "criterion": label,
                "law": contender.name,
                "parameters": contender.parameters,
                "missed_at_held_out_densities": contender.held_out,
                "missed_in_back_test": contender.back_test,
            }
            for contender in selection.contenders
        ]
        return selection, pair_laws(law, selection, laws)


def _draw_curves(
    label: str,
    points: LawPoints,
    pair: LawPair,
    *,
    confidence: float,
    of: BandTarget,
    answers: Sequence[dict[str, Any]],
) -> dict[str, Curve]:
    """The plot of one criterion: the law with its band, what was measured, and what it answers."""
    law = pair.law
    grid = _choose_grid(law)
    forecasts = pair.forecasts([float(d) for d in grid], confidence=confidence, of=of)
    band = [forecast.error for forecast in forecasts]

    def draw(
        x: Sequence[float], y: Sequence[Estimate], drawn: Literal["band", "points", "line"]
    ) -> Curve:
        y_label = f"test error, {label}"
        return Curve.over_sparsity(x, y, y_label=y_label, y_unit="fraction", drawn=drawn)

    curves = {
        f"law/{label}/law": draw([1 - float(d) for d in grid], band, "band"),
        f"law/{label}/measured": draw(
            [1 - density for density in points.densities],
            points.errors,
            "points",
        ),
    }
    reached = [answer for answer in answers if answer["density"]]
    if reached:
        curves[f"law/{label}/answers"] = draw(
            [1 - answer["density"] for answer in reached],
            [Estimate(value=answer["max_error"]) for answer in reached],
            "points",
        )
    # A plateau far above the band would squeeze everything else at the foot of the plot.
    if law.plateau <= 2 * max(error.high or error.value for error in band):
        ends_of_axis = [1 - float(grid[-1]), 1 - float(grid[0])]
        curves[f"law/{label}/plateau"] = draw(
            ends_of_axis, [Estimate(value=law.plateau)] * 2, "line"
        )
    ends = [density for density in law.transitions if grid[0] <= density < 1]
    if ends:
        curves[f"law/{label}/ends of the power law"] = draw(
            [1 - density for density in ends],
            [Estimate(value=float(law.curve(density))) for density in ends],
            "points",
        )
    return curves


def _answers_at(law: DensityLaw, density: float) -> bool:
    """Whether the points support an answer of the law at a density."""
    try:
        law.forecasts(density)
    except InsufficientPointsError:
        return False
    return True


def _choose_grid(law: DensityLaw) -> NDArray[np.float64]:
    """The densities at which a law is drawn: as far below the sparsest as it may extrapolate."""
    sparsest, densest = law.fit_range
    lowest = sparsest / 2**HALVINGS
    if not _answers_at(law, lowest):
        lowest = sparsest
    return np.geomspace(lowest, max(densest, 0.999), STEPS)


def _tabulate_law(label: str, law: DensityLaw) -> dict[str, Any]:
    """The row of a criterion in the table of laws."""
    upper, lower = law.transitions
    back_test = law.back_test
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
        "missed_in_back_test": None if back_test is None else back_test.mean_absolute,
    }


def describe_law(label: str, law: DensityLaw, selection: Selection, points: int) -> list[str]:
    """The fit, the back-test and the contest with other laws, in words."""
    misses = relative_misses(law.fit.residual_mean, law.fit.residual_sd)
    text = f"{label}: {wording.count_of(points, 'point')}; {misses}."
    back_test = law.back_test
    if back_test is not None:
        missed = sparser_misses(len(back_test.points), back_test.mean_absolute, back_test.bias)
        text += f" Back-test: fitted to the denser part, {missed}."
    if selection.best == "pruning":
        return [text]
    kind = "broken power law" if selection.best == "broken" else "power law"
    better = (
        f"{label}: a {kind} that knows nothing of pruning predicts densities left out better here, "
        "and answers between the measured densities; below them "
    )
    if not _answers_at(law, law.fit_range[0] / 2):
        return [text, f"{better}no law answers."]
    better += "the pruning law answers"
    if selection.best_beyond not in ("pruning", None):
        better += ", though it missed more of the sparser points in the back-test"
    return [text, f"{better}."]
