"""A running service for the tests that do not harm it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.running import Running


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a service that many tests share."""
    running = Running(tmp_path_factory.mktemp("service")).start()
    yield running
    running.stop()
    running.close()


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a service with two workers that many tests share; they may kill a worker of it."""
    running = Running(tmp_path_factory.mktemp("two-workers"), workers=2).start()
    yield running
    running.stop()
    running.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Return a function that starts services for one test, which end with it."""
    started: list[Running] = []

    def make(workers: int = 1, **settings: str) -> Running:
        started.append(Running(tmp_path / str(len(started)), workers=workers, **settings))
        return started[-1]

    yield make
    for running in started:
        running.close()


@pytest.fixture(autouse=True)
def _linux_only() -> None:
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
