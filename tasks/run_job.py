"""The one task: claim, run the job process, settle."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from tasks import hosts, workspace
from tasks.artifacts import Artifacts
from tasks.settings import Settings
from tasks.store import Store, families, work
from tasks.supervise import Supervisor

logger = logging.getLogger(__name__)


@dataclass
class Runner:
    """What a worker needs to run jobs; `stopping` is set when it shuts down."""

    store: Store
    artifacts: Artifacts
    settings: Settings
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, job_id: str) -> bool:
        """Run the job if it is to be had; False leaves it to whoever holds it, or to nobody when it has ended."""
        if self.stopping.is_set():
            return False
        with self.store.write() as session:
            claim = work.claim(session, job_id, hosts.owner(), self.settings.lease_s,
                               max_attempts=self.settings.max_attempts, gone=hosts.is_gone)
        if claim is None:
            return False
        logger.info("job %s: attempt %d, fence %d", job_id, claim.attempt, claim.fence)
        Supervisor(self.store, self.artifacts, self.settings, claim, self.stopping).run()
        return True


def reap_forever(runner: Runner) -> None:
    """Sweep every `reaper_s` seconds while this process leads; at once after a start.

    A sweep that came through touches `alive_file`, for a health check from outside.
    """
    settings = runner.settings
    while not runner.stopping.is_set():
        try:
            with runner.store.write() as session:
                leads = work.lead(session, "reaper", hosts.owner(), 2 * settings.reaper_s, hosts.is_gone)
                if leads:
                    work.sweep(session, max_attempts=settings.max_attempts, gone=hosts.is_gone)
            if leads:
                with runner.store.write() as session:
                    families.cancel_stragglers(session)
            if settings.alive_file is not None:
                settings.alive_file.touch()
            workspace.sweep(runner.store, settings)
        except Exception:
            logger.exception("the reaper could not sweep")
        runner.stopping.wait(settings.reaper_s)
