"""One set of settings for every process, read from `SECATEUR_*` environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where the database, the artifacts and the broker are, and how patient the workers are."""

    model_config = SettingsConfigDict(env_prefix="SECATEUR_", extra="ignore")

    database_url: str = "sqlite:///./secateur-data/secateur.db"
    """SQLAlchemy URL: `sqlite:///path` or `postgresql://user:password@host/database`."""
    artifact_url: str = "file:./secateur-data/artifacts"
    """`file:PATH` or `s3://bucket/prefix`."""
    broker_url: str = "redis://127.0.0.1:6379/0"
    """Redis or Valkey: `redis://host:port/db` or `redis+socket:///path`."""
    s3_endpoint: str | None = None
    """Endpoint of an S3 server other than AWS, e.g. MinIO.

    Credentials come from AWS_ACCESS_KEY_ID and so on.
    """
    work_dir: Path | None = None
    """Folder for the working folders of job processes; default: the system's temporary folder."""
    cache_dir: Path | None = None
    """Folder of corrupted test images, kept for later jobs.

    Default: `secateur-cache` in the system's temporary folder.
    """
    cache_bytes: Annotated[int, Field(ge=0)] = 2 * 2**30
    """Bytes that the corrupted test images may take on disk; 0 keeps none."""
    alive_file: Path | None = None
    """A file that a worker touches every `reaper_s` seconds while its database answers.

    It is meant for health checks.
    """
    plugin_path: str = ""
    """Folders (separated like PATH) whose `.py` files add methods."""

    lease_s: Annotated[float, Field(gt=0)] = 90.0
    """Seconds without a heartbeat after which another worker may take a job."""
    heartbeat_s: Annotated[float, Field(gt=0)] = 15.0
    """Seconds between two heartbeats."""
    reaper_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds between two sweeps of the reaper."""
    relay_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds between two looks for messages in the outbox that their process did not publish."""
    stuck_s: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds without a message after which a job process counts as crashed."""
    max_attempts: Annotated[int, Field(ge=1)] = 5
    checkpoint_steps: Annotated[int, Field(ge=1)] = 200
    """Optimiser steps between two saved states inside a training."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of every job process.

    By default each job has what is free of the cores when it first runs, at most an equal share of
    those of its worker, at least one, and keeps that number when it is resumed.
    """
    memory_limit_bytes: Annotated[int, Field(ge=2**20)] | None = None
    """Address-space limit of the helper that reads uploads; none by default."""

    api_key: str | None = None
    """The administrator's key.

    Without it, and without keys in the database, the service is open, on loopback only.
    """
    max_json_bytes: Annotated[int, Field(ge=1)] = 1_000_000
    max_upload_bytes: Annotated[int, Field(ge=1)] = 8 * 2**30
    max_pixels: Annotated[int, Field(ge=1)] = 2**33
    """Largest decoded dataset, in uint8 values."""
    source_tries: Annotated[int, Field(ge=1)] = 8
    """Tries to fetch a dataset from its URL before it fails."""
    source_delay_s: Annotated[float, Field(ge=0)] = 15.0
    """Seconds after the first try that failed; each further delay is twice the one before."""
    source_poll_s: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between two looks for datasets that are to be fetched."""
    source_private: bool = False
    """Whether datasets may be fetched from addresses inside the network, and over plain `http`."""
    job_data_bytes: Annotated[int, Field(ge=1)] = 2**34
    """Most bytes that the images of a job may take in memory; the others are read from the disk."""
