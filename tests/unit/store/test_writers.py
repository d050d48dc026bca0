"""Many writers at once: nobody is told "locked", nobody's update is lost (promises P13, P14)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from baremetal.errors import Conflict
from baremetal.lifecycle.decision import Outcome
from baremetal.lifecycle.events import MaintenanceChanged
from baremetal.lifecycle.model import Verb
from baremetal.store.history import fold
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, SECOND, ask, mac, new, reserve, submit

pytestmark = pytest.mark.slow

WRITERS = 8


def together(work: Callable[[int], None], writers: int = WRITERS) -> None:
    """Run `work(0)` to `work(writers - 1)` in threads that begin at the same moment; raise what any of them raised."""
    start = threading.Barrier(writers)
    raised: list[BaseException] = []

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def test_eight_writers_on_one_server_lose_nothing(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    changed, lost = [0] * WRITERS, [0] * WRITERS

    def work(number: int) -> None:
        done = 0
        while done < 15:
            on = not store.server(record.id).life.maintenance
            decision, entry = submit(store, record.id, MaintenanceChanged(on), NOW)
            if entry is None:
                lost[number] += 1
                continue
            done += 1
            changed[number] += decision.outcome is Outcome.CHANGED

    together(work)
    life = store.server(record.id).life
    assert life.generation == life.fence == sum(changed)
    assert len(store.history(kinds=["decision"])) == WRITERS * 15
    assert fold(store.history(record.id), record.life) == life


def test_eight_writers_on_eight_servers_never_lose_the_guard(store: Store) -> None:
    records = store.add_servers([new(number) for number in range(WRITERS)], NOW)

    def work(number: int) -> None:
        for turn in range(15):
            _, entry = submit(store, records[number].id, MaintenanceChanged(turn % 2 == 0), NOW)
            assert entry is not None

    together(work)
    ids = [entry.id for entry in store.history()]
    assert len(ids) == len(set(ids)) == WRITERS * 16
    assert {server.life.generation for server in store.servers()} == {15}


def test_two_stores_on_one_file_wait_for_each_other(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a lock in common, as two processes are."""
    url = f"sqlite:///{tmp_path_factory.mktemp('two')}/baremetal.db"
    secrets = Secrets.ephemeral()
    stores = [Store.open(url, secrets) for _ in range(2)]
    records = stores[0].add_servers([new(number) for number in range(4)], NOW)

    def work(number: int) -> None:
        for turn in range(25):
            _, entry = submit(stores[number % 2], records[number].id, MaintenanceChanged(turn % 2 == 0), NOW)
            assert entry is not None

    together(work, 4)
    assert {server.life.generation for server in stores[0].servers()} == {25}
    for store in stores:
        store.close()


def test_of_eight_that_want_a_reservation_one_gets_it(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    for turn in range(5):
        fences: list[int | None] = []

        def work(_number: int, fences: list[int | None] = fences) -> None:
            fences.append(reserve(store, record.id, NOW + timedelta(minutes=9), NOW))

        together(work)
        assert sorted(fence for fence in fences if fence is not None) == [turn + 1]
        store.unreserve(record.id, turn + 1, NOW + timedelta(minutes=9))


def test_of_eight_verbs_one_begins_a_run(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    outcomes: list[str] = []

    def work(number: int) -> None:
        while True:
            decision, entry = submit(store, record.id, ask(Verb.DEPLOY), NOW)
            if entry is not None:
                outcomes.append(str(decision.outcome))
                return

    together(work)
    assert sorted(outcomes) == ["changed"] + ["refused"] * (WRITERS - 1)
    assert len(store.runs(record.id)) == 1


def test_one_machine_is_enrolled_once(store: Store) -> None:
    refused: list[Conflict] = []

    def work(number: int) -> None:
        try:
            store.add_servers([new(number + 10, macs=(mac(1),))], NOW)
        except Conflict as error:
            refused.append(error)

    together(work)
    assert len(refused) == WRITERS - 1
    assert len(store.servers()) == 1


def test_a_reader_sees_history_ids_in_their_order(store: Store) -> None:
    """Who has read up to an id never finds a smaller one later: the stream resumes by ids."""
    records = store.add_servers([new(number) for number in range(4)], NOW)
    writing = threading.Event()
    writing.set()
    seen: list[int] = []

    def work(number: int) -> None:
        if number == 4:
            while writing.is_set() or store.last_history_id() > max(seen, default=0):
                seen.extend(entry.id for entry in store.history(after=max(seen, default=0)))
            return
        for turn in range(20):
            submit(store, records[number].id, MaintenanceChanged(turn % 2 == 0), NOW + SECOND)
        if len(store.history(kinds=["decision"])) == 80:
            writing.clear()

    together(work, 5)
    assert seen == [entry.id for entry in store.history()]


def test_facts_of_many_writers_are_all_kept(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)

    def work(number: int) -> None:
        while True:
            before = store.server(record.id).facts
            facts = replace(before, tags={**before.tags, f"t{number}": "1"})
            try:
                store.set_facts(record.id, facts, None, NOW, "alice", "", before=before)
            except Conflict:
                continue
            return

    together(work)
    assert set(store.server(record.id).facts.tags) == {f"t{number}" for number in range(WRITERS)}
