"""The reaper: it queues the jobs of dead workers again, and removes what ended jobs left behind."""

from __future__ import annotations

import logging

from tasks import owners, workspace
from tasks.run_job import Runner
from tasks.store import claims, families, leaders

logger = logging.getLogger(__name__)


def reap_forever(runner: Runner) -> None:
    """Sweep at once, then every `reaper_s` seconds, while this process leads.

    A sweep that succeeds touches `alive_file`, for a health check from outside.
    """
    settings = runner.settings
    owner = owners.identify_process()
    lease_s = 2 * settings.reaper_s
    while not runner.stopping.is_set():
        try:
            with runner.store.write() as session:
                leads = leaders.lead(session, "reaper", owner, lease_s, owners.is_gone)
                if leads:
                    claims.sweep(
                        session, max_attempts=settings.max_attempts, is_gone=owners.is_gone
                    )
            if leads:
                with runner.store.write() as session:
                    families.cancel_stragglers(session)
            if settings.alive_file is not None:
                settings.alive_file.touch()
            workspace.sweep(runner.store, settings)
        except Exception:
            logger.exception("the reaper could not sweep")
        runner.stopping.wait(settings.reaper_s)
