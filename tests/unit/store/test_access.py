"""Control tokens, what BMCs refused, settings, and machines that nobody enrolled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from baremetal.errors import Conflict, Unknown
from baremetal.store import sightings
from baremetal.store.records import BmcMemoRecord
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, SECOND, mac, new


def test_a_token_is_known_by_its_hash_until_it_is_revoked(store: Store) -> None:
    store.add_token("ci", "operator", "h1", NOW)
    store.add_token("alice", "admin", "h2", NOW + SECOND)
    found = store.token_by_hash("h1")
    assert found is not None
    assert (found.name, found.role, found.created_at) == ("ci", "operator", NOW)
    assert [token.name for token in store.tokens()] == ["alice", "ci"]
    store.revoke("ci", NOW, by="alice")
    assert store.token_by_hash("h1") is None
    with pytest.raises(Unknown):
        store.revoke("ci", NOW)
    store.add_token("ci", "viewer", "h3", NOW)
    notes = [entry.note for entry in store.history(kinds=["audit"])]
    assert len(notes) == 4
    assert "revoked" in notes[2]


def test_a_name_or_a_hash_is_given_once(store: Store) -> None:
    store.add_token("ci", "operator", "h1", NOW)
    with pytest.raises(Conflict):
        store.add_token("ci", "operator", "h2", NOW)
    with pytest.raises(Conflict):
        store.add_token("other", "operator", "h1", NOW)
    assert [token.name for token in store.tokens()] == ["ci"]
    assert len(store.history(kinds=["audit"])) == 1


@dataclass(frozen=True)
class Memo:
    refused: tuple[str, ...] = ()
    at: datetime | None = None
    reason: str = ""


def test_what_a_bmc_refused_is_remembered(store: Store) -> None:
    identity = "ipmi://10.0.0.1:623"
    assert store.bmc_memo(identity) is None
    store.save_bmc_memo(identity, Memo(("f1",), NOW, "wrong password"))
    store.save_bmc_memo(identity, Memo(("f1", "f2"), NOW + SECOND, "wrong password"))
    assert store.bmc_memo(identity) == BmcMemoRecord(("f1", "f2"), NOW + SECOND, "wrong password")
    store.save_bmc_memo(identity, Memo())
    assert store.bmc_memo(identity) is None


def test_a_setting_is_what_was_set_last(store: Store) -> None:
    assert store.setting("master") is None
    store.set_setting("master", "1")
    store.set_setting("master", "2")
    assert store.setting("master") == "2"


def test_an_unknown_machine_is_listed_until_it_is_enrolled(store: Store) -> None:
    store.saw_unknown(mac(1), "u1", "", "x86_64", "ipxe", NOW)
    store.saw_unknown(mac(2), "u2", "", "x86_64", "ipxe", NOW + SECOND)
    store.saw_unknown(mac(1), "u1", "SN1", "x86_64", "ipxe", NOW + SECOND)
    store.saw_unknown(mac(1), "", "", "", "script", NOW + 2 * SECOND)
    first, second = store.unknowns()
    assert (first.mac, first.times, first.what) == (mac(1), 3, "script")
    assert (first.uuid, first.serial, first.arch) == ("u1", "SN1", "x86_64"), "what it does not say now stays"
    assert (first.first_seen_at, first.last_seen_at) == (NOW, NOW + 2 * SECOND)
    assert second.mac == mac(2)
    store.add_servers([new(1)], NOW)
    assert [machine.mac for machine in store.unknowns()] == [mac(2)]


def test_invented_machines_fill_nothing_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 20
    monkeypatch.setattr(sightings, "MOST", most)
    for number in range(most + 5):
        store.saw_unknown(mac(number), "", "", "", "ipxe", NOW + timedelta(seconds=number))
    known = {machine.mac for machine in store.unknowns()}
    assert len(known) == most
    assert mac(most + 4) in known
    assert not known & {mac(number) for number in range(5)}
