"""Questions to the law of one network, answered as records: a refusal becomes a remark."""

from __future__ import annotations

from typing import Any

from pruning.errors import CurveError, InsufficientPointsError, UnreachableError
from pruning.laws.bands import BandTarget
from pruning.laws.pair import LawPair
from pruning.schemas.report import Estimate

# The errors by which a law refuses a question.
REFUSALS = (CurveError, InsufficientPointsError, UnreachableError)


def answer_error(
    laws: LawPair, error: float, confidence: float, of: BandTarget = "run"
) -> dict[str, Any]:
    """The smallest density whose error is at most `error`, and the error there; or the refusal."""
    row: dict[str, Any] = {
        "max_error": error,
        "density": None,
        "sparsity": None,
        "error": None,
        "remark": "",
    }
    try:
        return row | find_smallest_density(laws, error, confidence, of)
    except REFUSALS as refusal:
        return row | {"remark": f"{refusal.code}: {refusal.message}"}


def find_smallest_density(
    laws: LawPair, error: float, confidence: float, of: BandTarget = "run"
) -> dict[str, Any]:
    """The smallest density whose error is at most `error`, and the error there; raises refusals.

    The law lies a little above the observed unpruned error at density 1: where only that error is
    small enough, it is the answer.
    """
    density = laws.density_for(error)
    if density <= 0:
        return {
            "density": 0.0,
            "sparsity": 1.0,
            "error": None,
            "extrapolated": None,
            "law": None,
            "remark": "any density will do: guessing is good enough",
        }
    if density >= 1:
        return {
            "density": 1.0,
            "sparsity": 0.0,
            "error": Estimate(value=laws.law.unpruned_error, unit="fraction").model_dump(),
            "extrapolated": False,
            "law": None,
            "remark": "only the network without pruning, with its measured error",
        }
    return forecast_error(laws, density, confidence, of)


def forecast_error(
    laws: LawPair, density: float, confidence: float, of: BandTarget = "run"
) -> dict[str, Any]:
    """The error at a density with its band and the name of the law, or the refusal."""
    row: dict[str, Any] = {
        "density": density,
        "sparsity": 1 - density,
        "error": None,
        "extrapolated": None,
        "law": None,
        "remark": "",
    }
    try:
        (forecast,) = laws.forecasts([density], confidence=confidence, of=of)
    except REFUSALS as refusal:
        return row | {"remark": f"{refusal.code}: {refusal.message}"}
    predicted = {
        "error": forecast.error.model_dump(),
        "extrapolated": forecast.extrapolated,
        "law": forecast.law,
        "remark": "; ".join(forecast.notes),
    }
    return row | predicted
