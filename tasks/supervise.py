"""The supervisor of one claimed job: it starts a fresh process, sends heartbeats, stores what the
process finishes, and settles the job.

The process sees a folder and a pipe. The supervisor alone talks to the database and the artifact
store, and each of its writes carries the claim's fence.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tasks import owners, workspace
from tasks.artifacts import Artifacts, MissingArtifactError, hash_file
from tasks.helper import clean_environment
from tasks.launcher import Process, kill_group, launch
from tasks.settings import Settings
from tasks.store import Store, claims, families
from tasks.store.claims import Claim, LostError, SavedFile

logger = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
POLL_S = 1.0
EXIT_S = 10.0
"""Seconds that a process has to exit once it has sent its last message."""
RETRY_S = 0.5


class Verdict(Enum):
    """Why the supervisor ends a job process that has not ended by itself."""

    LOST = "lost"
    """Another worker holds the job, or the database was away for a whole lease."""
    PAUSING = "pausing"
    """A client asked for a pause."""
    CANCELLING = "cancelling"
    """A client asked for the end of the job."""
    DEADLINE = "deadline"
    """The job ran past its `deadline_s`."""
    STOPPING = "stopping"
    """The worker shuts down."""
    STUCK = "stuck"
    """The process sent no message for `stuck_s` seconds."""
    STORAGE = "storage"
    """A finished file could not be stored."""


class Supervisor:
    """Runs one claim to its end.

    `stopping` is set when the worker shuts down: the job is then handed back.
    """

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        settings: Settings,
        claim: Claim,
        stopping: threading.Event,
    ) -> None:
        self.store = store
        self.artifacts = artifacts
        self.settings = settings
        self.claim = claim
        self.stopping = stopping
        self._verdict: Verdict | None = None
        """The first reason to end the process; None while there is none."""
        self._handling = False
        self._heard_at = time.monotonic()
        self._stage = "baseline"
        self._error: dict[str, Any] | None = None
        self._summary: dict[str, Any] | None = None
        self._done = False
        self._waits = False
        self._known_statuses: dict[str, str] | None = None
        """The statuses of a family's members that its turn knew, by job id; None for other jobs."""
        self._first_progress: float | None = None
        self._first_progress_at = time.monotonic()
        self._uploads = 0

    def run(self) -> None:
        """Start the process, follow it and settle the job."""
        folder: Path | None = None
        try:
            folder = workspace.make(self.store, self.settings, self.claim)
            self._attempt(folder)
            workspace.tidy(self.store, self.artifacts, self.claim)
        except LostError as error:
            logger.warning("%s", error)
        except Exception as error:
            # Without this a job would wait for its lease to run out beside a worker that lives.
            logger.exception("job %s: the supervisor failed", self.claim.job_id)
            with suppress(LostError):
                self._crash(f"{type(error).__name__}: {error}")
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
        with self._open_process(folder) as process:
            watch = threading.Thread(target=self._watch, args=(process,), daemon=True)
            watch.start()
            self._follow(process)
        watch.join()
        self._settle(process.wait(), folder)

    @contextmanager
    def _open_process(self, folder: Path) -> Iterator[Process]:
        """Yield the running job process, whose messages `self._pipe` reads; on leaving, kill its
        process group.
        """
        with ExitStack() as stack, (folder / "log").open("wb") as log:
            message_reader, message_writer = os.pipe()
            self._pipe = stack.enter_context(os.fdopen(message_reader, "r"))
            # The supervisor alone holds the end for writing: if it dies, the process reads the end
            # of its stdin and exits.
            stdin_reader, stdin_writer = os.pipe()
            stack.callback(os.close, stdin_writer)
            try:
                # `launch` puts the number of the channel's descriptor in place of "{channel}".
                process = launch(
                    "tasks.processes.job",
                    [str(folder), "{channel}"],
                    streams=(stdin_reader, log, log),
                    environment=clean_environment(),
                    channel=message_writer,
                )
            finally:
                # The process has copies of its own; with ours open the pipes would never end.
                os.close(stdin_reader)
                os.close(message_writer)
            try:
                yield process
            finally:
                kill_group(process)
                process.wait()

    def _follow(self, process: Process) -> None:
        """Handle the process's messages until it ends, which ends the pipe."""
        for line in self._pipe:
            if self._verdict is not None:
                return
            self._handling = True
            try:
                self._handle(json.loads(line))
            except LostError:
                self._verdict = Verdict.LOST
            except OSError as error:
                self._verdict = Verdict.STORAGE
                self._error = {
                    "code": "storage_failed",
                    "message": f"a result could not be stored: {error}",
                    "retryable": True,
                }
            finally:
                self._heard_at = time.monotonic()
                self._handling = False
            if self._verdict is not None or self._has_last_message():
                break
        if self._verdict is None and self._has_last_message():
            with suppress(subprocess.TimeoutExpired):
                process.wait(EXIT_S)

    def _has_last_message(self) -> bool:
        """Return whether the process has said how its work ended."""
        return self._done or self._waits or self._error is not None

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message.pop("type")
        if kind == "stage":
            self._stage = message["stage"]
            self._write(claims.record_progress, stage=message["stage"])
        elif kind == "progress":
            done, total = message["done"], message["total"]
            eta_s = self._estimate_eta(done, total)
            self._write(claims.record_progress, done=done, total=total, eta_s=eta_s)
        elif kind in ("saved", "file"):
            self._store_file(kind, message)
        elif kind == "dropped":
            self._discard(self._write(claims.drop_stage, message["name"]))
        elif kind in ("warning", "checkpoint"):
            self._write(claims.record_event, kind, message)
        elif kind == "members":
            self._write(families.start_members, message["start"])
        else:
            self._remember_outcome(kind, message)

    def _remember_outcome(self, kind: str, message: dict[str, Any]) -> None:
        """Keep what the job is settled with once its process has ended."""
        if kind == "summary":
            self._summary = message["summary"]
        elif kind == "wait":
            self._waits = True
            self._known_statuses = message["seen"]
        elif kind == "error":
            self._error = message
        elif kind == "done":
            self._done = True
            self._known_statuses = message.get("seen")

    def _store_file(self, kind: str, message: dict[str, Any]) -> None:
        """Upload a finished file, then point the database at it.

        The process may replace or drop the file meanwhile, so a link of our own is uploaded.
        """
        path = Path(message["path"])
        self._uploads += 1
        link = path.with_name(f".upload-{self._uploads}")
        try:
            workspace.link_file(path, link)
        except FileNotFoundError:
            if kind == "saved":
                return  # dropped already: a later message reports it
            raise
        try:
            folder = f"jobs/{self.claim.job_id}/attempts/{self.claim.fence}/{kind}"
            key = f"{folder}/{self._uploads}-{path.name}"
            file = SavedFile(key, hash_file(link), link.stat().st_size)
            self.artifacts.put(key, link)
        finally:
            link.unlink()
        if kind == "saved":
            self._discard(self._write(claims.save_stage, message["name"], file))
        else:
            self._write(claims.save_result, message["checkpoint"], message["format"], file)

    def _discard(self, artifact: str | None) -> None:
        """Remove an artifact that nothing points at any more.

        One that cannot be removed costs space and does no other harm.
        """
        if artifact is not None:
            with suppress(OSError):
                self.artifacts.delete(artifact)

    def _estimate_eta(self, done: float, total: float) -> float | None:
        """Return the seconds left at the pace since this attempt's first progress."""
        if self._first_progress is None:
            self._first_progress = done
            self._first_progress_at = time.monotonic()
            return None
        advanced = done - self._first_progress
        if advanced <= 0:
            return None
        return (total - done) * (time.monotonic() - self._first_progress_at) / advanced

    def _watch(self, process: Process) -> None:
        """Send heartbeats, and kill the process as soon as there is a verdict."""
        beaten_at = time.monotonic()
        due_at = 0.0
        while process.poll() is None and self._verdict is None:
            now = time.monotonic()
            verdict: Verdict | None = None
            try:
                if now >= due_at:
                    with self.store.write() as session:
                        status = claims.heartbeat(session, self.claim, self.settings.lease_s)
                    due_at = now + self.settings.heartbeat_s
                    beaten_at = now
                else:
                    with self.store.read() as session:
                        status = claims.read_status(session, self.claim)
                verdict = self._judge_record(status)
            except LostError:
                verdict = Verdict.LOST
            except (SQLAlchemyError, OSError) as error:
                logger.warning("job %s: no heartbeat: %s", self.claim.job_id, error)
                if now - beaten_at > self.settings.lease_s:
                    verdict = Verdict.LOST
            verdict = verdict or self._judge_worker(now)
            if verdict is not None:
                # The thread that follows the pipe may have come to a verdict first.
                self._verdict = self._verdict or verdict
                kill_group(process)
                return
            self.stopping.wait(min(POLL_S, self.settings.heartbeat_s))

    def _judge_record(self, status: str) -> Verdict | None:
        """Return the verdict that follows from the job's record in the database."""
        if status != "running":
            return Verdict(status)
        if self.claim.deadline_at is not None and time.time() > self.claim.deadline_at:
            return Verdict.DEADLINE
        return None

    def _judge_worker(self, now: float) -> Verdict | None:
        """Return the verdict that follows from the state of this worker and its process."""
        if self.stopping.is_set():
            return Verdict.STOPPING
        if not self._handling and now - self._heard_at > self.settings.stuck_s:
            return Verdict.STUCK
        return None

    def _settle(self, returncode: int, folder: Path) -> None:
        """Write how the job goes on: first by the verdict, else by the process's last message."""
        match self._verdict:
            case Verdict.LOST:
                raise LostError(f"job {self.claim.job_id}: the lease was lost")
            case Verdict.STOPPING | Verdict.PAUSING:
                self._write(claims.hand_back)
            case Verdict.CANCELLING:
                self._write(claims.settle, "cancelled", summary=self._summary)
            case Verdict.DEADLINE:
                error = claims.build_deadline_error(self._stage, self.claim.attempt)
                self._write(claims.settle, "failed", summary=self._summary, error=error)
            case Verdict.STORAGE | Verdict.STUCK | None:
                self._settle_by_last_message(returncode, folder)

    def _settle_by_last_message(self, returncode: int, folder: Path) -> None:
        if self._error is not None:
            self._settle_failed(**self._error)
        elif self._waits:
            self._write(families.park, self._known_statuses or {})
        elif self._done and self._known_statuses is not None:
            self._write(families.finish, self._known_statuses, self._summary)
        elif self._done:
            self._write(claims.settle, "succeeded", summary=self._summary)
        else:
            if self._verdict is Verdict.STUCK:
                reason = "the job process was silent for too long"
            else:
                reason = f"the job process ended with {owners.describe_exit(returncode)}"
            logger.error("job %s: %s\n%s", self.claim.job_id, reason, _read_tail(folder / "log"))
            self._crash(reason)

    def _settle_failed(self, code: str, message: str, retryable: bool) -> None:
        error = {
            "code": code,
            "message": message,
            "stage": self._stage,
            "retryable": retryable,
            "attempt": self.claim.attempt,
        }
        self._write(claims.settle, "failed", summary=self._summary, error=error)

    def _crash(self, reason: str) -> None:
        self._write(claims.crash, reason, max_attempts=self.settings.max_attempts)

    def _write(
        self,
        action: Callable[Concatenate[Session, Claim, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Run `action(session, claim, ...)` in one transaction.

        While the database does not answer it is tried again, until the lease would have run out.
        """
        give_up_at = time.monotonic() + self.settings.lease_s
        while True:
            try:
                with self.store.write() as session:
                    return action(session, self.claim, *args, **kwargs)
            except SQLAlchemyError as error:
                if time.monotonic() > give_up_at:
                    raise LostError(
                        f"job {self.claim.job_id}: the database does not answer: {error}"
                    ) from error
                time.sleep(RETRY_S)


def _read_tail(path: Path, lines: int = 20) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
