"""The database connection: SQLite (WAL) or PostgreSQL behind two contexts, `read` and `write`."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    Float,
    Select,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, object_session
from sqlalchemy.schema import CreateColumn
from sqlalchemy.sql.functions import GenericFunction

from tasks.store.tables import Base, Outbox


class db_now(GenericFunction[float]):  # noqa: N801
    """The database's clock in seconds since the epoch, read when the statement runs."""

    type = Float(53)
    inherit_cache = True


@compiles(db_now, "sqlite")
def _compile_now_for_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _compile_now_for_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


_id_lock = threading.Lock()
_last_id_us = 0


def new_id(prefix: str) -> str:
    """Return an id such as `job_...`: 56 bits of microseconds, then 72 random bits.

    The ids that one process makes sort by their creation.
    """
    global _last_id_us
    with _id_lock:
        _last_id_us = max(_last_id_us + 1, time.time_ns() // 1000)
        raw = _last_id_us.to_bytes(7, "big") + secrets.token_bytes(9)
    return f"{prefix}_{base64.b32hexencode(raw).decode().rstrip('=').lower()}"


def insert_into(session: Session, table: type[Base]) -> Any:
    """Return the `INSERT` of this database that knows `ON CONFLICT`.

    It is for rows that two processes may write at the same time.
    """
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


Answer = TypeVar("Answer")
MESSAGE = "message"
"""The mark of a session that has left a message in the outbox."""


@event.listens_for(Outbox, "after_insert")
@event.listens_for(Outbox, "after_update")
def _mark_session(mapper: Any, connection: Any, message: Outbox) -> None:
    session = object_session(message)
    if session is not None:
        session.info[MESSAGE] = True


class Store:
    """The database.

    `with store.write() as session:` is one transaction; it commits on leaving, unless it raises.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            place = os.path.abspath(parsed.database or "")
        else:
            place = f"{parsed.host}:{parsed.port}/{parsed.database}"
        self.identity = hashlib.sha256(place.encode()).hexdigest()[:8]
        """A short name of this database, for files that lie beside those of other services."""
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if backend == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self._listeners: list[Callable[[], None]] = []
        self.engine = create_engine(parsed, **_choose_options(backend))
        if backend == "sqlite":
            _configure_sqlite(self.engine)

    def create_tables(self) -> None:
        """Create the tables, columns and indexes that are missing.

        Several processes may do so together.
        """
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(7310938)"))
                _create_missing(connection)
            else:
                connection = connection.execution_options(write=True)
                _create_missing(connection)
            connection.commit()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction that may write; on SQLite it takes the write lock at once."""
        with (
            self.engine.connect().execution_options(write=True) as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            yield session
            session.commit()
            left_message = MESSAGE in session.info
        if left_message:
            for listener in self._listeners:
                listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every transaction of this store that left a message in the outbox.

        Other processes' transactions are not heard of.
        """
        self._listeners.append(listener)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One transaction that only reads."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def read_value(self, statement: Select[Answer]) -> Answer | None:
        """Return the first value that a statement selects; None where it selects nothing.

        It costs half of a session, which has nothing to remember here.
        """
        with self.engine.connect() as connection:
            return connection.scalar(statement)

    def ping(self) -> None:
        """Raise when the database does not answer."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _create_missing(connection: Connection) -> None:
    """Create the tables that are missing, and the columns and indexes that an earlier version did
    not have.

    Each of those columns has a default or may be null.
    """
    inspector = inspect(connection)
    for table in Base.metadata.sorted_tables:
        if not inspector.has_table(table.name):
            continue
        existing = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in existing:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    Base.metadata.create_all(connection)


def _choose_options(backend: str) -> dict[str, Any]:
    if backend == "sqlite":
        return {"connect_args": {"timeout": 30, "check_same_thread": False}}
    # A server may have closed a connection meanwhile, which a file does not.
    return {"pool_size": 5, "max_overflow": 10, "pool_pre_ping": True}


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(dbapi_connection: Any, _: Any) -> None:
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=30000",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
