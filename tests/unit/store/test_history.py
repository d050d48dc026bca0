"""The history: complete, foldable, only ever appended to."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from baremetal.lifecycle.events import Event
from baremetal.lifecycle.model import Server, Verb
from baremetal.lifecycle.moves import owed
from baremetal.lifecycle.table import TABLES
from baremetal.store.history import first_life, fold
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, SECOND, live, new, submit


@dataclass(frozen=True)
class Seen:
    at: datetime
    server_id: str
    server: str
    run: int | None
    what: str
    note: str
    data: dict[str, Any] = field(default_factory=dict)


def seen(server_id: str, number: int, at: datetime = NOW) -> Seen:
    return Seen(at, server_id, "r1", 1, "kernel", f"kernel fetched, {number}", {"number": number})


def test_folding_the_history_gives_the_stored_life(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    at = NOW
    for verb in (Verb.DEPLOY, Verb.REBUILD, Verb.RELEASE):
        for now in live(store, record.id, verb, at):
            at = now
            stored = store.server(record.id).life
            folded = fold(store.history(record.id), record.life)
            assert replace(folded, fence=stored.fence) == stored
            assert folded.fence <= stored.fence


EVENTS = [make for table in TABLES.values() for make in table.values()]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 4000), st.booleans()), max_size=40))
def test_any_life_is_folded(steps: list[tuple[Any, int, bool]]) -> None:
    """Whatever events come in whatever order, also where it reserves the server (promises I8)."""
    store = Store.open("sqlite://", Secrets.ephemeral())
    try:
        (record,) = store.add_servers([new()], NOW)
        at = NOW
        for make, seconds, reserving in steps:
            at += timedelta(seconds=seconds)
            event: Event = make(store.server(record.id).life)
            before = store.last_history_id()
            _, entry = submit(store, record.id, event, at, until=at + SECOND if reserving else None)
            assert entry is not None
            assert [one.id for one in store.history(after=before)] == [entry.id]
        stored = store.server(record.id).life
        folded = fold(store.history(record.id), record.life)
        assert replace(folded, fence=stored.fence) == stored
        store.void_reservations()
        assert store.next_due() == _due(stored)
    finally:
        store.close()


def _due(life: Server) -> datetime | None:
    if life.run is None:
        return None
    turn = (life.run.retry_at or life.run.entered) if owed(life) else None
    return min([at for at in (life.run.deadline, turn) if at is not None], default=None)


def test_the_first_entry_holds_the_life_that_folding_begins_with(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    (entry,) = store.history(record.id)
    assert (entry.kind, entry.server, entry.to_state) == ("enrolled", "r1", "available")
    assert first_life(entry) == record.life


def test_the_stream_resumes_after_any_id(store: Store) -> None:
    first, second = store.add_servers([new(1), new(2)], NOW)
    for number in range(5):
        store.observe([seen(first.id, number), seen(second.id, number)])
    everything = store.history()
    assert [entry.id for entry in everything] == sorted(entry.id for entry in everything)
    assert store.history(after=everything[3].id) == everything[4:]
    assert store.history(limit=3) == everything[:3]
    assert store.history(limit=3, newest=True) == everything[-3:]
    assert {entry.server_id for entry in store.history(first.id)} == {first.id}
    assert [entry.kind for entry in store.history(kinds=["enrolled"])] == ["enrolled"] * 2
    assert len(store.history(first.id, run=1)) == 5
    assert store.last_history_id() == everything[-1].id


def test_observations_are_written_in_one_batch_and_redacted(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    tell_tale = Seen(
        NOW, record.id, "r1", None, "log", "fetched /answer/abcdefghijklmnop/ks.cfg", {"password": "x1y2"}
    )
    entries = store.observe([seen(record.id, 1), tell_tale])
    assert store.history(kinds=["observation"]) == entries
    assert entries[0].data == {"what": "kernel", "number": 1}
    assert "abcdefghijklmnop" not in entries[1].note
    assert entries[1].data["password"] == "***"
    assert store.observe([]) == []


def test_an_audit_names_who(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    entry = store.audit(NOW, record.id, "r1", "power reset", by="alice", data={"target": "reset"})
    assert store.history(kinds=["audit"]) == [entry]
    assert entry.data == {"by": "alice", "target": "reset"}


def test_retention_drops_observations_and_nothing_else(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    list(live(store, record.id, Verb.DEPLOY, NOW))
    store.audit(NOW, record.id, "r1", "power reset", by="alice")
    kept = store.history()
    store.observe([seen(record.id, number) for number in range(2500)])
    late = store.observe([seen(record.id, 1, NOW + timedelta(days=30))])
    assert store.drop_observations(NOW + timedelta(days=29)) == 2500
    assert store.drop_observations(NOW + timedelta(days=29)) == 0
    assert store.history() == kept + late
    assert store.drop_observations(NOW + timedelta(days=31)) == 1
    assert store.history() == kept


def test_ids_are_never_used_twice(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    (newest,) = store.observe([seen(record.id, 1)])
    store.drop_observations(NOW + SECOND)
    (after,) = store.observe([seen(record.id, 2)])
    assert after.id > newest.id
