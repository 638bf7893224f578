"""The working folder of a claim: the inputs of a job process, and nothing that may not get lost."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from pruning.schemas.evaluate import list_pruned_ids
from pruning.schemas.job import list_shifted_ids, runs_by_members
from tasks import owners
from tasks.artifacts import Artifacts, MissingArtifactError, hash_file
from tasks.settings import Settings
from tasks.store import Store, claims, families, jobs, shares
from tasks.store.claims import Claim
from tasks.store.tables import Dataset, FamilyMember, Job, Model, StageFile

logger = logging.getLogger(__name__)

LINK_ATTEMPTS = 20
POOLED = ("json", "images")
"""The files of a replicate's report that are pooled."""


class DeletedError(Exception):
    """A model or dataset that the job needs is no longer in the database."""


def make(store: Store, settings: Settings, claim: Claim) -> Path:
    """Make an empty working folder, and remove those that killed workers left of this job."""
    parent = settings.work_dir or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f"secateur-{store.identity}-{claim.job_id}-"
    for abandoned in parent.glob(f"{prefix}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{claim.fence}-", dir=parent))


def fill(
    folder: Path, store: Store, artifacts: Artifacts, settings: Settings, claim: Claim
) -> None:
    """Fetch the inputs and every saved stage, and write `job.json`.

    Raises `DeletedError` for an input that is no longer in the database, `MissingArtifactError` or
    `OSError` for one that cannot be read. A stage that is missing or damaged is left out: it will
    be computed again.
    """
    if runs_by_members(claim.spec):
        _fill_parent(folder, store, artifacts, claim)
        return
    with store.read() as session:
        model = session.get(Model, claim.model_id) if claim.model_id else None
        second = session.get(Model, claim.rewind_model_id) if claim.rewind_model_id else None
        dataset = session.get(Dataset, claim.dataset_id) if claim.dataset_id else None
        pruned = [(id, session.get(Model, id)) for id in list_pruned_ids(claim.spec)]
        shifted = [(id, session.get(Dataset, id)) for id in list_shifted_ids(claim.spec)]
        stages = jobs.list_stage_files(session, claim.job_id)
        memberships = families.find_memberships(session, [claim.job_id])
        row_of_job = session.get(Job, claim.job_id)
        assigned = None if row_of_job is None else row_of_job.threads
    inputs: list[tuple[str, str | None, Model | Dataset | None]] = [
        ("model", claim.model_id, model),
        (_name_second(claim.spec), claim.rewind_model_id, second),
        ("data", claim.dataset_id, dataset),
    ]
    for number, (id, pruned_row) in enumerate(pruned):
        inputs.append((f"pruned-{number}", id, pruned_row))
    for number, (id, shifted_row) in enumerate(shifted):
        inputs.append((f"shifted-{number}", id, shifted_row))
    for name, input_id, row in inputs:
        if input_id is not None and row is None:
            raise DeletedError(input_id)
        if row is not None:
            artifacts.fetch(row.artifact, folder / f"{name}.safetensors")
    _fetch_stages(folder, artifacts, claim, stages)
    cache = settings.cache_dir or Path(tempfile.gettempdir()) / "secateur-cache"
    job = {
        "id": claim.job_id,
        "spec": claim.spec,
        "checkpoint_steps": settings.checkpoint_steps,
        "most_data_bytes": settings.job_data_bytes,
        "cache": {"folder": str(cache), "bytes": settings.cache_bytes},
        "threads": settings.threads or assigned or shares.count_cores(),
        "model": _describe_model(claim.spec["model"], model, second),
        "pruned": [
            {"architecture": row.architecture, "kwargs": row.kwargs, "modules": row.modules}
            for _, row in pruned
            if row is not None
        ],
        "dataset": _describe_dataset(claim.spec, dataset),
        "keeps_pictures": any(is_replicate(row) for row in memberships.values()),
    }
    (folder / "job.json").write_text(json.dumps(job))


def is_replicate(member: FamilyMember) -> bool:
    """Return whether a member is a replicate of a pruning job, and not a network of a family."""
    return bool(member.member.get("role") == "replicate")


def _fill_parent(folder: Path, store: Store, artifacts: Artifacts, claim: Claim) -> None:
    """Write the `job.json` of a turn of a family or of replicates: the members' jobs as they stand,
    and the dataset's shape without its images. The results of replicates that have succeeded lie
    beside it, as `<job>.<format>`.
    """
    with store.read() as session:
        dataset = session.get(Dataset, claim.dataset_id) if claim.dataset_id else None
        stages = jobs.list_stage_files(session, claim.job_id)
        parent = session.get(Job, claim.job_id)
        units = 0.0 if parent is None else parent.progress_total
        members = families.list_members(session, claim.job_id)
        runs = [_describe_run(member, job) for member, job in members]
        results = [
            file
            for member, job in members
            if is_replicate(member) and job.status == "succeeded"
            for file in jobs.list_result_files(session, job.id)
            if file.checkpoint == "report" and file.format in POOLED
        ]
    if claim.dataset_id is not None and dataset is None:
        raise DeletedError(claim.dataset_id)
    _fetch_stages(folder, artifacts, claim, stages)
    for file in results:
        artifacts.fetch(file.artifact, folder / f"{file.job_id}.{file.format}")
    job = {
        "id": claim.job_id,
        "spec": claim.spec,
        "runs": runs,
        "units": units,
        "data": None if dataset is None else _describe_images(dataset),
        "dataset": _describe_dataset(claim.spec, dataset),
    }
    (folder / "job.json").write_text(json.dumps(job))


