"""The one task of the queue: claim a job, run its process, settle it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from pruning.schemas.job import runs_by_members
from tasks import owners
from tasks.artifacts import Artifacts
from tasks.settings import Settings
from tasks.store import Store, claims, shares
from tasks.supervise import Supervisor

logger = logging.getLogger(__name__)


@dataclass
class Runner:
    """The connections that a worker needs to run jobs, as many as `concurrency` at a time.

    `stopping` is set when it shuts down.
    """

    store: Store
    artifacts: Artifacts
    settings: Settings
    concurrency: int = 1
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, job_id: str) -> bool:
        """Run the job if it can be claimed, and return whether it was.

        A job that cannot be claimed is held by another worker, is not due, or has ended.
        """
        if self.stopping.is_set():
            return False
        with self.store.write() as session:
            claim = claims.claim(
                session,
                job_id,
                owners.identify_process(),
                self.settings.lease_s,
                max_attempts=self.settings.max_attempts,
                is_gone=owners.is_gone,
            )
            if claim is not None and not runs_by_members(claim.spec):
                host = owners.identify_host()
                shares.assign_threads(session, claim.job_id, host, self.concurrency)
        if claim is None:
            return False
        logger.info("job %s: attempt %d, fence %d", job_id, claim.attempt, claim.fence)
        Supervisor(self.store, self.artifacts, self.settings, claim, self.stopping).run()
        return True
