"""What a simulated machine does with a volume: it logs in as its boot script says, and boots what stands there.

Like the rest of the machine it believes the script that it was served, word for word, and proves itself with what the
script says; whether that opens a target is the storage host's affair. A clone's first boot reads its seed.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from baremetal.sim.disk import SimulatedDisk
from baremetal.sim.network import NoAnswer
from baremetal.sim.seed import read_seed

if TYPE_CHECKING:
    from baremetal.sim.machine import SimulatedMachine

_SETTING = re.compile(r"^set ([a-z-]+) (\S+)$", re.M)
# RFC 4173 5: the protocol is empty or 6, the port 3260 where it is empty, the LUN hexadecimal and 0 where it is empty
_URI = re.compile(r"iscsi:(\[[^]]+\]|[^:\[]+):6?:([0-9]*):([0-9a-f]*):(\S+)\Z")
_CALLBACK = re.compile(r"https?://[^\s'\"]+/callback/[A-Za-z0-9_-]+")
_RUN = re.compile(r"[0-9a-f]{32}/[0-9]+")
_INSTANCE = re.compile(r"^instance-id: [\"']?([^\s\"']+)", re.M)
# as in san.ipxe.j2 and install.ipxe.j2
_PAUSE_S, _BOOT_TRIES, _HOOK_TRIES = 5.0, 6, 20


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a SAN script gives a machine to log in with: where, as whom, and with which secrets."""

    address: str
    port: int
    lun: int
    target: str
    initiator: str
    user: str = ""
    password: str = ""
    mutual_user: str = ""
    mutual_password: str = ""
    boots: bool = True
    """Whether the machine is to boot what stands there; else an installer finds it as a disk."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A volume that a machine has logged in to, and the small second image beside it, if any."""

    disk: SimulatedDisk
    seed: bytes | None = None


class Fabric(Protocol):
    """The storage network. Raises NoAnswer where nobody answers, and where the target refuses."""

    def log_in(self, ticket: Ticket) -> Attached: ...


def read_ticket(script: str) -> Ticket | None:
    """Read where a boot script sends its machine; None where it names no volume."""
    if "root-path" not in script:
        return None
    said = dict(_SETTING.findall(script))
    found = _URI.match(said.get("root-path", ""))
    if found is None or said.get("keep-san") != "1":
        return None
    address, port, lun, target = found.groups()
    return Ticket(
        address.strip("[]"),
        int(port or 3260),
        int(lun or "0", 16),
        target,
        said.get("initiator-iqn", ""),
        said.get("username", ""),
        said.get("password", ""),
        said.get("reverse-username", ""),
        said.get("reverse-password", ""),
        boots="\nsanboot " in script,
    )


def attach(machine: SimulatedMachine, ticket: Ticket) -> Generator[float, None, Attached | None]:
    """Log in, as often as the script tries; None for in vain."""
    fabric = machine.fabric
    for _ in range(_BOOT_TRIES if ticket.boots else _HOOK_TRIES):
        if fabric is not None:
            try:
                return fabric.log_in(ticket)
            except NoAnswer:
                pass
        yield _PAUSE_S
    return None


def settle(machine: SimulatedMachine, volume: Attached) -> Generator[float, None, bool]:
    """Read the seed, as a clone's boot does before its network is up; false where the system does not come up.

    A new instance id makes the clone a system of its own: its run, its keys, the call-back that it makes once.
    """
    disk = volume.disk
    if volume.seed is None or not disk.system:
        return True
    files = {name: text.decode() for name, text in read_seed(volume.seed).items()}
    told, user_data = _INSTANCE.search(files.get("meta-data", "")), files.get("user-data", "")
    callback, run = _CALLBACK.search(user_data), _RUN.search(user_data)
    if told is None or callback is None or run is None:
        machine.stage = "a seed that says nothing"
        return False
    if told[1] != disk.instance:
        if machine.chance("panic"):
            machine.stage = "panic"
            return False
        disk.settle(machine.at(), told[1], run.group(), "" if machine.chance("silent") else callback.group())
        yield 1.0
    return True
