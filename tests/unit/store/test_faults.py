"""A database that fails: told as Unavailable, nothing half written, everything there again afterwards (P4, P13)."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Pool, event

from baremetal.errors import Invalid, Unavailable
from baremetal.lifecycle.events import MaintenanceChanged
from baremetal.lifecycle.model import Verb
from baremetal.store import database
from baremetal.store.connection import Connection, Prepared
from baremetal.store.history import fold
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, PASSWORD, ask, live, new, reserve, submit

pytestmark = pytest.mark.slow

STORES = ("file",)


def everything(store: Store) -> object:
    return (
        store.servers(),
        store.history(),
        [store.runs(server.id) for server in store.servers()],
        store.tokens(),
    )


@contextmanager
def pragma(store: Store, *words: str) -> Iterator[None]:
    """Give every connection of the store these pragmas."""
    engine = store._db._engine

    def prepare(connection: Any, _record: object) -> None:
        for word in words:
            connection.execute(f"PRAGMA {word}")

    engine.dispose()
    event.listen(engine, "connect", prepare)
    try:
        yield
    finally:
        event.remove(engine, "connect", prepare)
        engine.dispose()


WRITES: dict[str, Callable[[Store, str], object]] = {
    "enrol": lambda store, server_id: store.add_servers([new(8), new(9)], NOW),
    "deploy": lambda store, server_id: submit(store, server_id, ask(Verb.DEPLOY), NOW),
    "refused": lambda store, server_id: submit(store, server_id, ask(Verb.REBUILD), NOW),
    "reserve": lambda store, server_id: reserve(store, server_id, NOW, NOW),
    "facts": lambda store, server_id: store.set_facts(
        server_id,
        dataclasses.replace(store.server(server_id).facts, ip="10.0.0.9/24"),
        None,
        NOW,
        "alice",
        "",
    ),
    "forget": lambda store, server_id: store.forget(server_id, NOW, "alice"),
    "token": lambda store, server_id: store.add_token("ci", "viewer", "h", NOW),
    "audit": lambda store, server_id: store.audit(NOW, server_id, "r1", "note", by="alice"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_database_that_may_not_be_written_changes_nothing(store: Store, write: str) -> None:
    (record,) = store.add_servers([new()], NOW)
    before = everything(store)
    with pragma(store, "query_only=ON"), pytest.raises(Unavailable, match="readonly") as raised:
        WRITES[write](store, record.id)
    assert raised.value.code == "BM601"
    assert everything(store) == before
    WRITES[write](store, record.id)


def test_a_full_disk_changes_nothing(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    with pragma(store, "max_page_count=1"):
        before = _fill(store, record.id)
        with pytest.raises(Unavailable, match="full"):
            store.audit(NOW, record.id, "r1", "x" * 500, by="alice")
        with pytest.raises(Unavailable, match="full"):
            store.add_servers([new(number) for number in range(10, 60)], NOW)
        assert everything(store) == before
    store.audit(NOW, record.id, "r1", "there is room again", by="alice")


def _fill(store: Store, server_id: str) -> object:
    while True:
        before = everything(store)
        try:
            store.audit(NOW, server_id, "r1", "x" * 500, by="alice")
        except Unavailable:
            return before


@pytest.mark.parametrize("write", WRITES)
def test_a_fault_at_any_statement_changes_nothing(
    store: Store, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = store.add_servers([new()], NOW)
    before = everything(store)
    failed_at = 0
    while _fails_at(failed_at + 1, lambda: WRITES[write](store, record.id), monkeypatch):
        failed_at += 1
        assert everything(store) == before
    assert failed_at >= 1
    assert everything(store) != before


def _fails_at(statement: int, write: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let the nth prepared statement of a write fail; says whether there was one."""
    run, count = Prepared.run, 0

    def failing(self: Prepared, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == statement:
            raise sqlite3.OperationalError("disk I/O error")
        return run(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Prepared, "run", failing)
        try:
            write()
        except Unavailable:
            return True
    return False


def test_a_commit_that_fails_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = store.add_servers([new()], NOW)
    before = everything(store)

    def fail(_connection: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "commit", fail)
        with pytest.raises(Unavailable, match="disk I/O error"):
            submit(store, record.id, ask(Verb.DEPLOY), NOW)
    assert everything(store) == before


def test_a_database_that_somebody_holds_is_waited_for_and_then_unavailable(
    url: str, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(database._SQLITE["connect_args"], "timeout", 0.1)
    store = Store.open(url, secrets)
    (record,) = store.add_servers([new()], NOW)
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        submit(store, record.id, MaintenanceChanged(True), NOW)
    assert store.server("r1") == record  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert submit(store, record.id, MaintenanceChanged(True), NOW)[1] is not None
    store.close()


def test_a_spoiled_file_is_unavailable(url: str, secrets: Secrets) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(Unavailable, match="not a database"):
        Store.open(url, secrets)


def test_a_file_that_cannot_be_made_is_unavailable(tmp_path: Path, secrets: Secrets) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be made"):
        Store.open(f"sqlite:///{tmp_path}/file/baremetal.db", secrets)


@pytest.mark.parametrize("where", ["nonsense", "mysql://host/name", "oracle://"])
def test_a_url_that_means_nothing_here_is_refused(where: str, secrets: Secrets) -> None:
    with pytest.raises(Invalid):
        Store.open(where, secrets)


@pytest.mark.parametrize("memory", [True, False])
def test_a_closed_store_is_unavailable(memory: bool, url: str, secrets: Secrets) -> None:
    store = Store.open("sqlite://" if memory else url, secrets)
    (record,) = store.add_servers([new()], NOW)
    store.close()
    store.close()
    with pytest.raises(Unavailable):
        store.server("r1")
    with pytest.raises(Unavailable):
        submit(store, record.id, MaintenanceChanged(True), NOW)


def test_no_fault_repeats_what_was_to_be_written(store: Store) -> None:
    with pragma(store, "query_only=ON"), pytest.raises(Unavailable) as raised:
        store.add_servers([new()], NOW)
    told: BaseException | None = raised.value
    while told is not None:
        assert PASSWORD not in str(told)
        assert "10.0.0.1" not in str(told)
        told = told.__cause__ or told.__context__


# -- killed ------------------------------------------------------------------------------------------------------------


def killed_at(statement: int, work: Callable[[], None]) -> tuple[bool, bytes]:
    """Run `work` in a child that kills itself before its nth statement; says if it came so far, and what it wrote.

    The child writes what it knows to be committed to descriptor 3's stand-in, the pipe that is returned.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.dup2(writing, 1)
            count = 0

            def trace(_text: str) -> None:
                nonlocal count
                count += 1
                if count == statement:
                    os.kill(os.getpid(), signal.SIGKILL)

            event.listen(Pool, "connect", lambda it, _record: it.set_trace_callback(trace))
            work()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True, told
    assert status == 0
    return False, told


def test_killed_between_any_two_statements_of_a_life(tmp_path: Path, secrets: Secrets) -> None:
    """What was acknowledged is there, the history folds to the stored life, and the life goes on to its end."""
    for statement in [*range(1, 36), *range(36, 400, 11)]:
        url = f"sqlite:///{tmp_path}/{statement}/baremetal.db"
        store = Store.open(url, secrets)
        (record,) = store.add_servers([new()], NOW)
        store.close()

        def work(url: str = url, server_id: str = record.id) -> None:
            inside = Store.open(url, secrets)
            for _ in live(inside, server_id, Verb.DEPLOY, NOW):
                os.write(1, bytes([inside.last_history_id()]))
            inside.close()

        killed, told = killed_at(statement, work)
        store = Store.open(url, secrets)
        assert_whole(store, record.id, acknowledged=max(told, default=0))
        if store.server(record.id).life.run is None:
            store.close()
            if not killed:
                return
            continue
        store.void_reservations()
        submit(store, record.id, ask(Verb.ABORT), NOW)
        assert_whole(store, record.id, acknowledged=0)
        store.close()
    pytest.fail("the life has more statements than were tried")


def assert_whole(store: Store, server_id: str, acknowledged: int) -> None:
    stored = store.server(server_id).life
    history = store.history(server_id)
    assert store.last_history_id() >= acknowledged
    changes = [entry for entry in history if entry.outcome == "changed"]
    assert len(changes) == stored.generation
    folded = fold(history, new().life)
    assert replace(folded, fence=stored.fence) == stored
    runs = store.runs(server_id)
    assert [run.number for run in runs] == list(range(1, stored.runs + 1))
    assert [run.number for run in runs if run.ended_at is None] == ([stored.run.number] if stored.run else [])


def test_killed_anywhere_in_the_migration(tmp_path: Path, secrets: Secrets) -> None:
    statement = 0
    killed = True
    while killed:
        statement += 3
        url = f"sqlite:///{tmp_path}/{statement}/baremetal.db"
        killed, _ = killed_at(statement, lambda url=url: Store.open(url, secrets).close())  # type: ignore[misc]
        store = Store.open(url, secrets)
        store.add_servers([new()], NOW)
        store.close()
    assert statement > 20
