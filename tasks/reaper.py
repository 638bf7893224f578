"""The reaper: jobs whose worker has died are queued again, and what is left of ended ones is
removed.
"""

from __future__ import annotations

import logging

from tasks import owners, workspace
from tasks.run_job import Runner
from tasks.store import claims, families

logger = logging.getLogger(__name__)


def reap_forever(runner: Runner) -> None:
    """Sweep every `reaper_s` seconds while this process leads; at once after a start.

    A sweep that came through touches `alive_file`, for a health check from outside.
    """
    settings = runner.settings
    while not runner.stopping.is_set():
        try:
            with runner.store.write() as session:
                leads = claims.lead(
                    session,
                    "reaper",
                    owners.identify_process(),
                    2 * settings.reaper_s,
                    owners.is_gone,
                )
                if leads:
                    claims.sweep(session, max_attempts=settings.max_attempts, gone=owners.is_gone)
            if leads:
                with runner.store.write() as session:
                    families.cancel_stragglers(session)
            if settings.alive_file is not None:
                settings.alive_file.touch()
            workspace.sweep(runner.store, settings)
        except Exception:
            logger.exception("the reaper could not sweep")
        runner.stopping.wait(settings.reaper_s)
