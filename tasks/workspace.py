"""The working folder of a claim: what a job process needs, and nothing that it cannot lose."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from tasks import owners
from tasks.artifacts import Artifacts, MissingArtifactError, hash_file
from tasks.settings import Settings
from tasks.store import Store, claims, families, jobs
from tasks.store.claims import Claim
from tasks.store.tables import Dataset, Job, Model, StageFile

logger = logging.getLogger(__name__)


class DeletedError(Exception):
    """A model or dataset that the job needs is in the database no more."""


def make(store: Store, settings: Settings, claim: Claim) -> Path:
    """A fresh working folder; those of earlier claims, whose workers were killed, are removed."""
    parent = settings.work_dir or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f"secateur-{store.identity}-{claim.job_id}-"
    for left in parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{claim.fence}-", dir=parent))


def fill(
    folder: Path, store: Store, artifacts: Artifacts, settings: Settings, claim: Claim
) -> None:
    """Fetch the inputs and every saved stage, and write `job.json`.

    Raises `DeletedError` for an input that is in the database no more, `MissingArtifactError` or
    `OSError` for one that cannot be read. A stage that is missing or damaged is left out: it will
    be computed again.
    """
    if claim.spec["type"] == "family":
        _fill_family(folder, store, artifacts, claim)
        return
    with store.read() as session:
        model = session.get(Model, claim.model_id) if claim.model_id else None
        rewind = session.get(Model, claim.rewind_model_id) if claim.rewind_model_id else None
        dataset = session.get(Dataset, claim.dataset_id) if claim.dataset_id else None
        shifted = [(id, session.get(Dataset, id)) for id in jobs.list_shifted_ids(claim.spec)]
        stages = jobs.list_stage_files(session, claim.job_id)
    sets = [(f"shifted-{number}", id, one) for number, (id, one) in enumerate(shifted)]
    for name, id, row in (
        ("model", claim.model_id, model),
        ("rewind", claim.rewind_model_id, rewind),
        ("data", claim.dataset_id, dataset),
        *sets,
    ):
        if id is not None and row is None:
            raise DeletedError(id)
        if row is not None:
            artifacts.fetch(row.artifact, folder / f"{name}.safetensors")
    (folder / "stages").mkdir()
    for stage in stages:
        _fetch_stage(folder / "stages" / stage.name, artifacts, claim, stage)
    cache = settings.cache_dir or Path(tempfile.gettempdir()) / "secateur-cache"
    job = {
        "id": claim.job_id,
        "spec": claim.spec,
        "checkpoint_steps": settings.checkpoint_steps,
        "cache": {"folder": str(cache), "bytes": settings.cache_bytes},
        "threads": settings.threads or len(os.sched_getaffinity(0)),
        "model": _describe_model(claim.spec["model"], model),
        "dataset": _describe_dataset(claim.spec, dataset),
    }
    (folder / "job.json").write_text(json.dumps(job))


def _fill_family(folder: Path, store: Store, artifacts: Artifacts, claim: Claim) -> None:
    """What a turn of a family looks at: its members' jobs as they stand, and its dataset's shape;
    no images.
    """
    with store.read() as session:
        dataset = session.get(Dataset, claim.dataset_id) if claim.dataset_id else None
        stages = jobs.list_stage_files(session, claim.job_id)
        runs = [
            {
                "job": job.id,
                "member": row.member,
                "status": job.status,
                "error": (job.error or {}).get("message", ""),
                "curve": (job.summary or {}).get("curve") if job.status == "succeeded" else None,
            }
            for row, job in families.list_members(session, claim.job_id)
        ]
    if claim.dataset_id is not None and dataset is None:
        raise DeletedError(claim.dataset_id)
    (folder / "stages").mkdir()
    for stage in stages:
        _fetch_stage(folder / "stages" / stage.name, artifacts, claim, stage)
    described = (
        None
        if dataset is None
        else {
            "shape": dataset.shape,
            "classes": dataset.classes,
            "counts": dataset.counts,
            "task": dataset.task,
        }
    )
    job = {
        "id": claim.job_id,
        "spec": claim.spec,
        "runs": runs,
        "data": described,
        "dataset": _describe_dataset(claim.spec, dataset),
    }
    (folder / "job.json").write_text(json.dumps(job))


def sweep(store: Store, settings: Settings) -> None:
    """Remove the working folders that killed workers of this database left: those of no claim that
    still holds.
    """
    parent = settings.work_dir or Path(tempfile.gettempdir())
    for left in parent.glob(f"secateur-{store.identity}-*"):
        named = re.fullmatch(rf"secateur-{store.identity}-(job_[0-9a-z]+)-(\d+)-.*", left.name)
        if named is None:
            continue
        with store.read() as session:
            job = session.get(Job, named[1])
            held = job is not None and job.status in claims.HELD and str(job.fence) == named[2]
            if held and job is not None and not owners.is_gone(job.owner or ""):
                continue
        shutil.rmtree(left, ignore_errors=True)


def tidy(store: Store, artifacts: Artifacts, claim: Claim) -> None:
    """Remove artifacts that nothing points at: the stages of a success, what was replaced, what a
    crash left.

    Those of a later claim are let be: they may be about to be pointed at.
    """
    id, mine = claim.job_id, range(claim.fence + 1)
    with suppress(OSError, SQLAlchemyError):
        stored = list(artifacts.keys(f"jobs/{id}/attempts"))
        with store.read() as session:
            used = {row.artifact for row in jobs.list_result_files(session, id)}
            used |= {row.artifact for row in jobs.list_stage_files(session, id)}
        for key in stored:
            if key not in used and int(key.split("/")[3]) in mine:
                artifacts.delete(key)


def _fetch_stage(path: Path, artifacts: Artifacts, claim: Claim, stage: StageFile) -> None:
    try:
        artifacts.fetch(stage.artifact, path)
    except MissingArtifactError:
        logger.error(
            "job %s: stage %s is missing and will be computed again", claim.job_id, stage.name
        )
        return
    if hash_file(path) != stage.sha256:
        logger.error(
            "job %s: stage %s is damaged and will be computed again", claim.job_id, stage.name
        )
        path.unlink()


def _describe_model(reference: dict[str, Any], row: Model | None) -> dict[str, Any]:
    if row is None:
        return {
            "architecture": reference["architecture"],
            "kwargs": reference.get("kwargs", {}),
            "normalize": None,
            "classes": None,
            "sha256": None,
        }
    return {
        "architecture": row.architecture,
        "kwargs": row.kwargs,
        "normalize": row.normalize,
        "classes": row.classes,
        "sha256": row.sha256,
    }


def _describe_dataset(spec: dict[str, Any], row: Dataset | None) -> dict[str, Any]:
    if row is None:
        return {"name": spec["dataset"]["builtin"], "sha256": "", "normalize": None}
    return {"name": row.name, "sha256": row.sha256, "normalize": row.normalize}
