"""The tables themselves: made, mended, and the ids of their rows."""

from __future__ import annotations

import re
import time
from pathlib import Path

from sqlalchemy import func, select

from tasks.store import Store, assets, new_id
from tasks.store.tables import Dataset, Event, Idempotency, Job, JobLabel, Outbox
from tests.support.job_world import create, together


def test_the_database_itself_deletes_a_jobs_rows_with_it(store: Store) -> None:
    job = create(store, labels={"a": "b"}, key="k")
    with store.write() as session:
        session.delete(session.get(Job, job.id))
        session.flush()
        for table in (Outbox, JobLabel, Event, Idempotency):
            assert session.scalar(select(func.count()).select_from(table)) == 0


def test_tables_are_made_by_several_processes_at_once(store: Store) -> None:
    others = [Store(store.url) for _ in range(4)]
    try:
        assert together([other.create_tables for other in others]) == [None] * 4
    finally:
        for other in others:
            other.close()


def test_a_database_of_an_earlier_version_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    """Datasets stored before there were tasks have one class for each image."""
    old = Store(f"sqlite:///{tmp_path}/old.db")
    old.create_tables()
    with old.engine.connect().execution_options(write=True) as connection:
        connection.exec_driver_sql("ALTER TABLE datasets DROP COLUMN task")
        connection.exec_driver_sql("ALTER TABLE datasets DROP COLUMN notes")
        connection.exec_driver_sql(
            "INSERT INTO datasets (id, project, name, sha256, size_bytes, classes, shape, "
            "counts, artifact, created_at) "
            "VALUES ('dst_1', 'p', 'n', 's', 1, '[]', '[]', '{}', 'a', 0)"
        )
        connection.commit()
    old.create_tables()
    with old.read() as session:
        row = assets.get(session, Dataset, "p", "dst_1")
    assert (row.task, row.notes) == ("classification", [])


def explain_page(store: Store, where: str) -> str:
    """Return SQLite's plan for a page of jobs, newest first."""
    query = f"EXPLAIN QUERY PLAN SELECT * FROM jobs WHERE {where} ORDER BY id DESC LIMIT 20"
    with store.engine.connect() as connection:
        return " ".join(str(row[-1]) for row in connection.exec_driver_sql(query))


def test_pages_of_jobs_are_read_by_an_index_that_earlier_versions_lack(tmp_path: Path) -> None:
    old = Store(f"sqlite:///{tmp_path}/old.db")
    old.create_tables()
    with old.engine.connect().execution_options(write=True) as connection:
        connection.exec_driver_sql("DROP INDEX ix_jobs_project_id")
        connection.exec_driver_sql("DROP INDEX ix_jobs_project_status_id")
        connection.exec_driver_sql("CREATE INDEX ix_jobs_project ON jobs (project)")
        connection.commit()
    assert "TEMP B-TREE" in explain_page(old, "project = 'p'")
    old.create_tables()
    wheres = ("project = 'p'", "project = 'p' AND status = 'failed'", "project = 'p' AND id < 'j'")
    assert not any("TEMP B-TREE" in explain_page(old, where) for where in wheres)
    old.close()


def test_ids_sort_by_creation_and_fit_the_contract() -> None:
    ids = [new_id("job") for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(re.fullmatch(r"job_[0-9a-z]{8,40}", id) for id in ids)
    time.sleep(0.002)
    assert new_id("job") > max(ids)
