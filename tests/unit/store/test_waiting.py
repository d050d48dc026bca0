"""Deploys that wait: in their order, at most one of a server, gone in the transaction that begins the run."""

from __future__ import annotations

import pytest

from baremetal.errors import Refused
from baremetal.lifecycle.model import Verb
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, SECOND, ask, new, submit

FROZEN = {"template": "text", "vars": {"hostname": "r1"}}


def test_they_wait_in_the_order_they_came(store: Store) -> None:
    records = store.add_servers([new(1), new(2), new(3)], NOW)
    for at, record in enumerate(records):
        entry = store.wait(record, ask(Verb.DEPLOY), "tiny", FROZEN, NOW + at * SECOND)
        assert (entry.run, entry.data["what"], entry.data["kind"]) == (1, "queue", "waits")
    first, second, third = (store.waiting(record.id) for record in records)
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.server, first.asked, first.profile, first.frozen) == (
        "r1",
        ask(Verb.DEPLOY),
        "tiny",
        FROZEN,
    )
    assert store.first_waiting() == first
    assert store.first_waiting(first.number) == second
    places = [store.queue_entry(record.id) for record in records]
    assert [place.place for place in places if place is not None] == [1, 2, 3]
    assert list(store.queue().values()) == places
    assert [(one.place, one.profile) for one in store.queue().values()] == [
        (1, "tiny"),
        (2, "tiny"),
        (3, "tiny"),
    ]
    assert store.is_anybody_waiting()
    with pytest.raises(Refused, match="waits for its turn"):
        store.wait(records[1], ask(Verb.DEPLOY), "tiny", FROZEN, NOW)

    dropped = store.drop_waiting(second, 1, "given up by me", "me", NOW)
    assert dropped is not None
    assert dropped.note == "given up by me"
    assert store.drop_waiting(second, 1, "again", "me", NOW) is None
    left = store.queue_entry(records[2].id)
    assert left is not None
    assert left.place == 2


def test_a_run_that_begins_waits_no_longer(store: Store) -> None:
    records = store.add_servers([new(1), new(2)], NOW)
    for record in records:
        store.wait(record, ask(Verb.DEPLOY), "tiny", FROZEN, NOW)
    assert store.deploys_under_way() == 0
    first = store.waiting(records[0].id)
    assert first is not None
    submit(store, records[0].id, ask(Verb.DEPLOY), NOW, waited=first.number)
    assert store.waiting(records[0].id) is None
    assert store.waiting(records[1].id) is not None
    assert store.deploys_under_way() == 1


def test_a_forgotten_server_waits_for_nothing(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    store.wait(record, ask(Verb.DEPLOY), "tiny", FROZEN, NOW)
    store.forget(record.id, NOW, "test")
    assert store.first_waiting() is None


def test_a_server_that_has_moved_since_it_was_read_does_not_wait(store: Store) -> None:
    """P2, P14: of two who ask for the same at once, one begins, and the other must not begin after it."""
    (record,) = store.add_servers([new(1)], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    with pytest.raises(Refused, match="quicker"):
        store.wait(record, ask(Verb.DEPLOY), "tiny", FROZEN, NOW)
    assert store.first_waiting() is None


def test_no_other_run_begins_beside_a_deploy_that_waits(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    store.wait(record, ask(Verb.DEPLOY), "tiny", FROZEN, NOW)
    with pytest.raises(Refused, match="waits for its turn"):
        submit(store, record.id, ask(Verb.MANAGE), NOW)
    assert store.server(record.id).life.run is None
    assert store.waiting(record.id) is not None
