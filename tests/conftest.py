"""Fixtures that every test may use: real servers. The order of the tests."""

from __future__ import annotations

import gc
import os

import pytest
from xdist.scheduler import LoadFileScheduling

import tasks.helper
from tests.support.servers import postgresql, s3, s3_server, valkey, valkey_shared

__all__ = ["postgresql", "s3", "s3_server", "valkey", "valkey_shared"]


FORKING = (
    "tests/tasks/test_supervise.py",
    "tests/tasks/test_failed_jobs.py",
    "tests/tasks/test_resume.py",
    "tests/tasks/processes/",
    "tests/api/test_helper_pool.py",
)
"""The files whose tests share a fork server, which takes ten seconds to import all it needs."""


class SharedScheduling(LoadFileScheduling):
    """Gives each file to one worker, and all files that share a fork server to the same."""

    def _split_scope(self, nodeid: str) -> str:
        return FORKING[0] if nodeid.startswith(FORKING) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling | None:
    """Return the scheduler where files are given to workers."""
    return SharedScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest goes first, so that none is left to one worker at the end."""
    items.sort(
        key=lambda item: ("tests/service/" not in item.nodeid, not item.nodeid.startswith(FORKING))
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the garbage collector the modules and the tests: they live as long as the process.

    What is imported later is looked at in each full collection, for half a second: there are fewer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


def pytest_configure(config: pytest.Config) -> None:
    """Let the processes of jobs and helpers, whose environment holds no more than they need, be
    measured where `make coverage` measures.
    """
    measured = tuple(name for name in os.environ if name.startswith("COVERAGE_PROCESS"))
    tasks.helper.PASSED_ON += measured  # type: ignore[assignment]


collect_ignore_glob = ["support/plugins/*"]
"""Methods that tests register in processes of their own; here they would join every registry."""
