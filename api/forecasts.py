"""Forecasts of a job before it runs, by the scaling laws of earlier jobs."""

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

if TYPE_CHECKING:
    from pruning.laws.pair import LawPair

JOBS_SEARCHED = 1000
"""The number of jobs that succeeded last, among which similar ones are looked for."""
REPORTS_READ = 50
"""The largest number of similar jobs whose reports are read."""
REPORT = ("report", "json")
CONFIDENCE = 0.9
METHODS = {"imp": "magnitude", "synflow": "synflow"}
"""The criterion of a single job that prunes as a method of families does."""
FAMILY_REMARK = "by the joint law of a family"
WITHOUT_EFFECT = {"targets", "criterion", "evaluations", "gates", "shifts", "seed"}
"""Fields of a recipe that do not move the error at a density."""
logger = logging.getLogger(__name__)


def foresee(services: Services, project: str, spec: JobSpec) -> list[Foreseen]:
    """Return the error of every requested sparsity, for every criterion whose law is known.

    A law counts when it comes from an earlier job of the project with the same network
    (architecture and arguments), dataset and criterion; the newest is taken. Where there is none,
    a family counts that knows the network, measured or not. A remark says what the law does not
    tell.
    """
    from pruning.laws.queries import forecast_error

    if spec.targets.sparsity is None:
        return []  # how sparse a network is within a budget is known when its weights are scored
    # The criteria without a law yet: their JSON, and their name.
    open_criteria = {
        json.dumps(criterion.model_dump(mode="json"), sort_keys=True): criterion.name
        for criterion in spec.recipe().criteria
    }
    forecasts: list[Foreseen] = []
    with services.store.read() as session:
        similar_jobs = [
            (row, _find_report(session, row)) for row in _list_alike_jobs(session, project, spec)
        ]
    for row, file in similar_jobs:
        if file is None:
            continue
        if not open_criteria:
            break
        differences = _describe_differences(row.spec, spec, "that job")
        for label, criterion, law in _read_laws(services, file):
            if open_criteria.pop(json.dumps(criterion, sort_keys=True), None) is None:
                continue
            for sparsity in spec.targets.sparsity:
                forecast = forecast_error(law, 1 - sparsity, CONFIDENCE)
                forecast["sparsity"] = sparsity
                forecast["remark"] = _join_remarks(forecast["remark"], differences)
                forecasts.append(Foreseen(**forecast, criterion=label, job=row.id))
    if open_criteria:
        forecasts += _foresee_by_families(services, project, spec, open_criteria)
    return forecasts


def _join_remarks(*remarks: str) -> str:
    return "; ".join(remark for remark in remarks if remark)


