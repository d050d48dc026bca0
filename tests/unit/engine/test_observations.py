"""Requests seen are written in batches, beside the decisions; a database that is away loses none of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import cast

import pytest
from structlog.testing import capture_logs

from baremetal.engine import observations as module
from baremetal.engine.observations import Observations
from baremetal.errors import Unavailable
from baremetal.store.records import HistoryEntry, Observed
from baremetal.store.store import Store
from tests.unit.engine.rig import Rig


class MoodyStore:
    """Away, or there."""

    def __init__(self, store: Store) -> None:
        self.store, self.away, self.batches = store, False, 0

    def observe(self, seen: Iterable[Observed]) -> list[HistoryEntry]:
        if self.away:
            raise Unavailable("the database does not answer")
        self.batches += 1
        return self.store.observe(seen)


@pytest.fixture
def moody(rig: Rig) -> MoodyStore:
    return MoodyStore(rig.store)


@pytest.fixture
def seen(rig: Rig, moody: MoodyStore) -> Observations:
    return Observations(cast(Store, moody), rig.now)


def test_a_batch_is_one_transaction_and_is_heard(rig: Rig, seen: Observations, moody: MoodyStore) -> None:
    server_id = rig.enrol()
    heard: list[HistoryEntry] = []
    seen.listen(heard.append)
    for number in range(5):
        seen.add(server_id, "r1", 1, "kernel", f"kernel fetched {number}", {"address": "10.0.0.5"})
        rig.clock.pass_time(1.0)
    assert seen.flush() == 5
    assert moody.batches == 1
    written = rig.store.history(server_id, kinds=["observation"])
    assert [entry.note for entry in written] == [f"kernel fetched {number}" for number in range(5)]
    assert [entry.id for entry in heard] == [entry.id for entry in written]
    assert written[1].at > written[0].at, "the time is when it was seen, not when it was written"
    assert written[0].data == {"what": "kernel", "address": "10.0.0.5"}


def test_nothing_seen_is_nothing_written(seen: Observations, moody: MoodyStore) -> None:
    assert seen.flush() == 0
    assert moody.batches == 0


def test_what_could_not_be_written_is_kept_in_order(rig: Rig, seen: Observations, moody: MoodyStore) -> None:
    server_id = rig.enrol()
    moody.away = True
    for note in ("first", "second"):
        seen.add(server_id, "r1", None, "answer", note)
        with pytest.raises(Unavailable):
            seen.flush()
    moody.away = False
    seen.add(server_id, "r1", None, "answer", "third")
    assert seen.flush() == 3
    notes = [entry.note for entry in rig.store.history(server_id, kinds=["observation"])]
    assert notes == ["first", "second", "third"]


def test_a_flood_is_bounded_and_counted(
    rig: Rig, seen: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CAPACITY", 10)
    server_id = rig.enrol()
    for number in range(15):
        seen.add(server_id, "r1", None, "kernel", f"{number}")
    with capture_logs() as logs:
        assert seen.flush() == 10
        assert seen.flush() == 0
    written = rig.store.history(kinds=["observation"])
    assert [entry.note for entry in written] == [str(number) for number in range(10)]
    assert [(entry["event"], entry["count"]) for entry in logs] == [("observations dropped", 5)]


def test_many_threads_lose_nothing(rig: Rig, seen: Observations) -> None:
    server_id = rig.enrol()

    def add() -> None:
        for _ in range(50):
            seen.add(server_id, "r1", None, "kernel", "fetched")
            seen.flush()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.flush()
    assert len(rig.store.history(kinds=["observation"])) == 200