def sweep(store: Store, settings: Settings) -> None:
    """Remove the working folders that killed workers of this database left.

    The folder of a claim that a living worker still holds stays.
    """
    parent = settings.work_dir or Path(tempfile.gettempdir())
    for folder in parent.glob(f"secateur-{store.identity}-*"):
        name = re.fullmatch(rf"secateur-{store.identity}-(job_[0-9a-z]+)-(\d+)-.*", folder.name)
        if name is None:
            continue
        job_id, fence = name.groups()
        with store.read() as session:
            job = session.get(Job, job_id)
        is_held = job is not None and job.status in claims.HELD and str(job.fence) == fence
        if is_held and job is not None and not owners.is_gone(job.owner or ""):
            continue
        shutil.rmtree(folder, ignore_errors=True)


def tidy(store: Store, artifacts: Artifacts, claim: Claim) -> None:
    """Remove artifacts that nothing points at: the stages of a success, what was replaced, what a
    crash left.

    The artifacts of a later claim are left alone: it may be about to point at them.
    """
    id = claim.job_id
    with suppress(OSError, SQLAlchemyError):
        # The keys are listed before the rows are read: a file stored in between is not in the list.
        stored = list(artifacts.keys(f"jobs/{id}/attempts"))
        with store.read() as session:
            used = {row.artifact for row in jobs.list_result_files(session, id)}
            used |= {row.artifact for row in jobs.list_stage_files(session, id)}
        for key in stored:
            fence = int(key.split("/")[3])
            if key not in used and fence <= claim.fence:
                artifacts.delete(key)


def link_file(path: Path, target: Path) -> None:
    """Give the file a second name, `target`.

    A file that is being replaced just now may have no name for an instant, and linking fails
    although the file that replaces it is there: so it is tried again.
    """
    for _ in range(LINK_ATTEMPTS):
        try:
            return os.link(path, target)
        except FileNotFoundError:
            if not path.exists():
                raise
    return os.link(path, target)


def _fetch_stages(
    folder: Path, artifacts: Artifacts, claim: Claim, stages: Sequence[StageFile]
) -> None:
    (folder / "stages").mkdir()
    for stage in stages:
        _fetch_stage(folder / "stages" / stage.name, artifacts, claim, stage)


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


def _name_second(spec: dict[str, Any]) -> str:
    """Return what the second model of a job is to it."""
    return "rewind" if spec["model"].get("backbone") is None else "backbone"


def _describe_model(
    reference: dict[str, Any], row: Model | None, second: Model | None
) -> dict[str, Any]:
    """Return what the job process has to know of the network; one that starts from a backbone sees
    images as the backbone did.
    """
    if row is None:
        constants: dict[str, Any] = {"normalize": None}
        if reference.get("backbone") is not None and second is not None:
            constants = {"normalize": second.normalize, "source": second.source}
        return {
            "architecture": reference["architecture"],
            "kwargs": reference.get("kwargs", {}),
            "classes": None,
            "sha256": None,
        } | constants
    return {
        "architecture": row.architecture,
        "kwargs": row.kwargs,
        "normalize": row.normalize,
        "source": row.source,
        "preprocessing": row.preprocessing,
        "classes": row.classes,
        "sha256": row.sha256,
    }


def _describe_run(member: FamilyMember, job: Job) -> dict[str, Any]:
    return {
        "job": job.id,
        "member": member.member,
        "status": job.status,
        "error": (job.error or {}).get("message", ""),
        "curve": (job.summary or {}).get("curve") if job.status == "succeeded" else None,
    }


def _describe_images(row: Dataset) -> dict[str, Any]:
    return {
        "shape": row.shape,
        "sizes": row.sizes,
        "classes": row.classes,
        "counts": row.counts,
        "task": row.task,
        "preprocessing": row.preprocessing,
    }


def _describe_dataset(spec: dict[str, Any], row: Dataset | None) -> dict[str, Any]:
    if row is None:
        return {"name": spec["dataset"]["builtin"], "sha256": "", "normalize": None}
    return {
        "name": row.name,
        "sha256": row.sha256,
        "normalize": row.normalize,
        "preprocessing": row.preprocessing,
    }