def _foresee_by_families(
    services: Services, project: str, spec: JobSpec, open_criteria: dict[str, str]
) -> list[Foreseen]:
    """Return the forecasts by the joint laws of families, for the criteria without another law."""
    from pruning.laws.family_queries import find_network, forecast_networks, read_family_law

    densities = [1 - sparsity for sparsity in spec.targets.sparsity or ()]
    forecasts: list[Foreseen] = []
    with services.store.read() as session:
        network = _identify_network(session, dump_spec(spec))
        families_found = [] if network is None else _list_families(session, project, spec, network)
    for row, file, differences in families_found:
        method = {"name": METHODS[row.spec.get("method", "imp")], "params": {}}
        criterion = json.dumps(method, sort_keys=True)
        if criterion not in open_criteria or network is None:
            continue
        try:
            report = json.loads(read_file(services.artifacts, file))
            law = read_family_law(report)
            member = find_network(report, json.loads(network[1]))
        except (MissingArtifactError, OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("the law of family %s cannot be read: %s", row.id, error)
            continue
        if law is None or member is None:
            continue
        label = open_criteria.pop(criterion)
        for forecast in forecast_networks(law, [member], densities, CONFIDENCE):
            forecast["remark"] = _join_remarks(forecast["remark"], FAMILY_REMARK, differences)
            forecasts.append(Foreseen(**forecast, criterion=label, job=row.id))
    return forecasts


def _list_families(
    session: Session, project: str, spec: JobSpec, network: tuple[str, str]
) -> list[tuple[Job, ResultFile, str]]:
    """Return the families of this architecture and dataset that have a report.

    The text says what the job does otherwise than their members.
    """
    dataset = _identify_dataset(dump_spec(spec))
    filters = jobs.JobFilter(status="succeeded", kind="family")
    page = jobs.read_page(session, project, limit=REPORTS_READ, cursor=None, filters=filters)
    rows = []
    for row in page.data:
        if row.spec["model"]["architecture"] != network[0]:
            continue
        file = _find_report(session, row)
        if file is None or _identify_dataset(row.spec) != dataset:
            continue
        member_spec = _find_largest_member_spec(session, row)
        rows.append((row, file, _describe_differences(member_spec, spec, "its members")))
    return rows


def _read_laws(services: Services, file: ResultFile) -> list[tuple[str, Any, LawPair]]:
    """Return label, criterion and laws of each law in a report; none if it cannot be read."""
    from pruning.laws.pair import read_law_pair

    try:
        report = json.loads(read_file(services.artifacts, file))
        section = report.get("sections", {}).get("scaling_law", {})
        raw_laws = section.get("details", {}).get("raw_laws", {})
        return [
            (label, entry["criterion"], read_law_pair(entry)) for label, entry in raw_laws.items()
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
    """Return an iterator over similar jobs: they succeeded with the same network and dataset.

    The newest comes first.
    """
    document = dump_spec(spec)
    network = _identify_network(session, document)
    dataset = _identify_dataset(document)
    filters = jobs.JobFilter(status="succeeded")
    newest = jobs.read_page(session, project, limit=JOBS_SEARCHED, cursor=None, filters=filters)
    alike = (
        row
        for row in newest.data
        if _identify_dataset(row.spec) == dataset
        and _identify_network(session, row.spec) == network
    )
    return islice(alike, REPORTS_READ)


def _identify_network(session: Session, spec: dict[str, Any]) -> tuple[str, str] | None:
    """Return the architecture and the JSON of its arguments; None if the model was deleted."""
    model = spec["model"]
    if model.get("id") is None:
        return str(model["architecture"]), json.dumps(model.get("kwargs", {}), sort_keys=True)
    row = session.get(Model, model["id"])
    return None if row is None else (row.architecture, json.dumps(row.kwargs, sort_keys=True))


def _identify_dataset(spec: dict[str, Any]) -> tuple[Any, Any]:
    return spec["dataset"].get("id"), spec["dataset"].get("builtin")


def _find_largest_member_spec(session: Session, family: Job) -> dict[str, Any] | None:
    """Return the spec of a member with the most training images: the law answers for these."""
    members = families.list_members(session, family.id)
    if not members:
        return None
    _, job = max(members, key=lambda pair: pair[0].member["fraction"])
    return job.spec


def _describe_differences(earlier: dict[str, Any] | None, spec: JobSpec, who: str) -> str:
    """Return what else than targets and questions differs between two jobs; empty if nothing."""
    if earlier is None:
        return f"{who} were deleted"
    try:
        earlier_spec = JobSpec.model_validate(earlier)
    except ValidationError:
        return f"{who}: of an earlier version"
    differences = []
    if earlier_spec.model.id != spec.model.id:
        differences.append(f"{who} had other weights")
    earlier_fields = _dump_compared_fields(earlier_spec)
    fields = _dump_compared_fields(spec)
    names = [name for name in fields if earlier_fields[name] != fields[name]]
    if names:
        differences.append(f"{who} differed in {', '.join(names)}")
    return "; ".join(differences)


def _dump_compared_fields(spec: JobSpec) -> dict[str, Any]:
    """Return the fields of a recipe that move the error at a density.

    Without limits every image is used, so it does not matter how they would be drawn; no more than
    that of the job does the seed of the draw.
    """
    fields = spec.recipe().model_dump(mode="json", exclude=WITHOUT_EFFECT)
    del fields["limit"]["seed"]
    if fields["limit"]["train"] is None and fields["limit"]["test"] is None:
        fields["limit"] = None
    given = (spec.model.preprocessing, spec.dataset.preprocessing)
    fields["preprocessing"] = [document and document.model_dump() for document in given]
    return fields


def _find_report(session: Session, row: Job) -> ResultFile | None:
    for file in jobs.list_result_files(session, row.id):
        if (file.checkpoint, file.format) == REPORT:
            return file
    return None
