"""The newest inventory of a server: written with its decision, replaced by the next, gone with the server."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from baremetal.lifecycle.decide import decide
from baremetal.lifecycle.events import Asked, Heard
from baremetal.lifecycle.model import ProvisionState, Server, Signal, Verb
from baremetal.lifecycle.table import LATER, NOW, live, position
from baremetal.store.records import Facts, InventoryRecord, NewRun, NewServer
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_an_inventory_is_written_with_its_signal_and_forgotten_with_its_server() -> None:
    store = Store.open("sqlite://", Secrets.ephemeral())
    life = Server("r1", state=ProvisionState.MANAGEABLE)
    (record,) = store.add_servers([NewServer(life, Facts("sim://a", "sim://a", ("52:54:00:00:00:01",)))], NOW)
    assert store.inventory(record.id) is None
    for number in (1, 2):
        asked = Asked(Verb.INSPECT)
        begun = decide(life, asked, NOW)
        begin = NewRun(record.id, number, "inspect", "inspect", {}, NOW)
        assert store.commit(record.id, life, begun, asked, NOW, begin=begin)
        walked = {position(server): server for server in live("inspect", life)}
        complete = replace(walked["inspect/complete"], generation=begun.server.generation)
        told = Heard(Signal.INSPECT_COMPLETE, number, "boot-1")
        decision = decide(complete, told, LATER)
        facts = {"disks": [{"name": "sda"}], "inventory": {"cpus": number}}
        assert store.commit(record.id, complete, decision, told, AT, facts=facts)
        assert store.inventory(record.id) == InventoryRecord(number, AT, {"cpus": number})
        run = store.run(record.id, number)
        assert run is not None
        assert run.disks == [{"name": "sda"}]
        ended = replace(walked["manageable"], generation=decision.server.generation + 1)
        over = replace(decision, server=ended)
        assert store.commit(record.id, decision.server, over, told, AT)
        life = ended
    store.forget(record.id, NOW, "test")
    assert store.inventory(record.id) is None
    store.close()
