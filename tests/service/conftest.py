"""One running service for the tests that do not harm it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.running import Running


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that many tests share."""
    running = Running(tmp_path_factory.mktemp("service")).start()
    yield running
    running.stop()
    running.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Services of one test, ended with it."""
    started: list[Running] = []

    def make(**settings: str) -> Running:
        started.append(Running(tmp_path / str(len(started)), **settings))
        return started[-1]

    yield make
    for running in started:
        running.close()


@pytest.fixture(autouse=True)
def _linux_only() -> None:
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
