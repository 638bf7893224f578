"""What the laws of earlier jobs say of a job before it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy.orm import Session

from api.files import read_file
from api.schemas.predictions import Foreseen
from api.services import Services
from api.submission import document
from pruning.schemas.job import JobSpec
from tasks.store import jobs
from tasks.store.tables import Job, Model, ResultFile

RECENT = 50
"""Of so many jobs that succeeded last, reports are looked into."""
REPORT = ("report", "json")
CONFIDENCE = 0.9


def foresee(services: Services, project: str, spec: JobSpec) -> list[Foreseen]:
    """The error of every requested sparsity of every criterion that an earlier job of the project has a law of.

    An earlier job counts where network (architecture and arguments), dataset and criterion are the same; of several the
    newest. What the law does not tell is said.
    """
    from pruning.laws.density import DensityLaw
    from pruning.laws.queries import forecast

    wanted = {json.dumps(one.model_dump(mode="json"), sort_keys=True): one.name for one in spec.recipe().criteria}
    found: list[Foreseen] = []
    with services.store.read() as session:
        rows = [(row, file) for row in _alike(session, project, spec) if (file := _report(session, row)) is not None]
    for row, file in rows:
        if not wanted:
            break
        same = _schedule(row.spec) == _schedule(document(spec))
        for kept in _laws(json.loads(read_file(services.artifacts, file))):
            name = wanted.pop(json.dumps(kept["criterion"], sort_keys=True), None)
            if name is None:
                continue
            law = DensityLaw.model_validate(kept["law"])
            for sparsity in spec.targets.sparsity:
                told = forecast(law, 1 - sparsity, CONFIDENCE)
                remarks = [told["remark"], "" if same else "that job trained or retrained otherwise"]
                found.append(Foreseen(**told | {"sparsity": sparsity, "remark": "; ".join(filter(None, remarks))},
                                      criterion=name, job=row.id))
    return found


def _laws(report: dict[str, Any]) -> list[dict[str, Any]]:
    details = report.get("sections", {}).get("scaling_law", {}).get("details", {})
    return list(details.get("raw_laws", {}).values())


def _alike(session: Session, project: str, spec: JobSpec) -> Iterator[Job]:
    """Jobs that succeeded with the same network and dataset, the newest first."""
    network = _network(session, document(spec))
    for row in jobs.page(session, project, limit=RECENT, cursor=None, status="succeeded").data:
        if _network(session, row.spec) == network and _dataset(row.spec) == _dataset(document(spec)):
            yield row


def _network(session: Session, spec: dict[str, Any]) -> tuple[str, str] | None:
    """The architecture with its arguments; None where the model was deleted."""
    model = spec["model"]
    if model.get("id") is None:
        return str(model["architecture"]), json.dumps(model.get("kwargs", {}), sort_keys=True)
    row = session.get(Model, model["id"])
    return None if row is None else (row.architecture, json.dumps(row.kwargs, sort_keys=True))


def _dataset(spec: dict[str, Any]) -> tuple[Any, Any]:
    return spec["dataset"].get("id"), spec["dataset"].get("builtin")


def _schedule(spec: dict[str, Any]) -> str:
    """How a job trains, and on how many images."""
    parts = [spec["model"].get("train"), spec.get("retrain"), spec["dataset"].get("limit")]
    return json.dumps(parts, sort_keys=True)


def _report(session: Session, row: Job) -> ResultFile | None:
    return next((file for file in jobs.result_files(session, row.id) if (file.checkpoint, file.format) == REPORT), None)
