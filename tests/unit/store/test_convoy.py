"""Writes of many threads to one file: in turn, each whole or undone by itself, with one flush for those that meet."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from baremetal.errors import Unavailable
from baremetal.store import convoy as module
from baremetal.store.connection import Connection
from baremetal.store.convoy import MOST, Convoy


class Depot:
    """A file, the one connection that a convoy is lent, and what was said to it."""

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(
            f"sqlite:///{path}", connect_args={"isolation_level": None, "check_same_thread": False}
        )
        self.connection = Connection(self._engine.connect())
        self.connection.driver.execute("PRAGMA journal_mode=WAL")
        self.connection.driver.execute("CREATE TABLE t (who TEXT)")
        self.said: list[str] = []
        self.connection.driver.set_trace_callback(self.said.append)
        self._reader = sqlite3.connect(path, check_same_thread=False)
        self.convoy = Convoy(lambda: self.connection, lambda connection: None)

    def kept(self) -> list[str]:
        return sorted(row[0] for row in self._reader.execute("SELECT who FROM t"))

    def commits(self) -> int:
        return self.said.count("COMMIT")

    def close(self) -> None:
        self._reader.close()
        self.connection.close()
        self._engine.dispose()


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    opened = Depot(tmp_path / "t.db")
    yield opened
    opened.close()


def write(depot: Depot, who: str) -> None:
    with depot.convoy.write() as connection:
        connection.driver.execute("INSERT INTO t VALUES (?)", (who,))


@contextmanager
def together(depot: Depot, *calls: Callable[[], None]) -> Iterator[list[threading.Thread]]:
    """Start a thread for each call, all of which then wait behind the block's own write."""
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    with depot.convoy.write() as connection:
        for number, thread in enumerate(threads, 1):
            thread.start()
            while depot.convoy._waiting < number:
                time.sleep(0.001)
        yield threads
        connection.driver.execute("INSERT INTO t VALUES ('first')")
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_one_that_comes_alone_is_committed_at_once(depot: Depot) -> None:
    write(depot, "a")
    assert depot.kept() == ["a"]
    assert not any("SAVEPOINT" in text for text in depot.said)
    write(depot, "b")
    assert (depot.kept(), depot.commits()) == (["a", "b"], 2)


def test_those_that_come_together_share_a_flush(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 30.0)
    seen: dict[str, list[str]] = {}

    def call(who: str) -> Callable[[], None]:
        def run() -> None:
            write(depot, who)
            seen[who] = depot.kept()

        return run

    with together(depot, *(call(f"r{number}") for number in range(8))):
        pass
    assert depot.commits() == 1
    assert len(depot.kept()) == 9
    assert all(who in kept for who, kept in seen.items()), "nobody returns before his own write is committed"


def test_one_that_breaks_undoes_itself_only(depot: Depot) -> None:
    def broken() -> None:
        with suppress(ZeroDivisionError), depot.convoy.write() as connection:
            connection.driver.execute("INSERT INTO t VALUES ('broken')")
            raise ZeroDivisionError

    with together(depot, broken, lambda: write(depot, "b"), broken):
        pass
    assert depot.kept() == ["b", "first"]
    broken()
    write(depot, "c")
    assert depot.kept() == ["b", "c", "first"]


@pytest.mark.parametrize("text", ["disk I/O error", "database or disk is full"])
def test_a_commit_that_fails_is_told_to_all_in_it(
    depot: Depot, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 30.0)
    told: list[str] = []
    honest, failures = Connection.commit, [text]

    def commit(connection: Connection) -> None:
        if failures:
            raise sqlite3.OperationalError(failures.pop())
        honest(connection)

    monkeypatch.setattr(Connection, "commit", commit)

    def call(who: str) -> Callable[[], None]:
        def run() -> None:
            try:
                write(depot, who)
            except Unavailable as error:
                told.append(f"{who}: {error.seen}")

        return run

    with pytest.raises(Unavailable, match=text), together(depot, call("a"), call("b")) as threads:
        pass
    for thread in threads:
        thread.join(30)
    assert sorted(told) == [f"a: {text}", f"b: {text}"]
    assert depot.kept() == []
    write(depot, "later")
    assert depot.kept() == ["later"]


