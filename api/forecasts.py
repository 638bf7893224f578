"""What the laws of earlier jobs say of a job before it runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.http.files import read_file
from api.schemas.predictions import Foreseen
from api.services import Services
from api.submission import dump_spec
from pruning.schemas.job import JobSpec
from tasks.artifacts import MissingArtifactError
from tasks.store import families, jobs
from tasks.store.tables import Job, Model, ResultFile

JOBS_SEARCHED, REPORTS_READ = 1000, 50
"""Among so many jobs that succeeded last, alike ones are looked for; and into the reports of so
many of these.
"""
REPORT = ("report", "json")
if TYPE_CHECKING:
    from pruning.laws.density import DensityLaw

CONFIDENCE = 0.9
METHODS = {"imp": "magnitude", "synflow": "synflow"}
FAMILY = "by the joint law of a family"
WITHOUT_EFFECT = {"targets", "criterion", "evaluations", "gates", "shifts", "seed"}
"""Fields of a recipe that do not move the error at a density."""
logger = logging.getLogger(__name__)


def foresee(services: Services, project: str, spec: JobSpec) -> list[Foreseen]:
    """The error of every requested sparsity of every criterion that an earlier job of the project
    has a law of.

    An earlier job counts where network (architecture and arguments), dataset and criterion are the
    same; of several the newest. Where there is none, a family counts that knows the network,
    measured or not. What the law does not tell is said.
    """
    from pruning.laws.queries import forecast_error

    wanted = {
        json.dumps(one.model_dump(mode="json"), sort_keys=True): one.name
        for one in spec.recipe().criteria
    }
    found: list[Foreseen] = []
    with services.store.read() as session:
        rows = [
            (row, file)
            for row in _list_alike_jobs(session, project, spec)
            if (file := _find_report(session, row)) is not None
        ]
    for row, file in rows:
        if not wanted:
            break
        different = _describe_differences(row.spec, spec, "that job")
        for label, criterion, law in _read_laws(services, file):
            if wanted.pop(json.dumps(criterion, sort_keys=True), None) is None:
                continue
            for sparsity in spec.targets.sparsity:
                told = forecast_error(law, 1 - sparsity, CONFIDENCE)
                remark = "; ".join(filter(None, (told["remark"], different)))
                found.append(
                    Foreseen(
                        **told | {"sparsity": sparsity, "remark": remark},
                        criterion=label,
                        job=row.id,
                    )
                )
    return found + (_foresee_by_families(services, project, spec, wanted) if wanted else [])


def _foresee_by_families(
    services: Services, project: str, spec: JobSpec, wanted: dict[str, str]
) -> list[Foreseen]:
    """What the joint laws of families say of the criteria that no single job has a law of."""
    from pruning.laws.family_queries import find_network, forecast_networks, read_family_law

    found: list[Foreseen] = []
    with services.store.read() as session:
        network = _identify_network(session, dump_spec(spec))
        rows = [
            (
                row,
                file,
                _describe_differences(_find_largest_member_spec(session, row), spec, "its members"),
            )
            for row in jobs.read_page(
                session, project, limit=REPORTS_READ, cursor=None, status="succeeded", kind="family"
            ).data
            if network is not None
            and row.spec["model"]["architecture"] == network[0]
            and _identify_dataset(row.spec) == _identify_dataset(dump_spec(spec))
            and (file := _find_report(session, row)) is not None
        ]
    for row, file, different in rows:
        criterion = json.dumps(
            {"name": METHODS[row.spec.get("method", "imp")], "params": {}}, sort_keys=True
        )
        if criterion not in wanted or network is None:
            continue
        try:
            report = json.loads(read_file(services.artifacts, file))
            law, member = read_family_law(report), find_network(report, json.loads(network[1]))
        except (MissingArtifactError, OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("the law of family %s cannot be read: %s", row.id, error)
            continue
        if law is None or member is None:
            continue
        label = wanted.pop(criterion)
        for told in forecast_networks(
            law, [member], [1 - one for one in spec.targets.sparsity], CONFIDENCE
        ):
            remark = "; ".join(filter(None, (told["remark"], FAMILY, different)))
            found.append(Foreseen(**told | {"remark": remark}, criterion=label, job=row.id))
    return found


def _read_laws(services: Services, file: ResultFile) -> list[tuple[str, Any, DensityLaw]]:
    """Label, criterion and law, of a report that can still be read; none of another."""
    from pruning.laws.density import DensityLaw

    try:
        report = json.loads(read_file(services.artifacts, file))
        kept = (
            report.get("sections", {}).get("scaling_law", {}).get("details", {}).get("raw_laws", {})
        )
        return [
            (label, one["criterion"], DensityLaw.model_validate(one["law"]))
            for label, one in kept.items()
        ]
    except (
        MissingArtifactError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        logger.warning("the laws of job %s cannot be read: %s", file.job_id, error)
        return []


def _list_alike_jobs(session: Session, project: str, spec: JobSpec) -> Iterator[Job]:
    """Jobs that succeeded with the same network and dataset, the newest first."""
    network, dataset = (
        _identify_network(session, dump_spec(spec)),
        _identify_dataset(dump_spec(spec)),
    )
    newest = jobs.read_page(
        session, project, limit=JOBS_SEARCHED, cursor=None, status="succeeded"
    ).data
    alike = (
        row
        for row in newest
        if _identify_dataset(row.spec) == dataset
        and _identify_network(session, row.spec) == network
    )
    return islice(alike, REPORTS_READ)


def _identify_network(session: Session, spec: dict[str, Any]) -> tuple[str, str] | None:
    """The architecture with its arguments; None where the model was deleted."""
    model = spec["model"]
    if model.get("id") is None:
        return str(model["architecture"]), json.dumps(model.get("kwargs", {}), sort_keys=True)
    row = session.get(Model, model["id"])
    return None if row is None else (row.architecture, json.dumps(row.kwargs, sort_keys=True))


def _identify_dataset(spec: dict[str, Any]) -> tuple[Any, Any]:
    return spec["dataset"].get("id"), spec["dataset"].get("builtin")


def _find_largest_member_spec(session: Session, family: Job) -> dict[str, Any] | None:
    """The spec of a member's job that had the most training images: the law answers for these."""
    every = families.list_members(session, family.id)
    return max(every, key=lambda one: one[0].member["fraction"])[1].spec if every else None


def _describe_differences(earlier: dict[str, Any] | None, spec: JobSpec, who: str) -> str:
    """What else than targets and questions is not the same, in words; nothing where all is."""
    if earlier is None:
        return f"{who} were deleted"
    try:
        before = JobSpec.model_validate(earlier)
    except ValidationError:
        return f"{who}: of an earlier version"
    said = [f"{who} had other weights"] if before.model.id != spec.model.id else []
    one, other = (_dump_compared_fields(each) for each in (before, spec))
    fields = [name for name in other if one[name] != other[name]]
    return "; ".join(said + ([f"{who} differed in {', '.join(fields)}"] if fields else []))


def _dump_compared_fields(spec: JobSpec) -> dict[str, Any]:
    """What moves the error at a density; all images are all images, however they would be drawn."""
    found = spec.recipe().model_dump(mode="json", exclude=WITHOUT_EFFECT)
    if found["limit"]["train"] is None and found["limit"]["test"] is None:
        found["limit"] = None
    return found


def _find_report(session: Session, row: Job) -> ResultFile | None:
    return next(
        (
            file
            for file in jobs.list_result_files(session, row.id)
            if (file.checkpoint, file.format) == REPORT
        ),
        None,
    )
