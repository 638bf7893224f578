"""Questions to the law of a family, from its report: errors of its networks at densities, and the
smallest network for an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruning.errors import ParameterError
from pruning.laws.answers import Answer, Candidate, find_smallest, forecast_errors
from pruning.laws.bands import BandTarget
from pruning.laws.joint import JointLaw

ROWS = 10_000
"""The most rows of one question."""
JOINT = "joint"
"""The name of the law beside its answers."""


def read_family_law(report: Mapping[str, Any]) -> JointLaw | None:
    """The joint law that a family's report holds."""
    return None if report["law"] is None else JointLaw.model_validate(report["law"])


def list_family_candidates(
    report: Mapping[str, Any], depth: float | None, width: float | None
) -> list[Candidate]:
    """The networks of a report that have an unpruned error, of one depth or one width if given."""
    candidates = [_read_candidate(row) for row in report["candidates"]]
    matching = [
        candidate
        for candidate in candidates
        if depth in (None, candidate.depth) and width in (None, candidate.width)
    ]
    if not candidates:
        raise ParameterError(
            "no candidate was run, and the networks that were are too few to predict the unpruned "
            "errors of others"
        )
    if not matching:
        depth_exists = depth is None or any(candidate.depth == depth for candidate in candidates)
        sizes = ", ".join(f"{candidate.depth:g} x {candidate.width:g}" for candidate in candidates)
        raise ParameterError(
            f"no network of depth {_format_size(depth)} and width {_format_size(width)}; there are "
            f"(depth x width) {sizes}",
            pointer="/width" if depth_exists else "/depth",
        )
    return matching


def find_network(report: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Candidate | None:
    """The network of a report whose architecture has these arguments; `None` where the family does
    not know it.
    """
    for row in report["candidates"]:
        if dict(row["kwargs"]) == dict(kwargs):
            return _read_candidate(row)
    return None


def _read_candidate(row: Mapping[str, Any]) -> Candidate:
    return Candidate.model_validate({name: row[name] for name in Candidate.model_fields})


def _format_size(size: float | None) -> str:
    return "any" if size is None else f"{size:g}"


def forecast_networks(
    law: JointLaw,
    networks: Sequence[Candidate],
    densities: Sequence[float],
    confidence: float,
    of: BandTarget = "run",
) -> list[dict[str, Any]]:
    """Every network at every density, with the band of one more run or of the law's curve, or why
    the law refuses.

    Raises `ParameterError` for more than ROWS of them.
    """
    if len(networks) * len(densities) > ROWS:
        raise ParameterError(
            f"{len(densities)} densities of {len(networks)} networks; at most {ROWS} together: "
            "say which depth and width, or ask for fewer",
            pointer="/densities",
        )
    rows = []
    for network in networks:
        rows += _forecast_network(law, network, list(densities), confidence, of)
    return rows


def _forecast_network(
    law: JointLaw,
    network: Candidate,
    densities: list[float],
    confidence: float,
    of: BandTarget,
) -> list[dict[str, Any]]:
    """The rows of one network; all densities that the law does not refuse are predicted at once."""
    refusals = law.refusals(network.depth, network.width, densities, network.unpruned_error)
    answerable = [
        density for density, refusal in zip(densities, refusals, strict=True) if refusal is None
    ]
    forecasts = iter(forecast_errors(law, network, answerable, confidence, of))
    rows = []
    for density, refusal in zip(densities, refusals, strict=True):
        row = _start_row(network, density)
        if refusal is not None:
            rows.append(row | {"remark": f"{refusal.code}: {refusal.message}"})
            continue
        forecast = next(forecasts)
        predicted = {
            "error": forecast.error.model_dump(),
            "extrapolated": forecast.extrapolated,
            "law": JOINT,
            "remark": "; ".join(forecast.notes),
        }
        rows.append(row | predicted)
    return rows


def _start_row(network: Candidate, density: float) -> dict[str, Any]:
    """The row of a network at a density, without a predicted error yet."""
    return _describe_network(network) | {
        "density": density,
        "sparsity": 1 - density,
        "error": None,
        "extrapolated": None,
        "law": None,
        "remark": "",
        "parameters": network.parameters - (1 - density) * network.prunable,
    }


def answer_error(
    law: JointLaw,
    networks: Sequence[Candidate],
    error: float,
    confidence: float,
    of: BandTarget = "run",
) -> list[dict[str, Any]]:
    """The networks at an error of at most `error`, the fewest parameters first, with the band of
    one more run or of the law's curve.

    Raises `UnreachableError` and `InsufficientPointsError` where there is none.
    """
    answers = find_smallest(law, error, networks, confidence=confidence, of=of)
    return [_describe_answer(answer) for answer in (answers.best, *answers.others)]


def _describe_answer(answer: Answer) -> dict[str, Any]:
    return _describe_network(answer.candidate) | {
        "density": answer.density,
        "sparsity": 1 - answer.density,
        "parameters": answer.parameters,
        "error": answer.error.model_dump(),
        "extrapolated": answer.extrapolated,
        "law": JOINT if answer.density < 1 else None,
        "remark": "; ".join(answer.notes),
    }


def _describe_network(network: Candidate) -> dict[str, Any]:
    return {
        "depth": network.depth,
        "width": network.width,
        "unpruned_error": network.unpruned_error,
    }
