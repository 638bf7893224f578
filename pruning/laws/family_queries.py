"""Questions to the law of a family, from its report: errors of its networks at densities, and the
smallest for an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruning.errors import ParameterError
from pruning.laws.answers import Answer, Candidate, find_smallest, forecast_errors
from pruning.laws.joint import JointLaw

ROWS = 10_000
"""Of one question."""


def read_family_law(report: Mapping[str, Any]) -> JointLaw | None:
    """The joint law that a family's report holds."""
    return None if report["law"] is None else JointLaw.model_validate(report["law"])


def list_family_candidates(
    report: Mapping[str, Any], depth: float | None, width: float | None
) -> list[Candidate]:
    """The networks of a report that have an unpruned error; of one depth or one width where they
    are given.
    """
    every = [
        Candidate.model_validate({name: one[name] for name in Candidate.model_fields})
        for one in report["candidates"]
    ]
    found = [one for one in every if depth in (None, one.depth) and width in (None, one.width)]
    if not every:
        raise ParameterError(
            "no candidate was run, and the networks that were are too few to tell their unpruned "
            "errors"
        )
    if not found:
        of_depth = depth is None or any(one.depth == depth for one in every)
        there = ", ".join(f"{one.depth:g} x {one.width:g}" for one in every)
        raise ParameterError(
            f"no network of depth {_any(depth)} and width {_any(width)}; there are (depth x "
            f"width) {there}",
            pointer="/width" if of_depth else "/depth",
        )
    return found


def find_network(report: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Candidate | None:
    """The network of a report whose architecture has these arguments; `None` where the family does
    not know it.
    """
    for row in report["candidates"]:
        if dict(row["kwargs"]) == dict(kwargs):
            return Candidate.model_validate({name: row[name] for name in Candidate.model_fields})
    return None


def _any(size: float | None) -> str:
    return "any" if size is None else f"{size:g}"


def forecast_networks(
    law: JointLaw, networks: Sequence[Candidate], densities: Sequence[float], confidence: float
) -> list[dict[str, Any]]:
    """Every network at every density, with the band of the law's curve, or why the law does not
    tell.

    Raises `ParameterError` for more than ROWS of them.
    """
    if len(networks) * len(densities) > ROWS:
        raise ParameterError(
            f"{len(densities)} densities of {len(networks)} networks; at most {ROWS} together: "
            "say which "
            "depth and width, or ask for fewer",
            pointer="/densities",
        )
    return [row for one in networks for row in _told(law, one, list(densities), confidence)]


def _told(
    law: JointLaw, one: Candidate, densities: list[float], confidence: float
) -> list[dict[str, Any]]:
    """One network: all densities that the law does not refuse at once."""
    refusals = law.refusals(one.depth, one.width, densities, one.unpruned_error)
    told = iter(
        forecast_errors(
            law,
            one,
            [d for d, no in zip(densities, refusals, strict=True) if no is None],
            confidence,
            of="mean",
        )
    )
    rows = []
    for density, refusal in zip(densities, refusals, strict=True):
        row = _at(one, density)
        if refusal is not None:
            rows.append(row | {"remark": f"{refusal.code}: {refusal.message}"})
            continue
        found = next(told)
        rows.append(
            row
            | {
                "error": found.error.model_dump(),
                "extrapolated": found.extrapolated,
                "remark": "; ".join(found.notes),
            }
        )
    return rows


def _at(one: Candidate, density: float) -> dict[str, Any]:
    return _row(one) | {
        "density": density,
        "sparsity": 1 - density,
        "error": None,
        "extrapolated": None,
        "remark": "",
        "parameters": one.parameters - (1 - density) * one.prunable,
    }


def answer_error(
    law: JointLaw, networks: Sequence[Candidate], error: float, confidence: float
) -> list[dict[str, Any]]:
    """The networks at an error of at most so much, the fewest parameters first, with the band of
    one more run.

    Raises `UnreachableError` and `InsufficientPointsError` where there is none.
    """
    found = find_smallest(law, error, networks, confidence=confidence)
    return [_answer(one) for one in (found.best, *found.others)]


def _answer(one: Answer) -> dict[str, Any]:
    return _row(one.candidate) | {
        "density": one.density,
        "sparsity": 1 - one.density,
        "parameters": one.parameters,
        "error": one.error.model_dump(),
        "extrapolated": one.extrapolated,
        "remark": "; ".join(one.notes),
    }


def _row(one: Candidate) -> dict[str, Any]:
    return {"depth": one.depth, "width": one.width, "unpruned_error": one.unpruned_error}
