"""The Celery app and the relay from the outbox to the broker. A message carries a job's id and nothing else."""

from __future__ import annotations

import logging
import threading

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from tasks import hosts
from tasks.settings import Settings
from tasks.store import Store, work

logger = logging.getLogger(__name__)

RUN_JOB = "tasks.run_job"
QUEUE = "jobs"
VISIBILITY_TIMEOUT_S = 30 * 24 * 3600
PRIORITIES = 10


def make_app(settings: Settings) -> Celery:
    """The Celery app: late acknowledgement, one message at a time, JSON only, priorities."""
    app = Celery("secateur", broker=settings.broker_url)
    app.conf.update(
        task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1, task_ignore_result=True,
        task_serializer="json", accept_content=["json"], task_default_queue=QUEUE, task_create_missing_queues=True,
        broker_connection_retry_on_startup=True, broker_connection_max_retries=None, worker_enable_remote_control=False,
        worker_hijack_root_logger=False, worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S, "unacked_restore_interval": 10, "unacked_restore_throttle": 1,
            "socket_keepalive": True, "health_check_interval": 10, "socket_connect_timeout": 3,
            "queue_order_strategy": "priority", "priority_steps": list(range(PRIORITIES)), "sep": ":",
        })
    return app


def enqueue(app: Celery, job_id: str, priority: int) -> None:
    """Publish a job's id; 9 is the most urgent priority. Raises kombu's `OperationalError` when the broker is away."""
    app.send_task(RUN_JOB, args=[job_id], priority=PRIORITIES - 1 - priority, retry=False)


def ping_broker(settings: Settings) -> None:
    """Raise when the broker does not answer."""
    app = make_app(settings)
    try:
        with app.connection_for_write(connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
    finally:
        app.close()


def relay_once(store: Store, app: Celery) -> int:
    """Publish what is due and remove it from the outbox; no transaction is open while the broker is asked.

    A crash between the two publishes a message twice, which the fence of a claim makes harmless.
    """
    with store.read() as session:
        due = work.due_messages(session)
    for message in due:
        enqueue(app, message.job_id, message.priority)
        with store.write() as session:
            work.published(session, message)
    return len(due)


def relay_forever(store: Store, settings: Settings, stop: threading.Event, wake: threading.Event) -> None:
    """Relay while this process leads, every `relay_s` seconds or when woken; survives an absent broker or database."""
    app, me, failures = make_app(settings), hosts.owner(), 0
    while not stop.is_set():
        try:
            with store.write() as session:
                leads = work.lead(session, "relay", me, max(20.0, 10 * settings.relay_s), hosts.is_gone)
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
