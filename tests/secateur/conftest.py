"""Fixtures: the imitated service, and a client that does not really sleep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from secateur import Client, Policy
from tests.support.imitation import Imitation


@pytest.fixture
def service() -> Iterator[Imitation]:
    imitation = Imitation()
    yield imitation
    imitation.close()


@pytest.fixture
def sleeps() -> list[float]:
    return []


@pytest.fixture
def client(service: Imitation, sleeps: list[float]) -> Iterator[Client]:
    with Client(service.url, "key", sleep=sleeps.append, policy=Policy(retries=3)) as made:
        yield made
