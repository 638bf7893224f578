"""The relay from the outbox to the broker: what is committed is published, by one process at a
time.
"""

from __future__ import annotations

import logging
import threading

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from tasks import owners
from tasks.queue import enqueue, make_app
from tasks.settings import Settings
from tasks.store import Store, claims

logger = logging.getLogger(__name__)


def relay_once(store: Store, app: Celery) -> int:
    """Publish what is due and remove it from the outbox; no transaction is open while the broker is
    asked.

    A crash between the two publishes a message twice, which the fence of a claim makes harmless.
    """
    with store.read() as session:
        due = claims.list_due_messages(session)
    for message in due:
        enqueue(app, message.job_id, message.priority)
        with store.write() as session:
            claims.mark_published(session, message)
    return len(due)


def relay_forever(
    store: Store, settings: Settings, stop: threading.Event, wake: threading.Event
) -> None:
    """Relay while this process leads, every `relay_s` seconds or when woken; survives an absent
    broker or database.
    """
    app, me, failures = make_app(settings), owners.identify_process(), 0
    while not stop.is_set():
        try:
            with store.write() as session:
                leads = claims.lead(
                    session, "relay", me, max(20.0, 10 * settings.relay_s), owners.is_gone
                )
            if leads:
                relay_once(store, app)
            failures = 0
        except (OperationalError, SQLAlchemyError, OSError) as error:
            failures += 1
            if failures in (1, 10) or failures % 100 == 0:
                logger.warning("the relay waits: %s", error)
        wake.wait(min(5.0, settings.relay_s * 2 ** min(failures, 4)))
        wake.clear()
    app.close()
