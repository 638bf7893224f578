"""What a job's scaling law says of densities that nobody ran."""

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
from api.routes.results import REPORT, read_files, require_ended
from api.schemas.predictions import FittedLaw, Prediction, Predictions, Question
from api.schemas.problem import describe_problems
from api.services import Services, ServicesDep
from tasks.store.jobs import is_family
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
    """Errors at `densities` with bands, or the smallest density whose error is at most `max_error`.

    Of a family: of every network, or those of `depth` and `width`; for `max_error` the fewest
    parameters first. Its law can be asked while members run, too.

    The law is the one that the evaluation `scaling_law` fitted to the job's rounds. A `max_error`
    below the error without pruning is answered by 422 `unreachable`, one beyond what the job's
    points can tell by 422 `insufficient_points`.
    """
    job, files = await run_in_threadpool(read_files, services, caller.project, id)
    if not (is_family(job) and any(file.checkpoint == REPORT for file in files)):
        require_ended(job)
    question = parse(Question, await read_json(request, services))
    return await run_in_threadpool(_answer, id, question, files, services)


def _answer(
    id: str, question: Question, files: list[ResultFile], services: Services
) -> Predictions:
    from pruning.errors import SecateurError
    from pruning.laws.density import DensityLaw
    from pruning.laws.queries import find_smallest_density, forecast_error

    row = next((file for file in files if (file.checkpoint, file.format) == (REPORT, "json")), None)
    report = {} if row is None else json.loads(read_file(services.artifacts, row))
    if report.get("type") == "family":
        return _answer_family(id, question, report)
    foreign = [name for name in ("depth", "width") if getattr(question, name) is not None]
    if foreign:
        raise build_problem(
            [
                Fault(
                    f"/{name}",
                    "invalid_parameter",
                    f"{name} is asked of families; this job has one network",
                )
                for name in foreign
            ]
        )
    label, document = _find_law(id, report, question.criterion)
    law = DensityLaw.model_validate(document["law"])
    if question.max_error is None:
        rows = [
            forecast_error(law, density, question.confidence)
            for density in question.densities or ()
        ]
    else:
        try:
            rows = [find_smallest_density(law, question.max_error, question.confidence)]
        except SecateurError as error:
            raise build_problem([Fault("/max_error", error.code, error.message)]) from None
    found = [Prediction(**row) for row in rows]
    return Predictions(
        criterion=label,
        confidence=question.confidence,
        predictions=found,
        law=FittedLaw(
            unpruned_error=law.unpruned_error,
            gamma=law.gamma,
            p=law.p,
            plateau=law.plateau,
            points=len(law.points),
            sigma=law.sigma,
            fit_range=law.fit_range,
            warnings=list(law.warnings),
        ),
    )


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
        raise build_problem(
            [
                Fault(
                    "/criterion",
                    "unknown_criterion",
                    "a family has one law, of all its networks; leave it out",
                )
            ]
        )
    try:
        networks = list_family_candidates(report, question.depth, question.width)
        if question.max_error is None:
            rows = forecast_networks(law, networks, question.densities or (), question.confidence)
        else:
            rows = answer_error(law, networks, question.max_error, question.confidence)
    except ParameterError as error:
        raise build_problem([Fault(error.pointer or "", error.code, error.message)]) from None
    except SecateurError as error:
        raise build_problem([Fault("/max_error", error.code, error.message)]) from None
    ends = law.fit_range["density"]
    return Predictions(
        criterion="family",
        confidence=question.confidence,
        predictions=[Prediction(**one) for one in rows],
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
            fit_range=ends,
            warnings=list(law.warnings),
        ),
    )


def _find_law(id: str, report: dict[str, Any], criterion: str | None) -> tuple[str, dict[str, Any]]:
    """The label and the law that was asked for, beside its criterion; 409 where there is none, 422
    where it is not clear.
    """
    section = report.get("sections", {}).get(SECTION, {})
    laws: dict[str, Any] = section.get("details", {}).get("raw_laws", {})
    if not laws:
        reasons = [
            failure["message"]
            for failure in report.get("failures", ())
            if failure["name"] == SECTION
        ]
        reasons += [note for note in section.get("notes", ()) if ": no law (" in note]
        raise Problem(
            409,
            "no_scaling_law",
            f"job {id} has no scaling law: "
            + (
                "; ".join(reasons)
                or "it has too few rounds, or its evaluations leave scaling_law out"
            ),
        )
    if criterion is None and len(laws) == 1:
        criterion = next(iter(laws))
    if criterion not in laws:
        said = "say which criterion's law" if criterion is None else f"no law of {criterion!r}"
        raise build_problem(
            [
                Fault(
                    "/criterion",
                    "unknown_criterion",
                    f"{said}; there are {', '.join(sorted(laws))}",
                )
            ]
        )
    return criterion, laws[criterion]
