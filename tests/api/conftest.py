"""Fixtures of the API's tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import tasks.helper
import tasks.queue
import tasks.relay
from api.main import create_app
from api.settings import ApiSettings
from tests.support import api_world


@contextmanager
def building(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., api_world.World]]:
    """Yield a function that makes a world with the settings given to it.

    The world has no broker, and its helper is imitated unless `real`.
    """

    def relay(store: Any, settings: Any, stop: threading.Event, wake: threading.Event) -> None:
        stop.wait()

    monkeypatch.setattr(tasks.relay, "relay_forever", relay)
    monkeypatch.setattr(tasks.queue, "ping_broker", lambda settings: None)
    with ExitStack() as stack:

        def make(
            *,
            client: tuple[str, int] = ("127.0.0.1", 50_000),
            host: str = "127.0.0.1",
            real: bool = False,
            catalogue: bool = True,
            **settings: Any,
        ) -> api_world.World:
            helper = api_world.Helper()
            if not real:
                monkeypatch.setattr(tasks.helper, "run_helper", helper)
            (folder / "work").mkdir(exist_ok=True)
            app = create_app(
                ApiSettings(
                    database_url=f"sqlite:///{folder}/db.sqlite",
                    artifact_url=f"file:{folder}/artifacts",
                    work_dir=folder / "work",
                    **settings,
                )
            )
            opened = stack.enter_context(TestClient(app, base_url=f"http://{host}", client=client))
            world = api_world.World(opened, helper, folder)
            if catalogue:
                world.publish()
            return world

        yield make


@pytest.fixture
def build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., api_world.World]]:
    """Return a function that makes a world with the settings given to it."""
    with building(tmp_path, monkeypatch) as make:
        yield make


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[api_world.World]:
    """An open service for requests that are refused: they leave it as it was."""
    folder = tmp_path_factory.mktemp("untouched")
    with pytest.MonkeyPatch.context() as monkeypatch, building(folder, monkeypatch) as make:
        yield make()


@pytest.fixture
def world(build: Callable[..., api_world.World]) -> api_world.World:
    """An open service with a catalogue."""
    return build()
