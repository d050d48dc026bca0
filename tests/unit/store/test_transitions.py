"""Guards, reservations and what is due: the path that every change takes."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.events import Asked, Did, Failed, Heard, MaintenanceChanged, Overdue
from baremetal.lifecycle.model import PowerState, ProvisionState, Signal, Verb
from baremetal.lifecycle.table import RESULTS
from baremetal.store.records import NewRun
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, SECOND, ask, live, new, reserve, submit


def due(store: Store, now: datetime) -> list[str]:
    found = store.due(now)
    assert found == [store.server(record.id) for record in found]
    return [record.id for record in found]


def test_a_decision_is_stored_with_one_history_row(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    decision, entry = submit(store, record.id, ask(Verb.DEPLOY), NOW)
    assert entry is not None
    assert store.server("r1").life == decision.server
    assert store.history(record.id, kinds=["decision"]) == [entry]
    assert (entry.from_state, entry.to_state, entry.outcome) == ("available", "deploying", "changed")
    assert (entry.run, entry.note, entry.at) == (1, decision.note, NOW)
    assert entry.event is not None
    assert entry.event["verb"] == "deploy"


def test_a_lost_guard_writes_nothing(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    event = MaintenanceChanged(True)
    decision = decide(record.life, event, NOW)
    assert store.commit(record.id, record.life, decision, event, NOW)
    newest = store.last_history_id()
    assert store.commit(record.id, record.life, decision, event, NOW) is None
    assert store.last_history_id() == newest
    assert store.server("r1").life == decision.server


def test_a_raised_fence_loses_the_guard(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    event = ask(Verb.DEPLOY)
    decision = decide(record.life, event, NOW)
    assert reserve(store, record.id, NOW + SECOND, NOW) == 1
    assert store.commit(record.id, record.life, decision, event, NOW) is None
    assert store.runs(record.id) == []


def test_a_no_op_leaves_the_life_alone_and_is_guarded_too(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    event = Heard(Signal.FIRST_BOOT, run=3)
    _, entry = submit(store, record.id, event, NOW)
    assert entry is not None
    assert (entry.outcome, entry.run) == ("no-op", 3)
    assert store.server("r1").life == record.life
    stale = replace(record.life, generation=7)
    assert store.commit(record.id, stale, decide(stale, event, NOW), event, NOW) is None


def test_a_refusal_is_recorded(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    _, entry = submit(store, record.id, ask(Verb.REBUILD), NOW)
    assert entry is not None
    assert entry.outcome == "refused"
    assert "allowed" in entry.note


def test_a_forgotten_server_takes_no_decision(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    store.forget(record.id, NOW, "alice")
    event = MaintenanceChanged(True)
    assert store.commit(record.id, record.life, decide(record.life, event, NOW), event, NOW) is None


def test_numbers_only_grow(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    event = MaintenanceChanged(True)
    decision = decide(record.life, event, NOW)
    for wrong in ({"fence": -1}, {"generation": 0}, {"generation": 2}, {"runs": -1}):
        backwards = replace(decision, server=replace(decision.server, **wrong))
        with pytest.raises(AssertionError):
            store.commit(record.id, record.life, backwards, event, NOW)
    assert store.server("r1").life == record.life


def test_a_failing_statement_takes_the_whole_decision_back(store: Store) -> None:
    """A second open run breaks an index, after the life was updated in the same transaction."""
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    before, newest = store.server("r1"), store.last_history_id()
    event = MaintenanceChanged(True)
    second = NewRun(record.id, 2, "deploy", "tiny", {}, NOW)
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.commit(record.id, before.life, decide(before.life, event, NOW), event, NOW, begin=second)
    assert store.server("r1") == before
    assert store.last_history_id() == newest
    assert [run.number for run in store.runs(record.id)] == [1]


# -- reservations ---------------------------------------------------------------------------------------------------


def test_a_reservation_is_exclusive_and_raises_the_fence(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    assert reserve(store, record.id, NOW + 60 * SECOND, NOW) == 1
    assert reserve(store, record.id, NOW + 60 * SECOND, NOW) is None
    store.unreserve(record.id, 1, NOW + 61 * SECOND)  # another one, that was never taken
    assert reserve(store, record.id, NOW + 60 * SECOND, NOW) is None
    store.unreserve(record.id, 1, NOW + 60 * SECOND)
    assert reserve(store, record.id, NOW + 60 * SECOND, NOW) == 2
    assert store.server("r1").life.fence == 2


def test_a_reservation_ends_by_itself(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    assert reserve(store, record.id, NOW + 60 * SECOND, NOW) == 1
    assert reserve(store, record.id, NOW + 120 * SECOND, NOW + 60 * SECOND) == 2
    store.unreserve(record.id, 1, NOW + 60 * SECOND)  # too late: the second one stays
    assert reserve(store, record.id, NOW + 120 * SECOND, NOW + 61 * SECOND) is None


def test_raising_the_fence_voids_a_reservation(store: Store) -> None:
    """Abort and maintenance take the permission away; whoever goes on must not wait for the old holder."""
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    assert reserve(store, record.id, NOW + 600 * SECOND, NOW) == 1
    submit(store, record.id, Asked(Verb.ABORT), NOW)
    assert due(store, NOW) == [record.id]
    assert reserve(store, record.id, NOW + 600 * SECOND, NOW) == 3
    store.unreserve(record.id, 1, NOW + 600 * SECOND)
    assert reserve(store, record.id, NOW + 600 * SECOND, NOW) is None


def test_a_decision_gives_the_reservation_back_where_it_is_told_to(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    until = NOW + 600 * SECOND
    assert reserve(store, record.id, until, NOW) == 1
    life, event = store.server("r1").life, MaintenanceChanged(True)
    decision = decide(life, event, NOW)
    stale = replace(life, fence=0)
    assert store.commit(record.id, stale, decide(stale, event, NOW), event, NOW, frees=True) is None
    assert reserve(store, record.id, until, NOW) is None, "the guard was lost"
    kept = replace(decision, server=replace(decision.server, fence=life.fence))
    assert store.commit(record.id, life, kept, event, NOW, frees=True)
    assert reserve(store, record.id, until, NOW) == 2


def test_a_decision_reserves_the_server_where_it_is_told_to(store: Store) -> None:
    """In the same transaction, so that nobody is between; whoever read the server before loses the guard."""
    (record,) = store.add_servers([new()], NOW)
    event, until = ask(Verb.DEPLOY), NOW + 60 * SECOND
    refused = ask(Verb.REBUILD)
    done = store.commit(record.id, record.life, decide(record.life, refused, NOW), refused, NOW, until=until)
    assert done is not None
    assert (done.fence, store.server("r1").reserved_until) == (None, None), "nothing was to be done"
    done = store.commit(record.id, record.life, decide(record.life, event, NOW), event, NOW, until=until)
    assert done is not None
    taken = store.server("r1")
    assert (taken.life.generation, taken.life.fence, done.fence) == (1, 1, 1)
    assert taken.reserved_until == until
    assert (taken.is_held(NOW), taken.is_held(until)) == (True, False)
    assert store.due(NOW) == []
    late = Overdue(1, 0)
    before = replace(taken.life, fence=0)
    assert store.commit(record.id, before, decide(before, late, until), late, until, until=until) is None
    submit(store, record.id, Asked(Verb.ABORT), NOW)
    assert store.server("r1").reserved_until is None, "a higher fence voids it"


def test_the_power_seen_on_the_way_stands_before_the_decision(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    event = ask(Verb.DEPLOY)
    decision = decide(record.life, event, NOW)
    stale = replace(record.life, generation=7)
    assert store.commit(record.id, stale, decide(stale, event, NOW), event, NOW, power=PowerState.ON) is None
    assert store.server("r1") == record, "nothing is noted where the guard is lost"
    done = store.commit(record.id, record.life, decision, event, NOW, power=PowerState.ON)
    assert done is not None
    seen, decided = done.entries
    assert (seen.kind, seen.note, decided.kind) == ("observation", "power on", "decision")
    assert store.history(record.id)[-2:] == [seen, decided]
    after = store.server("r1")
    assert (after.power_state, after.power_seen_at) == (PowerState.ON, NOW)
    again = decide(after.life, MaintenanceChanged(True), NOW)
    written = store.commit(record.id, after.life, again, MaintenanceChanged(True), NOW, power=PowerState.ON)
    assert written is not None
    assert [entry.kind for entry in written.entries] == ["decision"]


def test_a_start_frees_every_server(store: Store) -> None:
    records = store.add_servers([new(1), new(2)], NOW)
    for record in records:
        assert reserve(store, record.id, NOW + 600 * SECOND, NOW) == 1
    store.void_reservations()
    assert [reserve(store, record.id, NOW + 600 * SECOND, NOW) for record in records] == [2, 2]


# -- what is due ----------------------------------------------------------------------------------------------------


def test_what_is_owed_is_due_at_once(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    assert (due(store, NOW), store.next_due()) == ([], None)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    assert (due(store, NOW), store.next_due()) == ([record.id], NOW)


def test_a_retry_is_due_at_its_time(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    failed = Failed(1, 0, 0, "BM101 no answer", transient=True, retry_after_s=20)
    submit(store, record.id, failed, NOW)
    assert due(store, NOW + 19 * SECOND) == []
    assert due(store, NOW + 20 * SECOND) == [record.id]
    assert store.next_due() == NOW + 20 * SECOND


def test_an_awaited_signal_is_due_at_its_deadline(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    for at in live(store, record.id, Verb.DEPLOY, NOW):
        run = store.server("r1").life.run
        assert run is not None
        if run.deadline is not None and due(store, at) == []:
            assert store.next_due() == run.deadline
            assert due(store, run.deadline) == [record.id]
            return
    pytest.fail("this life awaited nothing")


def test_who_is_reserved_is_not_due_before_the_reservation_ends(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    reserve(store, record.id, NOW + 60 * SECOND, NOW)
    assert due(store, NOW + SECOND) == []
    assert store.next_due() == NOW + 60 * SECOND
    assert due(store, NOW + 60 * SECOND) == [record.id]


def test_maintenance_makes_nothing_due(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    submit(store, record.id, MaintenanceChanged(True), NOW)
    assert (due(store, NOW + timedelta(days=30)), store.next_due()) == ([], None)
    submit(store, record.id, MaintenanceChanged(False), NOW)
    assert due(store, NOW) == [record.id]


def test_the_longest_due_comes_first(store: Store) -> None:
    records = store.add_servers([new(1), new(2), new(3)], NOW)
    for seconds, record in zip((2, 0, 1), records, strict=True):
        submit(store, record.id, ask(Verb.DEPLOY), NOW + seconds * SECOND)
    order = [records[1].id, records[2].id, records[0].id]
    assert due(store, NOW + 2 * SECOND) == order
    assert due(store, NOW + SECOND) == order[:2]


# -- the run's record -----------------------------------------------------------------------------------------------


def test_a_run_is_recorded_from_its_beginning_to_its_end(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    times = list(live(store, record.id, Verb.DEPLOY, NOW))
    run = store.run(record.id, 1)
    assert run is not None
    assert (run.verb, run.profile) == ("deploy", "tiny")
    assert store.frozen(record.id, run.number) == {"template": "text"}
    assert (run.started_at, run.ended_at, run.outcome, run.error) == (NOW, times[-1], "active", "")
    assert store.server("r1").life.state is ProvisionState.ACTIVE


def test_an_aborted_run_says_why(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    submit(store, record.id, Asked(Verb.ABORT, by="alice"), NOW + SECOND)
    open_run = store.run(record.id, 1)
    assert open_run is not None
    assert (open_run.ended_at, open_run.outcome) == (None, "")
    life = store.server("r1").life
    assert life.run is not None
    submit(store, record.id, Did(1, life.run.step, life.fence), NOW + 2 * SECOND)
    run = store.run(record.id, 1)
    assert run is not None
    assert (run.outcome, run.error) == ("deploy failed", "aborted by alice")
    assert run.ended_at == NOW + 2 * SECOND


def test_what_a_signal_tells_is_kept_with_the_run(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    disks = [{"name": "vda", "size": 10, "serial": "S1"}]
    submit(
        store, record.id, RESULTS["intended"](store.server("r1").life), NOW,
        boot_id="b1", disk="vda", disks=disks, accepted={"install-started": NOW},
    )  # fmt: skip
    submit(
        store, record.id, RESULTS["failed, try again"](store.server("r1").life), NOW + SECOND,
        ssh_host_keys=["ssh-ed25519 AAAA"], addresses=("10.0.0.5",),
        accepted={"install-started": NOW + SECOND, "install-complete": NOW + SECOND},
    )  # fmt: skip
    run = store.run(record.id, 1)
    assert run is not None
    assert (run.boot_id, run.disk, run.disks) == ("b1", "vda", disks)
    assert (run.ssh_host_keys, run.addresses) == (("ssh-ed25519 AAAA",), ("10.0.0.5",))
    assert run.accepted == {"install-started": NOW, "install-complete": NOW + SECOND}


def test_facts_that_no_run_has_are_a_bug(store: Store) -> None:
    (record,) = store.add_servers([new()], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    with pytest.raises(AssertionError, match="colour"):
        submit(store, record.id, RESULTS["intended"](store.server("r1").life), NOW, colour="red")
