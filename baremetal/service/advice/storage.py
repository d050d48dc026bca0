"""What is wrong with the storage hosts: who does not answer, is full, or serves somebody's volume no more."""

from __future__ import annotations

from baremetal.errors import BaremetalError
from baremetal.service.advice.finding import Finding
from baremetal.service.storage.doors import VolumeDoors
from baremetal.service.storage.hosts import Hosts

LEAST_FREE = 0.05


def examine_storage(hosts: Hosts, doors: VolumeDoors) -> list[Finding]:
    """Look at every storage host. Reads only, and never raises for what it finds."""
    found = []
    for name, said in hosts.all().items():
        what = f"storage {name}"
        if not said.makes:
            found.append(Finding(what, None, "its LUNs are made by hand, so nothing is looked at"))
            continue
        try:
            host = hosts.host(name)
            software, room, lost = host.portal.check(), host.keeper.check(), doors.missing(name)
        except BaremetalError as error:
            found.append(Finding(what, False, error.what, error.code, error.fix or "see docs/storage.md"))
            continue
        if lost:
            text = f"{software} does not serve the volume of {', '.join(lost)}"
            found.append(Finding(what, False, text, "BM806", f"baremetal storage restore {name}"))
        elif room.free < room.size * LEAST_FREE:
            text = f"{room.free // 1024**2} MiB of {room.size // 1024**2} are free"
            found.append(Finding(what, False, text, "BM803", "delete golden images, or give it more room"))
        else:
            found.append(Finding(what, True, f"{software} answers, {room.free // 1024**3} GiB free"))
    return found
