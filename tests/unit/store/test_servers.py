"""Servers: enrolled all or none, found by what a machine knows of itself, changed, forgotten."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from baremetal.errors import Conflict, Unavailable, Unknown
from baremetal.lifecycle.model import PowerState, ProvisionState, Verb
from baremetal.store.records import Credentials, NewServer
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from tests.unit.store.fleet import NOW, PASSWORD, SECOND, ask, live, mac, new, submit


def renamed(server: NewServer, name: str) -> NewServer:
    return dataclasses.replace(server, life=replace(server.life, name=name))


def test_what_was_enrolled_is_read_back(store: Store) -> None:
    wanted = new(
        1,
        macs=(mac(1), mac(2)),
        ip="10.0.0.5/24",
        vars={"hostname": "größe"},
        tags={"rack": "7"},
        quirks=("flip=none", "settle=2"),
        boot_mode="uefi",
    )
    (record,) = store.add_servers([wanted], NOW)
    assert store.server(record.id) == store.server("r1") == record
    assert (record.life, record.facts, record.created_at) == (wanted.life, wanted.facts, NOW)
    assert (record.power_state, record.power_seen_at) == (PowerState.UNKNOWN, None)
    assert record.name == "r1"


@pytest.mark.parametrize(
    ("clashing", "named"),
    [
        (renamed(new(9), "r1"), "there is a server 'r1' already"),
        (new(9, macs=(mac(9), mac(1))), f"the MAC {mac(1)} belongs to the server 'r1'"),
        (
            new(9, bmc_identity="ipmi://10.0.0.1:623"),
            "the BMC ipmi://10.0.0.1:623 belongs to the server 'r1'",
        ),
        (new(9, uuid="00000000-0000-0000-0000-000000000001".upper()), "belongs to the server 'r1'"),
    ],
)
def test_what_must_be_unique_names_the_other_server(store: Store, clashing: NewServer, named: str) -> None:
    store.add_servers([new(1)], NOW)
    newest = store.last_history_id()
    with pytest.raises(Conflict, match=named) as refused:
        store.add_servers([new(5), clashing], NOW)
    assert refused.value.code == "BM501"
    assert [record.name for record in store.servers()] == ["r1"]
    assert store.last_history_id() == newest
    assert store.server_by_mac(mac(5)) is None


@pytest.mark.parametrize("clashing", [renamed(new(9), "r1"), new(9, macs=(mac(1),))])
def test_one_enrolment_may_not_clash_with_itself(store: Store, clashing: NewServer) -> None:
    with pytest.raises(Conflict, match="r1"):
        store.add_servers([new(1), clashing], NOW)
    assert store.servers() == []


def test_unknown_uuids_and_equal_serials_do_not_clash(store: Store) -> None:
    store.add_servers([new(number, uuid="", serial="To be filled by O.E.M.") for number in (1, 2)], NOW)
    assert len(store.servers()) == 2


def test_a_booting_machine_is_found_by_mac_then_uuid_then_serial(store: Store) -> None:
    one, two = store.add_servers([new(1), new(2)], NOW)
    assert store.find_boot(mac(1), two.facts.uuid, two.facts.serial) == one
    assert store.find_boot(mac(99), two.facts.uuid.upper(), one.facts.serial) == two
    assert store.find_boot(mac(99), "", "SN1") == one
    assert store.find_boot("", "", "SN1") == one
    assert store.find_boot(mac(99), "no such uuid", "no such serial") is None
    assert store.find_boot(mac(99)) is None
    assert store.server_by_uuid("") is None


def test_a_serial_number_of_two_servers_finds_none(store: Store) -> None:
    store.add_servers([new(1, serial="0123456789"), new(2, serial="0123456789")], NOW)
    assert store.find_boot(mac(99), "", "0123456789") is None


def test_an_unknown_name_is_answered_with_the_nearest(store: Store) -> None:
    store.add_servers([renamed(new(1), "rack7-node1")], NOW)
    with pytest.raises(Unknown, match="Did you mean 'rack7-node1'"):
        store.server("rack7-nod1")
    with pytest.raises(Unknown):
        store.server("")


def test_servers_are_listed_by_state_and_tags(store: Store) -> None:
    records = store.add_servers(
        [new(1, tags={"rack": "7", "role": "db"}), new(2, tags={"rack": "7"}), new(3)], NOW
    )
    submit(store, records[0].id, ask(Verb.DEPLOY), NOW)
    assert [record.name for record in store.servers()] == ["r1", "r2", "r3"]
    assert [record.name for record in store.servers(tags={"rack": "7"})] == ["r1", "r2"]
    assert [record.name for record in store.servers(tags={"rack": "7", "role": "db"})] == ["r1"]
    assert [record.name for record in store.servers(state=ProvisionState.AVAILABLE)] == ["r2", "r3"]
    assert store.servers(state="available", tags={"role": "db"}) == []


# -- facts and accounts ------------------------------------------------------------------------------------------------


def test_facts_are_replaced_and_audited(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    facts = dataclasses.replace(record.facts, macs=(mac(7), mac(1)), tags={"rack": "8"})
    changed = store.set_facts(record.id, facts, Credentials("root", "new one"), NOW, "alice", "changed")
    assert store.server("r1") == changed == replace(record, facts=facts)
    assert store.credentials(record.id) == ("root", "new one")
    found = store.find_boot(mac(7))
    assert found is not None
    assert found.id == record.id
    (entry,) = store.history(record.id, kinds=["audit"])
    assert entry.data == {"by": "alice", "changed": ["macs", "tags", "credentials"]}
    assert "new one" not in str(entry)


def test_a_mac_given_up_is_free_again(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    store.set_facts(record.id, dataclasses.replace(record.facts, macs=(mac(7),)), None, NOW, "alice", "")
    assert store.find_boot(mac(1)) is None
    store.add_servers([new(2, macs=(mac(1),))], NOW)
    assert store.credentials(record.id) == ("admin", PASSWORD)


def test_facts_may_not_take_what_another_server_has(store: Store) -> None:
    one, two = store.add_servers([new(1), new(2)], NOW)
    with pytest.raises(Conflict, match="'r2'"):
        store.set_facts(one.id, dataclasses.replace(one.facts, macs=two.facts.macs), None, NOW, "alice", "")
    assert store.server(one.id) == one


def test_two_operators_do_not_overwrite_each_other(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    mine, theirs = (
        dataclasses.replace(record.facts, ip="10.0.0.1/24"),
        dataclasses.replace(record.facts, ip="10.0.0.2/24"),
    )
    store.set_facts(record.id, mine, None, NOW, "alice", "", before=record.facts)
    with pytest.raises(Conflict, match="meanwhile"):
        store.set_facts(record.id, theirs, None, NOW, "bob", "", before=record.facts)
    assert store.server("r1").facts == mine


def test_changing_facts_does_not_disturb_a_run(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    decision, _ = submit(store, record.id, ask(Verb.DEPLOY), NOW)
    store.set_facts(record.id, dataclasses.replace(record.facts, ip="10.0.0.1/24"), None, NOW, "alice", "")
    assert store.server("r1").life == decision.server


def test_a_server_without_an_account_has_an_empty_one(store: Store) -> None:
    (record,) = store.add_servers([dataclasses.replace(new(1), credentials=None)], NOW)
    assert store.credentials(record.id) == ("", "")
    with pytest.raises(Unknown):
        store.credentials("0" * 32)
    with pytest.raises(Unknown):
        store.set_facts("0" * 32, record.facts, None, NOW, "alice", "")


def test_a_look_up_for_a_machine_compares_no_names(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    with pytest.raises(Unknown) as named:
        store.server("r11")
    assert named.value.nearest == "r1"

    def slow(*_: object, **__: object) -> list[str]:
        raise AssertionError("all names were compared")

    monkeypatch.setattr("baremetal.store.servers.get_close_matches", slow)
    assert store.find_server("r1") == store.find_server(record.id) == record
    assert store.find_server("r11") is None


# -- forgetting --------------------------------------------------------------------------------------------------------


def test_a_forgotten_server_leaves_its_history_only(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    list(live(store, record.id, Verb.DEPLOY, NOW))
    store.add_log(record.id, 1, "anaconda.log", b"text", NOW)
    told = store.history(record.id)
    store.forget(record.id, NOW, "alice")
    for ref in (record.id, "r1"):
        with pytest.raises(Unknown):
            store.server(ref)
    assert store.find_boot(mac(1), record.facts.uuid, record.facts.serial) is None
    assert (store.runs(record.id), store.run(record.id, 1), store.logs(record.id)) == ([], None, [])
    assert store.history(record.id)[:-1] == told
    assert store.history(record.id)[-1].note == "forgotten"
    with pytest.raises(Unknown):
        store.frozen(record.id, 1)
    with pytest.raises(Unknown):
        store.credentials(record.id)
    with pytest.raises(Unknown):
        store.forget(record.id, NOW, "alice")


def test_a_server_that_moved_on_is_not_forgotten_by_who_looked_before(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    submit(store, record.id, ask(Verb.DEPLOY), NOW)
    newest = store.last_history_id()
    with pytest.raises(Conflict, match="Look at it again") as refused:
        store.forget(record.id, NOW, "alice", generation=record.life.generation)
    assert (refused.value.code, refused.value.server) == ("BM503", "r1")
    kept = store.server("r1")
    assert kept.life.run is not None
    assert store.last_history_id() == newest
    store.forget(record.id, NOW, "alice", generation=kept.life.generation)
    assert store.find_server("r1") is None


def test_the_same_machine_enrolled_anew_is_another_server(store: Store) -> None:
    (old,) = store.add_servers([new(1)], NOW)
    store.forget(old.id, NOW, "alice")
    (record,) = store.add_servers([new(1)], NOW)
    assert record.id != old.id
    assert store.server("r1").id == record.id


# -- power -------------------------------------------------------------------------------------------------------------


def test_a_power_state_is_history_only_when_it_changes(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    assert store.set_power(record.id, PowerState.ON, NOW) is not None
    assert store.set_power(record.id, PowerState.ON, NOW + 40 * SECOND) is None
    changed = store.server("r1")
    assert (changed.power_state, changed.power_seen_at) == (PowerState.ON, NOW + 40 * SECOND)
    entry = store.set_power(record.id, PowerState.OFF, NOW + 41 * SECOND)
    assert entry is not None
    assert entry.data == {"what": "power", "power": "off", "before": "on"}
    assert len(store.history(kinds=["observation"])) == 2
    assert store.server("r1").life == record.life
    assert store.set_power("0" * 32, PowerState.ON, NOW) is None


def test_a_clock_that_hopped_back_does_not_freeze_the_power_state(store: Store) -> None:
    (record,) = store.add_servers([new(1)], NOW)
    store.set_power(record.id, PowerState.ON, NOW + timedelta(days=30))
    store.set_power(record.id, PowerState.ON, NOW)
    assert store.server("r1").power_seen_at == NOW


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_accounts_survive_the_rotation_of_the_key(tmp_path: Path) -> None:
    key, url = tmp_path / "sealing.key", f"sqlite:///{tmp_path}/baremetal.db"
    store = Store.open(url, Secrets.load(key))
    one, two = store.add_servers([new(1), new(2)], NOW)
    before = key.read_bytes()
    assert store.rotate_key() == 2
    assert key.read_bytes() != before
    store.close()
    store = Store.open(url, Secrets.load(key))
    assert store.credentials(one.id) == store.credentials(two.id) == ("admin", PASSWORD)
    store.close()
    key.write_bytes(before)
    store = Store.open(url, Secrets.load(key))
    with pytest.raises(Unavailable, match="sealed with a key"):
        store.credentials(one.id)
    store.close()


def test_no_password_stands_readable_in_the_files(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/baremetal.db", Secrets.ephemeral())
    store.add_servers([new(1)], NOW)
    assert PASSWORD not in repr(new(1))
    for path in tmp_path.iterdir():
        assert PASSWORD.encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0, f"{path} may be read by others"
    store.close()
