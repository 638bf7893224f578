"""Counters for Prometheus, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy import func, select

from tasks.store import Store
from tasks.store.tables import Job

KNOWN = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Metrics:
    """The requests by route, method and status, their latency, and the jobs by status."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "secateur_http_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "secateur_http_request_seconds",
            "Time to the end of the answer.",
            ("route", "method"),
            registry=self._registry,
        )
        self._jobs = Gauge("secateur_jobs", "Jobs by status.", ("status",), registry=self._registry)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        method = method if method in KNOWN else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)

    def render(self, store: Store) -> bytes:
        """Return the text that Prometheus reads."""
        with store.read() as session:
            counts = session.execute(select(Job.status, func.count()).group_by(Job.status)).all()
        self._jobs.clear()
        for status, count in counts:
            self._jobs.labels(status).set(count)
        return generate_latest(self._registry)
