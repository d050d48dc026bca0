"""The one part that knows which database this is: connections, locks, transactions, faults.

Owns the engine, the pragmas and the doors. Knows no table. Reads are single statements outside any transaction; a
write is whole or undone, and has the database to itself from its first statement on (SQLite: in turn, with one flush
for those that come together, see `convoy.py`; PostgreSQL: an advisory lock, so that history ids show in their order).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Engine, Table, create_engine, event, pool
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.schema import CreateIndex, CreateTable

from baremetal.errors import Invalid, Unavailable
from baremetal.store.connection import Connection
from baremetal.store.convoy import Convoy
from baremetal.store.faults import WAIT_S, busy, is_fault, unavailable, undo
from baremetal.store.tables import METADATA
from baremetal.telemetry import logger

log = logger(__name__)

_ADVISORY = 0x6261_7265_6D65_7461  # "baremeta"
_OLDEST_SQLITE = (3, 35, 5)  # RETURNING, and DROP COLUMN without its first defects
_RLock = Any  # the standard library names no type for it


class Database:
    """One database. `read()` and `write()` are its only doors; both are safe for threads.

    Inside of `together()` both lead a thread to the one transaction that it has open there.
    """

    def __init__(self, url: str) -> None:
        where = _parse(url)
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise Unavailable(
                f"SQLite {sqlite3.sqlite_version} is too old",
                fix="use a Python built with SQLite 3.35.5 or newer",
            )
        self.dialect = where.get_backend_name()
        self._kept: Connection | None = None
        self._idle: list[Connection] = []
        self._open = _Open()
        if self.dialect == "sqlite" and where.database in (None, "", ":memory:"):
            self._engine = _memory_engine()
            self._kept = Connection(self._engine.connect())
            create_schema(self._kept)
            lock = threading.RLock()
            self._reading = _MemoryDoor(self._kept, lock, writes=False)
            self._writing = _MemoryDoor(self._kept, lock, writes=True)
        elif self.dialect == "sqlite":
            _create_file(Path(str(where.database)))
            self._engine = create_engine(
                where, pool_size=16, max_overflow=48, pool_timeout=WAIT_S, hide_parameters=True, **_SQLITE
            )
            event.listen(self._engine, "connect", _prepare_file)
            self._convoy = Convoy(self._take, self._give_back)
        else:
            self._engine = create_engine(
                where, pool_size=16, max_overflow=16, pool_pre_ping=True, hide_parameters=True
            )
        alone = {} if self.dialect == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
        self._reader: Engine = self._engine.execution_options(**alone)
        self._pool = self._engine.pool

    @property
    def in_memory(self) -> bool:
        return self._kept is not None

    def read(self) -> AbstractContextManager[Connection]:
        """Open the database for single SELECTs. Faults raise Unavailable."""
        if self._open.group is not None:
            return _Joined(self._open.group, writes=False)
        if self._kept is not None:
            return self._reading
        if self.dialect == "sqlite":
            return _Door(self._take, self._give_back, None)
        return _Door(lambda: Connection(self._reader.connect()), Connection.close, None)

    def write(self, *, long: bool = False) -> AbstractContextManager[Connection]:
        """Open the database for one write: committed at the end of the block, undone by any exception.

        `long`: it has many rows, so that nobody's commit should wait for it.
        """
        if self._open.group is not None:
            return _Joined(self._open.group, writes=True)
        if self._kept is not None:
            return self._writing
        if self.dialect == "sqlite":
            return self._convoy.write(long=long)
        return _Door(lambda: Connection(self._engine.connect()), Connection.close, _begin_postgresql)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commit all writes that this thread makes inside the block at once, at its end: one flush for all of them.

        Each write is still whole or undone by itself. A fault of the database undoes all of them, and is raised at the
        end, or where the commit fails. Groups do not nest.
        """
        assert self._open.group is None, "a group inside a group"
        with self.write(long=True) as connection:
            group = self._open.group = _Group(connection)
            try:
                yield
            finally:
                self._open.group = None
            if group.fault is not None:
                raise group.fault
        for call in group.after:
            try:
                call()
            except Exception:  # what is committed stays so, and the others hear of theirs
                log.exception("somebody could not be told of a commit")

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this now, or inside of `together` once all is committed, and never where it is undone."""
        if self._open.group is not None:
            self._open.group.after.append(call)
        else:
            call()

    def upsert(self, table: Table) -> Any:
        """Return an INSERT that this database lets be followed by `on_conflict_do_update`."""
        # here, because the other kind of database is two and a half megabytes of modules that nobody uses
        if self.dialect == "sqlite":
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert

            return sqlite_insert(table)
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)

    def close(self) -> None:
        """Give all connections back. Idempotent; whatever is asked afterwards raises Unavailable."""
        if self._kept is not None:
            self._kept.close()
        else:
            engine = self._engine
            # first, so that whoever gives a connection back from now on closes it
            self._reader = self._engine = _closed_engine()
            self._pool = self._engine.pool
            self._close_idle()
            engine.dispose()

    # Checking a connection out of the library's pool and back in costs more than most statements, so those of a file
    # stay out of it between uses. They are at most as many as threads were ever busy here at once.

    def _take(self) -> Connection:
        if self._engine.pool is not self._pool:  # disposed of: what is kept belongs to the pool that is gone
            self._close_idle()
            self._pool = self._engine.pool
        try:
            return self._idle.pop()
        except IndexError:
            return Connection(self._engine.connect())

    def _give_back(self, connection: Connection) -> None:
        if connection.pool is self._pool and connection.is_usable:
            self._idle.append(connection)
        else:
            connection.close()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


class _Door:
    """The door of a connection of one's own: reads, and writes where the database itself keeps them apart."""

    __slots__ = ("_begin", "_connect", "_connection", "_give_back")

    def __init__(
        self,
        connect: Callable[[], Connection],
        give_back: Callable[[Connection], None],
        begin: Callable[[Connection], None] | None,
    ) -> None:
        self._connect = connect
        self._give_back = give_back
        self._begin = begin
        self._connection: Connection | None = None

    def __enter__(self) -> Connection:
        try:
            connection = self._connect()
            self._connection = connection
            if self._begin is not None:
                self._begin(connection)
        except BaseException as error:
            self._leave(failed=True)
            if is_fault(error):
                raise unavailable(error) from error
            raise
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = error is not None
        try:
            if not failed and self._begin is not None and self._connection is not None:
                self._connection.commit()
        except BaseException as fault:
            failed = True
            if is_fault(fault):
                raise unavailable(fault) from fault
            raise
        finally:
            self._leave(failed)
        if error is not None and is_fault(error):
            raise unavailable(error) from error

    def _leave(self, failed: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if failed or (self._begin is None and connection.is_librarys):
            undo(connection)
        try:
            self._give_back(connection)
        except Exception as error:
            if not is_fault(error):
                raise


class _MemoryDoor:
    """The door of a database in memory, which is its one connection: there is nothing to take, to give back or to keep
    apart from other uses, so that one door serves all who come, one at a time. The simulation passes it all its life.
    """

    __slots__ = ("_connection", "_lock", "_writes")

    def __init__(self, connection: Connection, lock: _RLock, *, writes: bool) -> None:
        self._connection = connection
        self._lock = lock
        self._writes = writes

    def __enter__(self) -> Connection:
        if not self._lock.acquire(True, WAIT_S):
            raise busy()
        connection = self._connection
        try:
            if not connection.is_open:
                raise Unavailable("the database is closed")
            if self._writes:
                connection.driver.execute("BEGIN")
        except BaseException as error:
            self._lock.release()
            if is_fault(error):
                raise unavailable(error) from error
            raise
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._connection
        try:
            if error is None and self._writes:
                connection.commit()
            elif error is not None or connection.is_librarys:
                undo(connection)
        except BaseException as fault:
            undo(connection)
            if is_fault(fault):
                raise unavailable(fault) from fault
            raise
        finally:
            self._lock.release()
        if error is not None and is_fault(error):
            raise unavailable(error) from error


class _Group:
    """The transaction that a thread has open for several writes."""

    __slots__ = ("after", "connection", "fault")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.after: list[Callable[[], None]] = []
        self.fault: Unavailable | None = None


class _Open(threading.local):
    group: _Group | None = None


class _Joined:
    """The door of a thread that is inside already: a write is a savepoint, which it can go back to alone."""

    __slots__ = ("_group", "_writes")

    def __init__(self, group: _Group, writes: bool) -> None:
        self._group = group
        self._writes = writes

    def __enter__(self) -> Connection:
        # some faults end the whole transaction, and a savepoint would then begin another one
        if self._group.fault is not None:
            raise self._group.fault
        if self._writes:
            self._say("SAVEPOINT one")
        return self._group.connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and is_fault(error):
            self._group.fault = unavailable(error)
            raise self._group.fault from error
        if self._writes and self._group.fault is None:
            if error is not None:
                self._say("ROLLBACK TO one")
            self._say("RELEASE one")

    def _say(self, text: str) -> None:
        try:
            self._group.connection.driver.execute(text)
        except BaseException as error:
            if is_fault(error):
                self._group.fault = unavailable(error)
                raise self._group.fault from error
            raise


# -- SQLite --------------------------------------------------------------------------------------------------------

# Without an isolation level of its own the driver never begins a transaction behind our back.
_SQLITE: dict[str, Any] = {
    "connect_args": {"timeout": WAIT_S, "isolation_level": None, "check_same_thread": False}
}


def _prepare_file(connection: Any, _record: object) -> None:
    # FULL: a committed go may not be lost with the power
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_memory(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys=ON")


def _create_file(path: Path) -> None:
    """Make the file, readable for its owner only, before the library makes it readable for everybody."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise Unavailable(
            f"the database {path} cannot be made: {error.strerror}",
            fix="choose another [server] data_dir, or let this user write there",
        ) from error


@cache
def _memory_engine() -> Engine:
    """Return the engine of all databases in memory: one connection is one database.

    Shared, because compiled statements are kept per engine, and the simulation opens a database for each life.
    """
    engine = create_engine("sqlite://", poolclass=pool.NullPool, hide_parameters=True, **_SQLITE)
    event.listen(engine, "connect", _prepare_memory)
    return engine


@cache
def _schema() -> tuple[str, ...]:
    """Return the statements that make the whole schema in SQLite."""
    dialect = _memory_engine().dialect
    parts: list[str] = []
    for table in METADATA.sorted_tables:
        parts.append(str(CreateTable(table).compile(dialect=dialect)))
        parts += [str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes]
    return tuple(parts)


def create_schema(connection: Connection) -> None:
    """Make every table and index in an empty SQLite database, inside of the transaction that is open."""
    for statement in _schema():
        connection.driver.execute(statement)


def _closed_engine() -> Engine:
    def refuse() -> Any:
        raise Unavailable("the database is closed")

    return create_engine("sqlite://", creator=refuse, poolclass=pool.NullPool)


# -- PostgreSQL ----------------------------------------------------------------------------------------------------


def _begin_postgresql(connection: Connection) -> None:
    connection.library.begin()
    connection.library.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY})")


def _parse(url: str) -> URL:
    try:
        where = make_url(url)
    except ArgumentError as error:
        raise Invalid(
            "the database URL cannot be read", fix="write sqlite:////var/lib/baremetal/baremetal.sqlite3"
        ) from error
    if where.drivername in ("postgresql", "postgres"):
        where = where.set(drivername="postgresql+psycopg")
    if where.get_backend_name() not in ("sqlite", "postgresql"):
        raise Invalid(
            f"{where.get_backend_name()} is no database that is understood here",
            fix="use sqlite:// or postgresql://",
        )
    return where
