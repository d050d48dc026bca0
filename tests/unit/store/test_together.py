"""Several writes of one thread, committed at once: whole or undone each by itself, and all undone by a fault."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from baremetal.errors import Conflict, Unavailable, Unknown
from baremetal.lifecycle.model import ProvisionState, Verb
from baremetal.store.connection import Connection, Prepared
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, ask, new, submit


def enrolled(store: Store, count: int = 3) -> list[str]:
    return [record.id for record in store.add_servers([new(number) for number in range(1, count + 1)], NOW)]


def deploy_together(store: Store, ids: list[str], told: list[int], bug: Exception | None = None) -> None:
    """Ask for deploys in one group; a fault of one of them is swallowed on the way."""
    with store.together():
        store.after_commit(lambda: told.append(1))
        for server_id in ids:
            with suppress(Unavailable):
                submit(store, server_id, ask(Verb.DEPLOY), NOW)
        if bug is not None:
            raise bug


def test_all_is_written_at_the_end_and_told_only_then(store: Store) -> None:
    ids = enrolled(store)
    told: list[str] = []
    with store.together():
        for server_id in ids:
            submit(store, server_id, ask(Verb.DEPLOY), NOW)
            store.after_commit(lambda server_id=server_id: told.append(server_id))  # type: ignore[misc]
        assert told == []
    assert told == ids
    assert {store.server(server_id).life.state for server_id in ids} == {ProvisionState.DEPLOYING}


def test_outside_of_a_group_it_is_told_at_once(store: Store) -> None:
    told: list[int] = []
    store.after_commit(lambda: told.append(1))
    assert told == [1]


def test_a_thread_reads_what_it_has_written_and_others_do_not(url: str, store: Store) -> None:
    if url == "sqlite://":
        pytest.skip("a database in memory has one connection, and a reader waits for it")
    (server_id,) = enrolled(store, 1)
    seen: list[ProvisionState] = []
    with store.together():
        submit(store, server_id, ask(Verb.DEPLOY), NOW)
        assert store.server(server_id).life.state is ProvisionState.DEPLOYING
        other = threading.Thread(target=lambda: seen.append(store.server(server_id).life.state))
        other.start()
        other.join(10)
    assert seen == [ProvisionState.AVAILABLE]


def test_a_write_that_is_refused_undoes_itself_only(store: Store) -> None:
    first, second, _ = enrolled(store)
    facts = store.server(first).facts
    with store.together():
        submit(store, first, ask(Verb.DEPLOY), NOW)
        with pytest.raises(Conflict):
            store.add_servers([new(8), new(1)], NOW)
        with pytest.raises(Unknown):
            store.forget("0" * 32, NOW, "alice")
        stale = replace(facts, ip="10.0.0.9/24")
        with pytest.raises(Conflict):
            store.set_facts(second, facts, None, NOW, "alice", "", before=stale)
        submit(store, second, ask(Verb.DEPLOY), NOW)
    assert store.server(first).life.run is not None
    assert store.server(second).life.run is not None
    assert len(store.servers()) == 3


def test_a_lost_guard_writes_nothing_and_the_others_stay(store: Store) -> None:
    first, second, _ = enrolled(store)
    with store.together():
        life = store.server(first).life
        decision, entry = submit(store, first, ask(Verb.DEPLOY), NOW)
        assert entry is not None
        assert store.commit(first, life, decision, ask(Verb.DEPLOY), NOW) is None
        submit(store, second, ask(Verb.DEPLOY), NOW)
    assert store.server(first).life.generation == 1
    assert store.server(second).life.generation == 1


def test_a_bug_in_the_block_undoes_all(store: Store) -> None:
    ids = enrolled(store)
    told: list[int] = []
    with pytest.raises(ZeroDivisionError):
        deploy_together(store, ids[:1], told, ZeroDivisionError())
    assert told == []
    assert store.server(ids[0]).life.run is None
    assert submit(store, ids[0], ask(Verb.DEPLOY), NOW)[1] is not None, "and the database is free again"


def test_a_fault_undoes_all_even_where_somebody_swallows_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, run, count = enrolled(store), Prepared.run, 0
    told: list[int] = []

    def failing(self: Prepared, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 6:
            raise sqlite3.OperationalError("disk I/O error")
        return run(self, *arguments)

    history = store.history()
    with monkeypatch.context() as patch:
        patch.setattr(Prepared, "run", failing)
        with pytest.raises(Unavailable, match="disk I/O"):
            deploy_together(store, ids, told)
    assert count == 6, "nothing is asked of a database that has failed"
    assert told == []
    assert store.history() == history
    assert submit(store, ids[0], ask(Verb.DEPLOY), NOW)[1] is not None


def test_a_commit_that_fails_undoes_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = enrolled(store)

    def fail(_connection: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "commit", fail)
        with pytest.raises(Unavailable, match="disk I/O"):
            deploy_together(store, ids, [])
    assert [store.server(server_id).life.run for server_id in ids] == [None] * 3
