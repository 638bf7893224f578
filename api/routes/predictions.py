"""Predictions of a job's scaling law for densities that nobody ran."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from api.access import Id, Reader
from api.errors import Fault, Problem, build_problem
from api.http.bodies import read_json
from api.http.files import read_file
from api.http.pointers import parse
from api.routes.results import REPORT, find_file, read_files, require_ended
from api.schemas.predictions import FittedLaw, Prediction, Predictions, Question
from api.schemas.problem import describe_problems
from api.services import Services, ServicesDep
from tasks.store.jobs import is_parent
from tasks.store.tables import ResultFile

router = APIRouter(prefix="/v1/jobs/{id}", tags=["results"])
SECTION = "scaling_law"
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Question"},
                "example": {"max_error": 0.1},
            }
        },
    }
}


@router.post(
    "/predict",
    operation_id="predict",
    summary="Ask the scaling law of a finished job",
    openapi_extra=BODY,
    responses=describe_problems(400, 404, 409, 410, 413, 415, 422),
)
async def predict(id: Id, request: Request, services: ServicesDep, caller: Reader) -> Predictions:
    """Predict the errors at `densities`, or the smallest density with at most `max_error`.

    A family answers for each of its networks, or for those of `depth` and `width`; to `max_error`
    the network with the fewest parameters comes first. Its law can be asked while members run.

    The law is the one that the evaluation `scaling_law` fitted to the job's rounds; between them
    another one answers where it predicts left-out rounds better, and every answer names its law.
    Bands are of one more run under another seed, or with `of: curve` of the mean of many runs. A
    `max_error` below the error without pruning is answered by 422 `unreachable`, one beyond the
    range of the job's points by 422 `insufficient_points`.
    """
    job, files = await run_in_threadpool(read_files, services, caller.project, id)
    if not (is_parent(job) and any(file.checkpoint == REPORT for file in files)):
        require_ended(job)
    question = parse(Question, await read_json(request, services))
    return await run_in_threadpool(_answer, id, question, files, services)


def _answer(
    id: str, question: Question, files: list[ResultFile], services: Services
) -> Predictions:
    from pruning.errors import SecateurError
    from pruning.laws.pair import read_law_pair
    from pruning.laws.queries import find_smallest_density, forecast_error

    row = find_file(files, REPORT, "json")
    report = {} if row is None else json.loads(read_file(services.artifacts, row))
    if report.get("type") == "family":
        return _answer_family(id, question, report)
    _refuse_family_fields(question)
    label, document = _find_law(id, report, question.criterion)
    laws = read_law_pair(document)
    law = laws.law
    if question.max_error is None:
        rows = [
            forecast_error(laws, density, question.confidence, question.of)
            for density in question.densities or ()
        ]
    else:
        try:
            answered = find_smallest_density(
                laws, question.max_error, question.confidence, question.of
            )
        except SecateurError as error:
            raise build_problem([Fault("/max_error", error.code, error.message)]) from None
        rows = [answered]
    return Predictions(
        criterion=label,
        confidence=question.confidence,
        of=question.of,
        predictions=[Prediction(**row) for row in rows],
        law=FittedLaw(
            unpruned_error=law.unpruned_error,
            gamma=law.gamma,
            p=law.p,
            plateau=law.plateau,
            points=len(law.points),
            sigma=law.sigma,
            seed_sd=law.seed_effect.sd,
            seed_sd_from="trials" if law.seed_effect.degrees_of_freedom else "paper",
            fit_range=law.fit_range,
            warnings=list(law.warnings),
        ),
    )


def _refuse_family_fields(question: Question) -> None:
    faults = []
    for name in ("depth", "width"):
        if getattr(question, name) is not None:
            message = f"{name} is asked of families; this job has one network"
            faults.append(Fault(f"/{name}", "invalid_parameter", message))
    if faults:
        raise build_problem(faults)


def _answer_family(id: str, question: Question, report: dict[str, Any]) -> Predictions:
    from pruning.errors import ParameterError, SecateurError
    from pruning.laws.family_queries import (
        answer_error,
        forecast_networks,
        list_family_candidates,
        read_family_law,
    )

    law = read_family_law(report)
    if law is None:
        reasons = [failure["message"] for failure in report["failures"]] + list(report["warnings"])
        raise Problem(
            409, "no_scaling_law", f"family {id} has no scaling law: {'; '.join(reasons)}"
        )
    if question.criterion is not None:
        message = "a family has one law, of all its networks; leave it out"
        raise build_problem([Fault("/criterion", "unknown_criterion", message)])
    try:
        networks = list_family_candidates(report, question.depth, question.width)
        if question.max_error is None:
            rows = forecast_networks(
                law, networks, question.densities or (), question.confidence, question.of
            )
        else:
            rows = answer_error(law, networks, question.max_error, question.confidence, question.of)
    except ParameterError as error:
        raise build_problem([Fault(error.pointer or "", error.code, error.message)]) from None
    except SecateurError as error:
        raise build_problem([Fault("/max_error", error.code, error.message)]) from None
    return Predictions(
        criterion="family",
        confidence=question.confidence,
        of=question.of,
        predictions=[Prediction(**row) for row in rows],
        law=FittedLaw(
            unpruned_error=None,
            gamma=law.gamma,
            p=law.p,
            plateau=law.plateau,
            phi=law.phi,
            psi=law.psi,
            points=len(law.points),
            networks=len(law.networks),
            sigma=law.sigma,
            seed_sd=law.seed_effect.sd,
            seed_sd_from="trials" if law.seed_effect.degrees_of_freedom else "paper",
            fit_range=law.fit_range["density"],
            warnings=list(law.warnings),
        ),
    )


def _find_law(id: str, report: dict[str, Any], criterion: str | None) -> tuple[str, dict[str, Any]]:
    """Return the label and the law of a criterion.

    Raises a 409 when the report has no law, and a 422 when it is not clear which law is meant.
    """
    section = report.get("sections", {}).get(SECTION, {})
    laws: dict[str, Any] = section.get("details", {}).get("raw_laws", {})
    if not laws:
        reasons = _list_reasons(report, section)
        detail = f"job {id} has no scaling law: {'; '.join(reasons)}"
        raise Problem(409, "no_scaling_law", detail)
    if criterion is None and len(laws) == 1:
        criterion = next(iter(laws))
    if criterion not in laws:
        problem = "say which criterion's law" if criterion is None else f"no law of {criterion!r}"
        message = f"{problem}; there are {', '.join(sorted(laws))}"
        raise build_problem([Fault("/criterion", "unknown_criterion", message)])
    return criterion, laws[criterion]


def _list_reasons(report: dict[str, Any], section: dict[str, Any]) -> list[str]:
    """Return why a report has no law."""
    reasons = [
        failure["message"] for failure in report.get("failures", ()) if failure["name"] == SECTION
    ]
    reasons += [note for note in section.get("notes", ()) if ": no law (" in note]
    return reasons or ["it has too few rounds, or its evaluations leave scaling_law out"]
