"""Fixtures that every test may use: real servers. The order of the tests."""

import gc

import pytest

from tests.support.servers import postgresql, s3, s3_server, valkey, valkey_shared

__all__ = ["postgresql", "s3", "s3_server", "valkey", "valkey_shared"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on a running service take longest: they go first, so that none is left to one worker at
    the end.
    """
    items.sort(key=lambda item: "tests/service/" not in item.nodeid)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the garbage collector the modules and the tests: they live as long as the process."""
    gc.collect()
    gc.freeze()


collect_ignore_glob = ["support/plugins/*"]
"""Methods that tests register in processes of their own; here they would join every registry."""
