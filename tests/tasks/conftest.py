"""Fixtures: databases on SQLite and PostgreSQL, artifacts in a folder and in S3, a worker's
surroundings.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.artifacts import Artifacts, LocalArtifacts, open_artifacts
from tasks.store import Store
from tasks.store.tables import Base
from tests.support.job_world import Chaos, World, make_world
from tests.support.servers import Bucket


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Store]:
    """A store on SQLite, in a folder of its own."""
    store = Store(f"sqlite:///{tmp_path}/db.sqlite")
    store.create_tables()
    yield store
    store.close()


@pytest.fixture(
    scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]
)
def shared_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """A store on either database that tests share: it keeps its connections and statements."""
    if request.param == "sqlite":
        store = Store(f"sqlite:///{tmp_path_factory.mktemp('store')}/db.sqlite")
    else:
        store = Store(request.getfixturevalue("postgresql").new_database())
    store.create_tables()
    yield store
    store.close()


@pytest.fixture
def store(shared_store: Store) -> Store:
    """An empty store on either database."""
    with shared_store.write() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())
    return shared_store


@pytest.fixture(params=["folder", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    """An empty artifact store of either kind."""
    if request.param == "folder":
        return LocalArtifacts(tmp_path / "artifacts")
    bucket: Bucket = request.getfixturevalue("s3")
    return open_artifacts(bucket.url, s3_endpoint=bucket.endpoint)


@pytest.fixture
def world(tmp_path: Path, lite: Store) -> World:
    """The surroundings of a worker, on SQLite and a folder."""
    return make_world(lite, LocalArtifacts(tmp_path / "artifacts"), tmp_path)


@pytest.fixture
def chaos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chaos:
    """A plugin in every job process that fails as planned after the k-th saved stage."""
    chaos = Chaos(tmp_path / "plugins")
    monkeypatch.setenv("SECATEUR_PLUGIN_PATH", str(chaos.folder))
    return chaos


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """SHA-256 of every checkpoint file of the standard job, run without interruption."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = Store(f"sqlite:///{folder}/db.sqlite")
    try:
        store.create_tables()
        world = make_world(store, LocalArtifacts(folder / "artifacts"), folder)
        job_id = world.submit()
        assert world.runner().run(job_id)
        world.assert_succeeded_once(job_id)
        return world.checkpoints(job_id)
    finally:
        store.close()
