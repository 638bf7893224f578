"""The Celery app and its messages. A message carries a job's id and nothing else."""

from __future__ import annotations

import logging

from celery import Celery

from tasks.settings import Settings

logger = logging.getLogger(__name__)

RUN_JOB = "tasks.run_job"
QUEUE = "jobs"
VISIBILITY_TIMEOUT_S = 30 * 24 * 3600
PRIORITIES = 10


def make_app(settings: Settings) -> Celery:
    """Return the Celery app: late acknowledgement, one message at a time, JSON only, priorities."""
    app = Celery("secateur", broker=settings.broker_url)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=QUEUE,
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "polling_interval": 2,  # how long the broker waits for a message before it says so
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "socket_connect_timeout": 3,
            "queue_order_strategy": "priority",
            "priority_steps": list(range(PRIORITIES)),
            "sep": ":",
        },
    )
    return app


def enqueue(app: Celery, job_id: str, priority: int) -> None:
    """Publish a job's id; 9 is the most urgent priority.

    Raises kombu's `OperationalError` when the broker does not answer.
    """
    # The most urgent priority of the Redis transport is 0.
    app.send_task(RUN_JOB, args=[job_id], priority=PRIORITIES - 1 - priority, retry=False)


def ping_broker(settings: Settings) -> None:
    """Raise when the broker does not answer."""
    app = make_app(settings)
    try:
        with app.connection_for_write(connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
    finally:
        app.close()
