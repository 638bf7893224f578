"""Time from the request that submits a job until it runs, beside a bare Celery round trip.

`python benchmarks/submit_latency.py` starts `secateur serve`, and on its broker a Celery worker of
one task that answers over a list of the broker. Jobs and bare tasks are sent in turn; a job is
cancelled once it runs. Printed are the medians: until the answer, until the job is `running` (a
worker has claimed it), and until its process reports its first stage, for jobs whose estimate is
known and for jobs that are new. It fails where the median until `running` is above 300 ms.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis

from examples.embedded import service
from secateur import Client
from tasks.queue import make_app
from tasks.settings import Settings

LIMIT_S = 0.3
COUNT = 12
EPOCHS = 1000
"""Longer than it takes to see that the job runs."""
QUEUE = "bare"
"""The queue of the bare tasks, and the list of their answers."""
SPEC: dict[str, Any] = {
    "type": "prune",
    "model": {"architecture": "mlp"},
    "dataset": {"builtin": "digits"},
    "targets": {"sparsity": [0.5]},
}


def main() -> int:
    """Measure and print; 1 where a limit does not hold."""
    times: dict[str, list[dict[str, float]]] = {"known": [], "new": []}
    rounds: list[float] = []
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as url:
        socket = Path((Path(folder) / "socket-folder").read_text()) / "valkey.sock"
        broker = f"redis+socket://{socket}"
        with (
            Client(url) as client,
            Redis(unix_socket_path=str(socket)) as redis,
            run_bare_worker(broker),
        ):
            app = make_bare_app(broker)
            ask_bare_worker(app, redis)
            time_job(client, EPOCHS)  # the worker is warm now
            for number in range(COUNT):
                times["known"].append(time_job(client, EPOCHS))
                times["new"].append(time_job(client, EPOCHS + 1 + number))
                rounds.append(ask_bare_worker(app, redis))
    bare = statistics.median(rounds)
    print(f"bare Celery round trip  {1e3 * bare:6.1f} ms")
    failed = False
    for kind, rows in times.items():
        running = statistics.median(row["running"] for row in rows)
        failed |= running > LIMIT_S
        worst = max(row["running"] for row in rows)
        print(
            f"{kind + ' estimate':22}  answered {describe(rows, 'answered')}, running "
            f"{describe(rows, 'running')} (at most {1e3 * worst:.0f}), first stage "
            f"{describe(rows, 'stage')}; {running / bare:.1f} round trips until running; limit "
            f"{1e3 * LIMIT_S:g} ms"
        )
    return int(failed)


def describe(rows: list[dict[str, float]], name: str) -> str:
    """Return the median of a time in milliseconds."""
    return f"{1e3 * statistics.median(row[name] for row in rows):.0f} ms"


def time_job(client: Client, epochs: int) -> dict[str, float]:
    """Return the seconds from the request on until each step of a job, and end it."""
    model = SPEC["model"] | {"train": {"epochs": epochs}}
    begin = time.time()
    job = client.jobs.submit(SPEC | {"model": model})
    times = {"answered": time.time() - begin}
    for event in client.jobs.events(job.id):
        is_running = event.data.get("status") == "running"
        name = "running" if is_running else event.type
        at = datetime.fromisoformat(str(event.at).replace("Z", "+00:00")).timestamp()
        times.setdefault(name, at - begin)
        if name == "stage":
            break
    client.jobs.cancel(job.id)
    while not client.jobs.get(job.id).terminal:
        time.sleep(0.05)
    return times


def make_bare_app(broker: str) -> Celery:
    """Return an app with the settings of the service and one task."""
    app = make_app(Settings(broker_url=broker))
    app.conf.task_default_queue = QUEUE

    @app.task(name="bare")  # type: ignore[untyped-decorator]
    def answer() -> None:
        with Redis(unix_socket_path=broker.removeprefix("redis+socket://")) as redis:
            redis.rpush("answers", "done")

    return app


def ask_bare_worker(app: Celery, redis: Redis) -> float:
    """Return the seconds until a bare task has answered."""
    begin = time.perf_counter()
    app.send_task("bare")
    assert redis.blpop(["answers"], timeout=60) is not None
    return time.perf_counter() - begin


@contextmanager
def run_bare_worker(broker: str) -> Iterator[None]:
    """Run a Celery worker of the bare task until the block ends."""
    with subprocess.Popen(
        [sys.executable, __file__, "--bare", broker], stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    if "--bare" in sys.argv:
        make_bare_app(sys.argv[-1]).Worker(
            pool="threads",
            concurrency=1,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        ).start()
    else:
        sys.exit(main())