def test_a_fault_that_ends_the_transaction_is_told_to_all_in_it(depot: Depot) -> None:
    told: list[str] = []

    def faulty() -> None:
        try:
            with depot.convoy.write() as connection:
                connection.driver.execute("ROLLBACK")  # as SQLite does by itself where the disk fails
                raise sqlite3.OperationalError("disk I/O error")
        except Unavailable as error:
            told.append(str(error.seen))

    with pytest.raises(Unavailable), together(depot, faulty):
        pass
    assert told == ["disk I/O error"]
    assert depot.kept() == []
    write(depot, "later")
    assert depot.kept() == ["later"]


def test_all_in_it_hear_the_fault_itself(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 30.0)

    def faulty() -> None:
        with suppress(Unavailable), depot.convoy.write() as connection:
            connection.driver.execute("ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(Unavailable) as caught, together(depot, faulty):
        pass
    assert caught.value.seen == "disk I/O error"


def test_a_fault_that_is_swallowed_commits_nothing(depot: Depot) -> None:
    def swallows() -> None:
        with depot.convoy.write() as connection:
            connection.driver.execute("INSERT INTO t VALUES ('before')")
            connection.driver.execute("ROLLBACK")

    with pytest.raises(Unavailable, match="cannot be used") as caught:
        swallows()
    assert caught.value.seen == "the transaction has ended by itself"
    write(depot, "later")
    assert depot.kept() == ["later"]


def test_nobody_hangs_where_the_connection_is_gone(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither he who commits nor those who left it to him, although undoing fails too."""
    monkeypatch.setattr(module, "LONGEST_S", 30.0)
    told: list[str] = []

    def gone(_connection: Connection) -> None:
        raise sqlite3.ProgrammingError("Cannot operate on a closed database.")

    def rider() -> None:
        try:
            write(depot, "rider")
        except Unavailable as error:
            told.append(str(error.seen))

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "commit", gone)
        patch.setattr(module, "undo", gone)
        with pytest.raises(Unavailable, match="cannot be used"), together(depot, rider, rider) as threads:
            pass
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert told == ["Cannot operate on a closed database."] * 2
    depot.connection.driver.execute("ROLLBACK")
    write(depot, "b")
    assert depot.kept() == ["b"]


def test_a_long_write_keeps_nobody_waiting_for_its_end(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 30.0)
    goes_on, began = threading.Event(), threading.Event()

    def long() -> None:
        with depot.convoy.write(long=True) as connection:
            began.set()
            goes_on.wait(30)
            connection.driver.execute("INSERT INTO t VALUES ('long')")

    thread = threading.Thread(target=long, daemon=True)
    with depot.convoy.write() as connection:
        connection.driver.execute("INSERT INTO t VALUES ('short')")
        thread.start()
        time.sleep(0.1)
    assert depot.kept() == ["short"]
    assert began.wait(30)
    goes_on.set()
    thread.join(30)
    assert depot.kept() == ["long", "short"]


def test_who_could_have_committed_and_gave_up_waiting_leaves_nobody_behind(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Convoy, "_goes_on", lambda *_: True)
    write(depot, "left alone")
    assert depot.kept() == ["left alone"]


def test_the_first_of_many_does_not_wait_for_all(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 30.0)
    with together(depot, *((lambda who=str(number): write(depot, who)) for number in range(MOST + 4))):
        pass
    assert len(depot.kept()) == MOST + 5
    assert depot.commits() == 2


def test_a_file_that_is_locked_by_another_process_is_unavailable(depot: Depot, tmp_path: Path) -> None:
    depot.connection.driver.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="cannot be used"):
        write(depot, "a")
    other.execute("ROLLBACK")
    other.close()
    write(depot, "b")
    assert depot.kept() == ["b"]


def test_eight_writers_lose_nothing(depot: Depot) -> None:
    def many(who: int) -> None:
        for number in range(50):
            write(depot, f"{who}-{number}")

    threads: list[Any] = [threading.Thread(target=many, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(depot.kept())) == 400
    assert depot.commits() < 400
