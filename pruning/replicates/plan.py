"""The replicates of a job, and the pruning job of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pruning.schemas.base import Document
from pruning.schemas.job import TERMINAL, JobSpec, Status


class Member(Document):
    """A replicate as a member of the job that asked for it."""

    role: Literal["replicate"] = "replicate"
    seed: int

    @property
    def key(self) -> str:
        """The identity of the replicate within its job; no two jobs are made for one key."""
        return f"seed{self.seed}"


class Run(Document):
    """The job of a replicate as it stands."""

    job: str
    member: Member
    status: Status
    error: str = ""
    """The reason of a failure."""
    curve: Any = None
    """The points that the law of a family is fitted to; nothing here reads them."""

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more by itself."""
        return self.status in TERMINAL


def list_members(spec: JobSpec) -> tuple[Member, ...]:
    """The replicates, by seed."""
    return tuple(Member(seed=spec.seed + number) for number in range(spec.replicates))


def build_replicate_job(document: Mapping[str, Any], member: Member) -> dict[str, Any]:
    """The job of a replicate: that of all of them under its own seed, on the same images.

    `document` is the job as submitted. The images of every split are drawn under the seed of the
    first replicate, unless `dataset.limit.seed` says otherwise, so that all of them train, decide
    and report on the same; what differs is the initialisation, the order and the augmentation of
    the images, and the random choices of methods. The deadline stays with the parent.
    """
    job = {
        name: value for name, value in document.items() if name not in ("replicates", "deadline_s")
    }
    limit = dict(document["dataset"].get("limit", {}))
    if limit.get("seed") is None:
        limit["seed"] = document.get("seed", 0)
    job["dataset"] = {**document["dataset"], "limit": limit}
    job["seed"] = member.seed
    return job
