"""Fixtures that every test may use: real servers. The order of the tests."""

from __future__ import annotations

import gc

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.support.servers import postgresql, s3, s3_server, valkey, valkey_shared

__all__ = ["postgresql", "s3", "s3_server", "valkey", "valkey_shared"]


class ServiceScheduling(LoadFileScheduling):
    """Gives each file to one worker, and all files that share a running service to the same."""

    SHARED = tuple(
        f"tests/service/test_{name}.py"
        for name in ("jobs", "segmentation_jobs", "serve", "uploads")
    )

    def _split_scope(self, nodeid: str) -> str:
        return "tests/service" if nodeid.startswith(self.SHARED) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling | None:
    """Return the scheduler where files are given to workers."""
    return ServiceScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


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
