"""The thread of a worker that fetches datasets by URL, checks them and stores them.

A source that does not answer is tried again, each time after twice the delay; the dataset says so
as long, and fails with the last reason after `source_tries` tries.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError

from tasks.artifacts import Artifacts
from tasks.helper import HelperError, run_helper
from tasks.run_job import Runner
from tasks.settings import Settings
from tasks.sources import Fetcher, SourceError
from tasks.store import Store, sources
from tasks.store.claims import LostError
from tasks.store.sources import SourceClaim

logger = logging.getLogger(__name__)

LONGEST_DELAY_S = 3600.0
RETRYABLE = ("helper_timeout", "helper_crashed", "disk_full")
"""The refusals of the helper that another try may not meet."""


class StoppingError(Exception):
    """The worker shuts down."""


def fetch_forever(runner: Runner) -> None:
    """Fetch what is due, one dataset after the other."""
    while not runner.stopping.is_set():
        try:
            busy = fetch_next(runner.store, runner.artifacts, runner.settings, runner.stopping)
        except Exception:
            logger.exception("the worker could not fetch a dataset")
            busy = False
        if not busy:
            runner.stopping.wait(runner.settings.source_poll_s)


def fetch_next(
    store: Store, artifacts: Artifacts, settings: Settings, stopping: threading.Event
) -> bool:
    """Try the dataset that has been due for longest; return whether there was one."""
    if store.read_value(sources.ANY_DUE) is None:  # which writes nothing and takes no lock
        return False
    with store.write() as session:
        claim = sources.claim_source(session, settings.lease_s)
    if claim is None:
        return False
    try:
        failure = _try(claim, store, artifacts, settings, stopping)
        if failure is not None:
            _settle(claim, store, settings, failure)
    except LostError as error:
        logger.warning("%s", error)
    except StoppingError:
        with store.write() as session:
            sources.postpone(session, claim, 0.0, None)
    return True


def _try(
    claim: SourceClaim,
    store: Store,
    artifacts: Artifacts,
    settings: Settings,
    stopping: threading.Event,
) -> dict[str, Any] | None:
    """Fetch, check and store a dataset; return why that failed, None where it did not."""
    row = claim.dataset
    source = row.source or {}

    def heed_stop() -> None:
        if stopping.is_set():
            raise StoppingError

    if settings.work_dir is not None:
        settings.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        with (
            _holding(claim, store, settings),
            tempfile.TemporaryDirectory(
                prefix=f"secateur-upload-{os.getpid()}-", dir=settings.work_dir
            ) as folder,
        ):
            path, decoded = Path(folder) / "source", Path(folder) / "data.safetensors"
            size = build_fetcher(settings).fetch(source["url"], row.sha256, path, heed_stop)
            contents = run_helper(
                "dataset",
                {
                    "path": str(path),
                    "filename": urlsplit(source["url"]).path.rpartition("/")[2],
                    "output": str(decoded),
                    "max_values": settings.max_pixels,
                    "classes": source.get("classes"),
                },
                timeout_s=settings.stuck_s,
                memory_limit_bytes=settings.memory_limit_bytes,
            )
            channels = contents["shape"][0]
            if row.normalize is not None and len(row.normalize["mean"]) != channels:
                values = len(row.normalize["mean"])
                message = f"normalize: {values} values for images of {channels} channels"
                return _describe("wrong_length", message, retryable=False)
            artifacts.put(row.artifact, decoded)
    except (SourceError, HelperError) as error:
        retryable = error.code in RETRYABLE or getattr(error, "retryable", False)
        return _describe(error.code, error.message, retryable=retryable)
    except OSError as error:
        return _describe("storage_failed", str(error), retryable=True)
    known = ("classes", "shape", "counts", "task", "notes", "groups", "guessing_error", "sizes")
    try:
        with store.write() as session:
            described = {name: contents.get(name) for name in known}
            sources.finish(session, claim, size_bytes=size, **described)
    except LostError:
        artifacts.delete(row.artifact.rpartition("/")[0])
        raise
    return None


def build_fetcher(settings: Settings) -> Fetcher:
    """Return the fetcher of a worker."""
    own = urlsplit(settings.artifact_url)
    return Fetcher(
        max_bytes=settings.max_upload_bytes,
        private=settings.source_private,
        s3_endpoint=settings.s3_endpoint,
        own_bucket=own.netloc if own.scheme == "s3" else None,
    )


@contextmanager
def _holding(claim: SourceClaim, store: Store, settings: Settings) -> Iterator[None]:
    """Renew the lease of a dataset until the block ends; one that is lost is not renewed."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(settings.heartbeat_s):
            try:
                with store.write() as session:
                    sources.renew(session, claim, settings.lease_s)
            except LostError:
                return
            except (SQLAlchemyError, OSError) as error:
                logger.warning("dataset %s: no heartbeat: %s", claim.dataset.id, error)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _settle(claim: SourceClaim, store: Store, settings: Settings, failure: dict[str, Any]) -> None:
    """Write that a try failed: another one follows, or none does."""
    tries = claim.dataset.tries
    with store.write() as session:
        if failure["retryable"] and tries < settings.source_tries:
            delay_s = min(settings.source_delay_s * 2 ** (tries - 1), LONGEST_DELAY_S)
            sources.postpone(session, claim, delay_s, failure)
        else:
            sources.fail(session, claim, failure)


def _describe(code: str, message: str, *, retryable: bool) -> dict[str, Any]:
    return {"code": code, "message": message, "retryable": retryable}
