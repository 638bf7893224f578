"""The seed of the layers that the tests of quadratic models build."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pruning.seeding import seeded


@pytest.fixture
def same_layers() -> Iterator[None]:
    """Seed the layers that a test builds, so that they are the same in every run."""
    with seeded(0):
        yield
