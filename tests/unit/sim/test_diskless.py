"""A simulated machine believes the script and the seed that a real one is served, word for word."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from baremetal.netboot.dialect import Manner, san_text
from baremetal.netboot.lookup import Loader
from baremetal.netboot.san import San
from baremetal.sim.chassis import OWN_ORDER
from baremetal.sim.clock import VirtualClock
from baremetal.sim.disk import SimulatedDisk
from baremetal.sim.diskless import Attached, Ticket, read_ticket
from baremetal.sim.machine import SimulatedMachine
from baremetal.sim.network import NoAnswer, Reply
from baremetal.sim.seed import read_seed
from baremetal.storage.seed import make_seed

AT = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
RUN = "0123456789abcdef0123456789abcdef/7"
SEED = {
    "user-data": f"#!/bin/sh\nreport=http://boot.test/callback/token-7\nrun={RUN}\n".encode(),
    "meta-data": b"instance-id: 'baremetal-7'\nlocal-hostname: r1\n",
}
SAN = San(
    "iscsi:10.0.0.9::3261:1:iqn.2026-01.test:r1.main",
    "iqn.2026-01.test:r1",
    "r1-0a1b",
    "secret",
    "r1-t-2c",
    "other",
)


def script(san: San) -> str:
    return san_text(Manner(Loader.IPXE), san, "active: boots its own volume", "http://boot.test")


@dataclass
class Site:
    """A boot app that always says the same, and a storage network with one volume behind one ticket."""

    script: str
    volume: Attached
    opens: Ticket | None
    told: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def get(self, url: str) -> Reply:
        return Reply(200, self.script)

    def post(self, url: str, fields: Mapping[str, object]) -> Reply:
        self.told.append((url, dict(fields)))
        return Reply(200, "ok")

    def log_in(self, ticket: Ticket) -> Attached:
        if ticket != self.opens:
            raise NoAnswer("refused")
        return self.volume


def power_on(site: Site) -> SimulatedMachine:
    clock = VirtualClock()
    machine = SimulatedMachine(
        "r1", ("02:00:00:00:00:01",), clock, site, "http://boot.test", random.Random(1)
    )
    machine.fabric = site
    machine.power_on(OWN_ORDER)
    clock.pass_time(120.0)
    return machine


def test_a_script_says_where_to_log_in_and_with_what() -> None:
    assert read_ticket(script(SAN)) == Ticket(
        "10.0.0.9",
        3261,
        1,
        "iqn.2026-01.test:r1.main",
        "iqn.2026-01.test:r1",
        "r1-0a1b",
        "secret",
        "r1-t-2c",
        "other",
    )
    bare = read_ticket(script(San("iscsi:[fd00::9]::::iqn.2026-01.test:r1.main", "iqn.2026-01.test:r1")))
    assert bare == Ticket("fd00::9", 3260, 0, "iqn.2026-01.test:r1.main", "iqn.2026-01.test:r1")
    assert read_ticket("#!ipxe\nexit\n") is None


def test_a_clone_becomes_another_system_by_its_seed_and_says_so_once() -> None:
    disk = SimulatedDisk("sda", system="golden")
    site = Site(script(SAN), Attached(disk, make_seed(SEED, AT)), read_ticket(script(SAN)))
    machine = power_on(site)
    assert (machine.running, machine.root, machine.login()) == (RUN, disk, RUN)
    ((url, fields),) = site.told
    assert url == "http://boot.test/callback/token-7/first-boot"
    assert (fields["run"], fields["ssh_host_keys"]) == (RUN, [machine.host_key()])
    again = power_on(site)
    assert (again.running, len(site.told)) == (RUN, 1), "a seed that was read is not read again"
    assert [(write.what, write.run) for write in disk.log] == [("settled", RUN)]
    assert machine.disk.log == [], "its own disk is not touched"


def test_a_golden_image_without_a_seed_stays_what_it_is() -> None:
    site = Site(script(SAN), Attached(SimulatedDisk("sda", system="golden")), read_ticket(script(SAN)))
    assert (power_on(site).running, site.told) == ("golden", [])


def test_whoever_is_not_let_in_boots_nothing_and_asks_again() -> None:
    site = Site(script(SAN), Attached(SimulatedDisk("sda", system="golden")), None)
    machine = power_on(site)
    assert (machine.running, machine.stage) == ("", "netboot")


@pytest.mark.parametrize("size", [0, 1, 512, 513, 70_000])
def test_a_seed_is_read_as_others_wrote_it(tmp_path: Path, size: int) -> None:
    files = {"user-data": random.Random(size).randbytes(size), "meta-data": b"instance-id: a\n"}
    assert read_seed(make_seed(files, AT)) == files
    image = tmp_path / "seed.img"
    image.write_bytes(bytes(1440 * 1024))
    tools = {name: shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin") for name in ("mformat", "mcopy")}
    assert all(tools.values()), tools
    subprocess.run([str(tools["mformat"]), "-f", "1440", "-i", str(image), "::"], check=True, timeout=30)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        subprocess.run(
            [str(tools["mcopy"]), "-i", str(image), str(tmp_path / name), "::"], check=True, timeout=30
        )
    assert read_seed(image.read_bytes()) == files


def test_what_is_no_seed_is_said_to_be_none() -> None:
    with pytest.raises(ValueError, match="no FAT12"):
        read_seed(bytes(1440 * 1024))
