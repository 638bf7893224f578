"""Questions to the law of one network, answered as records: a refusal becomes a remark."""

from __future__ import annotations

from typing import Any

from pruning.errors import CurveError, InsufficientPointsError, UnreachableError
from pruning.laws.density import DensityLaw
from pruning.schemas.report import Estimate

# The errors by which a law refuses a question.
REFUSALS = (CurveError, InsufficientPointsError, UnreachableError)


def answer_error(law: DensityLaw, error: float, confidence: float) -> dict[str, Any]:
    """The smallest density whose error is at most `error`, and the error there; or the refusal."""
    row: dict[str, Any] = {
        "max_error": error,
        "density": None,
        "sparsity": None,
        "error": None,
        "remark": "",
    }
    try:
        return row | find_smallest_density(law, error, confidence)
    except REFUSALS as refusal:
        return row | {"remark": f"{refusal.code}: {refusal.message}"}


def find_smallest_density(law: DensityLaw, error: float, confidence: float) -> dict[str, Any]:
    """The smallest density whose error is at most `error`, and the error there; raises refusals.

    The law lies a little above the observed unpruned error at density 1: where only that error is
    small enough, it is the answer.
    """
    density = law.density_for(error)
    if density <= 0:
        return {
            "density": 0.0,
            "sparsity": 1.0,
            "error": None,
            "extrapolated": None,
            "remark": "any density will do: guessing is good enough",
        }
    if density >= 1:
        return {
            "density": 1.0,
            "sparsity": 0.0,
            "error": Estimate(value=law.unpruned_error, unit="fraction").model_dump(),
            "extrapolated": False,
            "remark": "only the network without pruning, with its measured error",
        }
    return forecast_error(law, density, confidence)


def forecast_error(law: DensityLaw, density: float, confidence: float) -> dict[str, Any]:
    """The error at a density with its band, or the refusal."""
    row: dict[str, Any] = {
        "density": density,
        "sparsity": 1 - density,
        "error": None,
        "extrapolated": None,
        "remark": "",
    }
    try:
        (forecast,) = law.forecasts(density, confidence=confidence)
    except REFUSALS as refusal:
        return row | {"remark": f"{refusal.code}: {refusal.message}"}
    predicted = {
        "error": forecast.error.model_dump(),
        "extrapolated": forecast.extrapolated,
        "remark": "; ".join(forecast.notes),
    }
    return row | predicted
