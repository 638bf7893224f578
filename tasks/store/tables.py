"""The tables. Times are seconds since the epoch by the database's clock; ids sort by time of
creation.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of every table."""

    type_annotation_map = {
        dict[str, Any]: JSON,
        list[Any]: JSON,
        float: Float(53),
        int: BigInteger,
        str: String(255),
    }


class ApiKey(Base):
    """A key of a project, kept as a SHA-256 of the secret."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[Any]]
    created_at: Mapped[float]


class Model(Base):
    """An uploaded state dict that fits its architecture."""

    NOUN: ClassVar[str] = "model"
    __tablename__ = "models"
    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    architecture: Mapped[str]
    kwargs: Mapped[dict[str, Any]]
    normalize: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    classes: Mapped[list[Any] | None] = mapped_column(JSON)
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    parameters: Mapped[int]
    prunable: Mapped[int]
    source: Mapped[str | None] = mapped_column(String(16), default=None)
    """The source of `normalize`: `given` (also where it is null, in rows of 0.1) or `model`."""
    preprocessing: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """The `resize`, `crop` and `interpolation` that came with the network, of the same source; null
    where nothing did.
    """
    zeros: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """The exact zeros of each prunable weight that has any; null in rows of 0.1."""
    modules: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """The widths of its layers as its `arch.json` has them, where channels were removed; null for a
    network that has all of them.
    """
    notes: Mapped[list[Any]] = mapped_column(JSON, default=list, server_default="[]")
    """Remarks on how the file was read: what was taken, renamed and left out."""
    artifact: Mapped[str]
    created_at: Mapped[float]


class Dataset(Base):
    """Images decoded to uint8 tensors when they arrive; `sha256` is the digest of the file."""

    NOUN: ClassVar[str] = "dataset"
    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    classes: Mapped[list[Any]]
    shape: Mapped[list[Any]]
    counts: Mapped[dict[str, Any]]
    task: Mapped[str] = mapped_column(
        String(16), default="classification", server_default="classification"
    )
    notes: Mapped[list[Any]] = mapped_column(JSON, default=list, server_default="[]")
    groups: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict, server_default="{}")
    guessing_error: Mapped[float | None] = mapped_column(default=None)
    """The error of the best constant answer on the test images; null for masks and in rows of
    0.1.
    """
    sizes: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """The smallest and largest height and width of photos that differ in size, and the bytes of
    each split; null for images of one size.
    """
    normalize: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    preprocessing: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """The `resize`, `crop` and `interpolation` that were given with the dataset."""
    state: Mapped[str] = mapped_column(String(16), default="ready", server_default="ready")
    """`fetching` until a worker has fetched it from its URL, then `ready` or `failed`."""
    source: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """The `url` that it is fetched from, and the `classes` that were given with it; null for an
    upload.
    """
    failure: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """Why the last try to fetch it failed: `code`, `message`, `retryable`."""
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    due_at: Mapped[float | None] = mapped_column(default=None)
    """The time of the next try, or the end of the lease of the one that runs."""
    artifact: Mapped[str]
    created_at: Mapped[float]


class Job(Base):
    """A job, and the truth about its state.

    `fence` counts claims; only the holder of the newest fence may write.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        # Pages are read in the order of ids, with and without a status.
        Index("ix_jobs_project_id", "project", "id"),
        Index("ix_jobs_project_status_id", "project", "status", "id"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    status: Mapped[str] = mapped_column(String(16), index=True)
    stage: Mapped[str | None] = mapped_column(String(64))
    spec: Mapped[dict[str, Any]]
    model_id: Mapped[str | None] = mapped_column(index=True)
    rewind_model_id: Mapped[str | None] = mapped_column(index=True)
    """The other model that the job reads: weights to rewind to, or a backbone to start from."""
    dataset_id: Mapped[str | None] = mapped_column(index=True)
    priority: Mapped[int]
    fence: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None]
    lease_until: Mapped[float | None]
    attempt: Mapped[int] = mapped_column(default=1)
    threads: Mapped[int | None] = mapped_column(default=None)
    """The CPU threads of its processes, chosen when it first runs; null for families."""
    available_at: Mapped[float]
    published_at: Mapped[float | None]
    publishes: Mapped[int] = mapped_column(default=0)
    progress_done: Mapped[float] = mapped_column(default=0.0)
    progress_total: Mapped[float] = mapped_column(default=0.0)
    progress_at: Mapped[float | None]
    eta_s: Mapped[float | None]
    event_seq: Mapped[int] = mapped_column(default=0)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    summary: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    deadline_at: Mapped[float | None]
    updated_at: Mapped[float]


class JobLabel(Base):
    """A label of a job, for the list filter."""

    __tablename__ = "job_labels"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    __table_args__ = (Index("ix_job_labels_key_value", "key", "value"),)


class JobShift(Base):
    """A dataset of shifted images that a job evaluates on, beside its own dataset."""

    __tablename__ = "job_shifts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class JobPruned(Base):
    """A model that a job judges beside its dense original."""

    __tablename__ = "job_pruned"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class FamilyMember(Base):
    """The job of one member of a family.

    `key` names the member within its family, `member` describes its network.
    """

    __tablename__ = "family_members"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    family_id: Mapped[str]
    key: Mapped[str]
    member: Mapped[dict[str, Any]]
    asked_at: Mapped[float | None]
    """The time when a client last asked for it to run again, by itself or with its family."""
    seen: Mapped[str | None] = mapped_column(String(16))
    """The status of its job, if the family's last turn knew it as it was when that turn ended."""
    __table_args__ = (UniqueConstraint("family_id", "key"),)


class Event(Base):
    """One row of a job's history."""

    __tablename__ = "events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    type: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]


class StageFile(Base):
    """A saved stage of the pipeline, from which a resumed attempt starts."""

    __tablename__ = "stage_files"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    artifact: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    fence: Mapped[int]


class ResultFile(Base):
    """A file that a client may download: a checkpoint or the report in one format.

    The report has the `checkpoint` "report".
    """

    __tablename__ = "result_files"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    checkpoint: Mapped[str] = mapped_column(primary_key=True)
    format: Mapped[str] = mapped_column(String(16), primary_key=True)
    artifact: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    fence: Mapped[int]


class Outbox(Base):
    """A message still to be published, not before `due_at`: the id of a job.

    Its own id is never used again.
    """

    __tablename__ = "outbox"
    __table_args__ = {"sqlite_autoincrement": True}
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    priority: Mapped[int]
    due_at: Mapped[float] = mapped_column(index=True)


class Idempotency(Base):
    """The job that an idempotency key created, and the digest of the request that carried it."""

    __tablename__ = "idempotency"
    project: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[float]


class Catalogue(Base):
    """The methods of the workers, as the last worker that started published them."""

    __tablename__ = "catalogue"
    id: Mapped[int] = mapped_column(primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str]
    published_at: Mapped[float]


class Leader(Base):
    """A role that one process holds at a time."""

    __tablename__ = "leaders"
    role: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    lease_until: Mapped[float]
