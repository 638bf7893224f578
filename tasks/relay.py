"""The relay from the outbox to the broker.

Every process publishes the messages that it has left in the outbox, at once. Those of processes
that died, or of a broker that was away, are found by the sweeps of one process at a time.
"""

from __future__ import annotations

import logging
import threading
import time

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from tasks import owners
from tasks.queue import enqueue, make_app
from tasks.settings import Settings
from tasks.store import Store, leaders, outbox

logger = logging.getLogger(__name__)

RETRY_S = 0.5
LONGEST_RETRY_S = 5.0


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
    """Relay when this process has left a message, when one becomes due, and in sweeps.

    `wake` is set by every transaction of `store` that leaves a message. A sweep comes every
    `relay_s` seconds, while this process leads. While the broker or the database is absent the
    relay waits and tries again.
    """
    store.listen(wake.set)
    app = make_app(settings)
    owner = owners.identify_process()
    lease_s = max(20.0, 3 * settings.relay_s)
    sweep_at = 0.0
    failures = 0
    has_work = False
    while not stop.is_set():
        try:
            if time.monotonic() >= sweep_at:
                with store.write() as session:
                    has_work |= leaders.lead(session, "relay", owner, lease_s, owners.is_gone)
                sweep_at = time.monotonic() + settings.relay_s
            wait_s = sweep_at - time.monotonic()
            if has_work:
                relay_once(store, app)
                with store.read() as session:
                    due_s = outbox.read_wait(session)
                has_work = due_s is not None and due_s < wait_s
                if has_work and due_s is not None:
                    wait_s = due_s
            failures = 0
        except (OperationalError, SQLAlchemyError, OSError) as error:
            failures += 1
            has_work = True
            wait_s = min(LONGEST_RETRY_S, min(RETRY_S, settings.relay_s) * 2 ** min(failures, 4))
            if failures in (1, 10) or failures % 100 == 0:  # not every failure floods the log
                logger.warning("the relay waits: %s", error)
        has_work |= wake.wait(max(0.0, wait_s))
        wake.clear()
    app.close()
