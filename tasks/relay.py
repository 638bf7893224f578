"""The relay from the outbox to the broker: one process at a time publishes what is committed."""

from __future__ import annotations

import logging
import threading

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from tasks import owners
from tasks.queue import enqueue, make_app
from tasks.settings import Settings
from tasks.store import Store, leaders, outbox

logger = logging.getLogger(__name__)


def relay_once(store: Store, app: Celery) -> int:
    """Publish the messages that are due and remove them from the outbox; return how many.

    No transaction is open while the broker is called. A crash between the two steps publishes a
    message twice, which the fence of a claim makes harmless.
    """
    with store.read() as session:
        messages = outbox.list_due_messages(session)
    for message in messages:
        enqueue(app, message.job_id, message.priority)
        with store.write() as session:
            outbox.mark_published(session, message)
    return len(messages)


def relay_forever(
    store: Store, settings: Settings, stop: threading.Event, wake: threading.Event
) -> None:
    """Relay while this process leads, every `relay_s` seconds or when woken.

    While the broker or the database is absent it waits and tries again.
    """
    app = make_app(settings)
    owner = owners.identify_process()
    lease_s = max(20.0, 10 * settings.relay_s)
    failures = 0
    while not stop.is_set():
        try:
            with store.write() as session:
                leads = leaders.lead(session, "relay", owner, lease_s, owners.is_gone)
            if leads:
                relay_once(store, app)
            failures = 0
        except (OperationalError, SQLAlchemyError, OSError) as error:
            failures += 1
            if failures in (1, 10) or failures % 100 == 0:  # not every failure floods the log
                logger.warning("the relay waits: %s", error)
        wake.wait(min(5.0, settings.relay_s * 2 ** min(failures, 4)))
        wake.clear()
    app.close()
