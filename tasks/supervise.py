"""One claimed job: a fresh process beside a supervisor that beats, saves what the process finishes,
and settles.

The process sees a folder and a pipe. The supervisor alone talks to the database and the artifact
store, and every write of it carries the claim's fence.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from tasks import owners, workspace
from tasks.artifacts import Artifacts, MissingArtifactError, hash_file
from tasks.helper import clean_environment
from tasks.settings import Settings
from tasks.store import Store, claims, families
from tasks.store.claims import Claim, LostError, SavedFile

logger = logging.getLogger(__name__)

T = TypeVar("T")
POLL_S = 1.0
LINKS = 20
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_MMAP_THRESHOLD_": "1073741824"}
"""Keeps glibc from returning every batch's memory to the kernel and fetching it again."""


class Supervisor:
    """Runs one claim to its end. `stopping` is set when the worker shuts down: the job is handed
    back.
    """

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        settings: Settings,
        claim: Claim,
        stopping: threading.Event,
    ) -> None:
        self.store, self.artifacts, self.settings, self.claim, self.stopping = (
            store,
            artifacts,
            settings,
            claim,
            stopping,
        )
        self._verdict: str | None = None
        self._spoken_at = time.monotonic()
        self._handling = False
        self._stage = "baseline"
        self._error: dict[str, Any] | None = None
        self._summary: dict[str, Any] | None = None
        self._done = False
        self._waits = False
        self._seen: dict[str, str] | None = None
        """Of a family: the statuses of its members that the turn knew."""
        self._began = time.monotonic()
        self._first_progress: float | None = None
        self._counter = 0

    def run(self) -> None:
        """Start the process, follow it, settle the job."""
        folder: Path | None = None
        try:
            folder = workspace.make(self.store, self.settings, self.claim)
            self._attempt(folder)
            workspace.tidy(self.store, self.artifacts, self.claim)
        except LostError as error:
            logger.warning("%s", error)
        except (
            Exception
        ) as error:  # no job waits for its lease to run out beside a worker that lives
            logger.exception("job %s: the supervisor failed", self.claim.job_id)
            reason = f"{type(error).__name__}: {error}"
            with suppress(LostError):
                self._write(
                    lambda s: claims.crash(
                        s, self.claim, reason, max_attempts=self.settings.max_attempts
                    )
                )
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _attempt(self, folder: Path) -> None:
        try:
            workspace.fill(folder, self.store, self.artifacts, self.settings, self.claim)
        except workspace.DeletedError as error:
            self._settle_failed(
                "input_deleted", f"the job's input was deleted: {error}", retryable=False
            )
            return
        except (OSError, MissingArtifactError) as error:
            self._settle_failed(
                "storage_failed", f"the job's inputs could not be read: {error}", retryable=True
            )
            return
        with self._process(folder) as process:
            watch = threading.Thread(target=self._watch, args=(process,), daemon=True)
            watch.start()
            self._follow(process)
        watch.join()
        self._settle(process.returncode, folder)

    @contextmanager
    def _process(self, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        read, write = os.pipe()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tasks.processes.job", str(folder), str(write)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(write,),
                start_new_session=True,
                env=clean_environment() | ALLOCATOR | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
            )
        os.close(write)
        self._pipe = os.fdopen(read, "r")
        try:
            yield process
        finally:
            _kill(process)
            process.wait()
            self._pipe.close()
            assert process.stdin is not None
            process.stdin.close()

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Handle the process's messages until it ends; the end of the pipe is the end of the
        process.
        """
        for line in self._pipe:
            if self._verdict is not None:
                break
            self._handling = True
            try:
                self._handle(json.loads(line))
            except LostError:
                self._verdict = "lost"
            except OSError as error:
                self._verdict = "storage"
                self._error = {
                    "code": "storage_failed",
                    "message": f"a result could not be stored: {error}",
                    "retryable": True,
                }
            finally:
                self._spoken_at, self._handling = time.monotonic(), False
            if self._verdict is not None or self._done or self._waits or self._error is not None:
                break
        if self._verdict is None and (self._done or self._waits or self._error is not None):
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message.pop("type")
        if kind == "stage":
            self._stage = message["stage"]
            self._write(lambda s: claims.record_progress(s, self.claim, stage=message["stage"]))
        elif kind == "progress":
            self._write(
                lambda s: claims.record_progress(
                    s,
                    self.claim,
                    done=message["done"],
                    total=message["total"],
                    eta_s=self._eta(message["done"], message["total"]),
                )
            )
        elif kind in ("saved", "file"):
            self._store_file(kind, message)
        elif kind == "dropped":
            self._discard(self._write(lambda s: claims.drop_stage(s, self.claim, message["name"])))
        elif kind in ("warning", "checkpoint"):
            self._write(lambda s: claims.record_event(s, self.claim, kind, message))
        elif kind == "summary":
            self._summary = message["summary"]
        elif kind == "members":
            self._write(lambda s: families.start_members(s, self.claim, message["start"]))
        elif kind == "wait":
            self._waits, self._seen = True, message["seen"]
        elif kind == "error":
            self._error = message
        elif kind == "done":
            self._done, self._seen = True, message.get("seen")

    def _store_file(self, kind: str, message: dict[str, Any]) -> None:
        """Upload a finished file, then point the database at it. The process may replace or drop it
        meanwhile.
        """
        path = Path(message["path"])
        self._counter += 1
        mine = path.with_name(f".upload-{self._counter}")
        try:
            _link_file(path, mine)
        except FileNotFoundError:
            if kind == "saved":
                return  # dropped already: a later message tells of it
            raise
        try:
            key = f"jobs/{self.claim.job_id}/attempts/{self.claim.fence}/{kind}/{self._counter}-{path.name}"
            file = SavedFile(key, hash_file(mine), mine.stat().st_size)
            self.artifacts.put(key, mine)
        finally:
            mine.unlink()
        if kind == "saved":
            self._discard(
                self._write(lambda s: claims.save_stage(s, self.claim, message["name"], file))
            )
        else:
            self._write(
                lambda s: claims.save_result(
                    s, self.claim, message["checkpoint"], message["format"], file
                )
            )

    def _discard(self, artifact: str | None) -> None:
        """Remove an artifact that nothing points at any more; one that stays costs space, not
        truth.
        """
        if artifact is not None:
            with suppress(OSError):
                self.artifacts.delete(artifact)

    def _eta(self, done: float, total: float) -> float | None:
        """Seconds left at the pace since this attempt's first progress."""
        if self._first_progress is None:
            self._first_progress, self._began = done, time.monotonic()
            return None
        advanced = done - self._first_progress
        return (
            (total - done) * (time.monotonic() - self._began) / advanced if advanced > 0 else None
        )

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Beat, and end the process when the lease is lost, the job is to stop, or nothing is heard
        of it.
        """
        beaten = time.monotonic()
        due = 0.0
        while process.poll() is None and self._verdict is None:
            now = time.monotonic()
            verdict: str | None = None
            try:
                if now >= due:
                    with self.store.write() as session:
                        status = claims.heartbeat(session, self.claim, self.settings.lease_s)
                    due, beaten = now + self.settings.heartbeat_s, now
                else:
                    with self.store.read() as session:
                        status = claims.read_status(session, self.claim)
                if status != "running":
                    verdict = status
                elif self.claim.deadline_at is not None and time.time() > self.claim.deadline_at:
                    verdict = "deadline"
            except LostError:
                verdict = "lost"
            except (SQLAlchemyError, OSError) as error:
                logger.warning("job %s: no heartbeat: %s", self.claim.job_id, error)
                if now - beaten > self.settings.lease_s:
                    verdict = "lost"
            if self.stopping.is_set():
                verdict = verdict or "stopping"
            if not self._handling and now - self._spoken_at > self.settings.stuck_s:
                verdict = verdict or "stuck"
            if verdict is not None:
                self._verdict = self._verdict or verdict
                _kill(process)
                return
            self.stopping.wait(min(POLL_S, self.settings.heartbeat_s))

    def _settle(self, returncode: int, folder: Path) -> None:
        verdict = self._verdict
        if verdict == "lost":
            raise LostError(f"job {self.claim.job_id}: the lease was lost")
        if verdict in ("stopping", "pausing", "cancelling"):
            if verdict == "cancelling":
                self._write(
                    lambda s: claims.settle(s, self.claim, "cancelled", summary=self._summary)
                )
            else:
                self._write(lambda s: claims.hand_back(s, self.claim))
        elif verdict == "deadline":
            error = claims.build_deadline_error(self._stage, self.claim.attempt)
            self._write(
                lambda s: claims.settle(s, self.claim, "failed", summary=self._summary, error=error)
            )
        elif self._error is not None:
            self._settle_failed(**self._error)
        elif self._waits:
            self._write(lambda s: families.park(s, self.claim, self._seen or {}))
        elif self._done and self._seen is not None:
            seen = self._seen
            self._write(lambda s: families.finish(s, self.claim, seen, self._summary))
        elif self._done:
            self._write(lambda s: claims.settle(s, self.claim, "succeeded", summary=self._summary))
        else:
            reason = (
                "the job process was silent for too long"
                if verdict == "stuck"
                else f"the job process ended with {owners.describe_exit(returncode)}"
            )
            logger.error("job %s: %s\n%s", self.claim.job_id, reason, _read_tail(folder / "log"))
            self._write(
                lambda s: claims.crash(
                    s, self.claim, reason, max_attempts=self.settings.max_attempts
                )
            )

    def _settle_failed(self, code: str, message: str, retryable: bool) -> None:
        error = {
            "code": code,
            "message": message,
            "stage": self._stage,
            "retryable": retryable,
            "attempt": self.claim.attempt,
        }
        self._write(
            lambda s: claims.settle(s, self.claim, "failed", summary=self._summary, error=error)
        )

    def _write(self, action: Callable[[Any], T]) -> T:
        """One transaction; a database that is away is asked again until the lease would have run
        out.
        """
        patience = time.monotonic() + self.settings.lease_s
        while True:
            try:
                with self.store.write() as session:
                    return action(session)
            except SQLAlchemyError as error:
                if time.monotonic() > patience:
                    raise LostError(
                        f"job {self.claim.job_id}: the database is away: {error}"
                    ) from error
                time.sleep(0.5)


def _link_file(path: Path, target: Path) -> None:
    """A second name for a file, or for what replaces it meanwhile: one that has just lost its name
    cannot be linked.
    """
    for _ in range(LINKS):
        try:
            return os.link(path, target)
        except FileNotFoundError:
            if not path.exists():
                raise
    return os.link(path, target)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _read_tail(path: Path, lines: int = 20) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
