"""What dnsmasq's log becomes on the timeline: one machine is one server, whichever NIC asks and however often (S3-7).

The lines are dnsmasq 2.90's own; they go through its reader and the service's notes into a real store.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from baremetal.engine.observations import Observations
from baremetal.netboot.dhcp.offer import Mode, Network, Segment
from baremetal.netboot.dhcp.sightings import Reader
from baremetal.service.boot.dhcp import Dhcp
from baremetal.service.boot.strangers import Strangers, Way
from baremetal.store.records import ServerRecord
from baremetal.store.secrets import Secrets
from baremetal.store.store import Store
from tests.unit.store.fleet import new

FIRST, SECOND, STRANGER = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:99"
FIRMWARE, INSTALLER = "PXEClient:Arch:00007:UNDI:003010", "anaconda-Linux 5.14.0 x86_64"
SEGMENT = Segment(
    name="rack1",
    network=ipaddress.IPv4Network("10.9.0.0/24"),
    first=ipaddress.IPv4Address("10.9.0.100"),
    last=ipaddress.IPv4Address("10.9.0.109"),
    interface="br0",
    base="http://10.9.0.1:8080",
    next_server="10.9.0.1",
    script="http://10.9.0.1:8080/boot.ipxe",
)


class Rig:
    """A service's DHCP side whose dnsmasq is not started: its log is told by the test."""

    def __init__(self, folder: Path) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=UTC)
        self.store = Store.open("sqlite://", Secrets.ephemeral())
        self.observations = Observations(self.store, lambda: self.at)
        self.belonged: list[tuple[str, str]] = []
        self.reader = Reader()
        self.dhcp = Dhcp(
            Network(
                Mode.FULL, (SEGMENT,), hosts_file=str(folder / "hosts"), lease_file=str(folder / "leases")
            ),
            folder,
            self.store,
            self.observations,
            now=lambda: self.at,
            later=lambda call: call(),
            belongs=self.belongs,
            strangers=Strangers(self.store, lambda: self.at),
        )

    def belongs(self, address: str, record: ServerRecord) -> None:
        self.belonged.append((address, record.life.name))

    def lease(self, xid: int, mac: str, address: str, vendor_class: str) -> None:
        """A whole round: asked, offered, wanted, given."""
        packets = (("DHCPDISCOVER(br0)", "DHCPOFFER(br0)"), ("DHCPREQUEST(br0)", "DHCPACK(br0)"))
        for words in packets:
            for text in (
                "available DHCP range: 10.9.0.100 -- 10.9.0.109",
                f"vendor class: {vendor_class}",
                *(f"{word} {'' if 'DISCOVER' in word else f'{address} '}{mac}" for word in words),
            ):
                for seen in self.reader.read(f"dnsmasq-dhcp[7]: {xid} {text}"):
                    self.dhcp._heard(seen)
        for seen in self.reader.flush():
            self.dhcp._heard(seen)

    def notes(self) -> list[tuple[str, str]]:
        self.observations.flush()
        return [(entry.server, entry.note) for entry in self.store.history(kinds=["observation"])]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.store.close()


ROUND = [
    "asked for an address",
    "was offered an address, {}",
    "wants an address, {}",
    "was given an address, {}",
]


def told(address: str) -> list[tuple[str, str]]:
    return [("r1", f"DHCP: {words}".format(address)) for words in ROUND]


def test_the_installers_second_round_is_the_same_server(rig: Rig) -> None:
    rig.store.add_servers([new(1, macs=(FIRST, SECOND))], rig.at)
    rig.lease(1, FIRST, "10.9.0.50", FIRMWARE)
    rig.at += timedelta(seconds=30)
    rig.lease(2, FIRST, "10.9.0.50", INSTALLER)
    assert rig.notes() == told("10.9.0.50"), "within a minute the same words are said once"
    rig.at += timedelta(minutes=3)
    rig.lease(3, FIRST, "10.9.0.50", INSTALLER)
    assert rig.notes() == told("10.9.0.50") * 2
    assert set(rig.belonged) == {("10.9.0.50", "r1")}
    assert rig.store.unknowns() == []


def test_another_nic_of_the_machine_is_the_same_server(rig: Rig) -> None:
    rig.store.add_servers([new(1, macs=(FIRST, SECOND))], rig.at)
    rig.lease(1, SECOND, "10.9.0.101", FIRMWARE)
    rig.lease(2, FIRST, "10.9.0.50", FIRMWARE)
    notes = rig.notes()
    assert {server for server, _ in notes} == {"r1"}
    assert ("r1", "DHCP: was given an address, 10.9.0.101") in notes
    assert ("r1", "DHCP: was given an address, 10.9.0.50") in notes


def test_a_nic_that_is_nobodys_makes_no_server_and_no_note(rig: Rig) -> None:
    rig.store.add_servers([new(1, macs=(FIRST,))], rig.at)
    rig.lease(1, STRANGER, "10.9.0.102", FIRMWARE)
    assert rig.notes() == []
    assert rig.belonged == []
    assert [record.life.name for record in rig.store.servers()] == ["r1"]


def test_a_stranger_that_netboots_is_listed_before_it_asks_for_a_script(rig: Rig) -> None:
    """Perhaps it never comes to that: its loader may not arrive."""
    rig.lease(1, STRANGER, "10.9.0.102", FIRMWARE)
    rig.lease(2, SECOND, "10.9.0.103", INSTALLER)  # a system that wants an address
    (seen,) = rig.store.unknowns()
    assert (seen.mac, seen.arch, seen.what, seen.times) == (STRANGER, "x86_64", "DHCP, as x86-64 UEFI", 1)
    rig.store.saw_unknown(STRANGER, "u1", "SN1", "x86_64", "boot script", rig.at)
    rig.at += timedelta(minutes=1)
    rig.lease(3, STRANGER, "10.9.0.102", "HTTPClient:Arch:00019:UNDI:003010")
    (seen,) = rig.store.unknowns()
    assert (seen.uuid, seen.serial, seen.arch, seen.times) == ("u1", "SN1", "arm64", 3), "what it told before"
    assert seen.what == "DHCP, as arm64 UEFI HTTP boot"


def test_a_flood_of_invented_machines_writes_little_and_hides_nobody_who_asks_for_a_script(rig: Rig) -> None:
    for number in range(200):
        rig.lease(
            number, f"52:54:00:01:00:{number:02x}", "10.9.0.102", f"PXEClient:Arch:{number:05d}:UNDI:003010"
        )
    for number in range(200, 230):  # one machine that says that it is another architecture each time
        rig.lease(number, STRANGER, "10.9.0.102", f"PXEClient:Arch:{number:05d}:UNDI:003010")
    assert len(rig.store.unknowns()) == 64
    assert sum(seen.times for seen in rig.store.unknowns()) == 64
    strangers = rig.dhcp._strangers
    assert strangers.is_news(STRANGER, Way.SCRIPT)
    rig.at += timedelta(seconds=10)
    assert strangers.is_news(STRANGER, Way.DHCP)
