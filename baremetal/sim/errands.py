"""What a simulated machine does in a RAM system: wipe its disk, report its parts, wait for an operator's login.

Like the installer in `machine.py` it believes the script that it was served and the replies to its call-backs, and
knows nothing of runs or states. Which errand it is on it reads in the script.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baremetal.sim.machine import SimulatedMachine

Life = Generator[float, None, None]

_ERRAND = re.compile(r"^BM_ERRAND=(wipe|inspect|rescue)$", re.M)


def errand_of(script: str) -> str:
    """Say what a served script wants of the machine; "" for an installer's answer file."""
    found = _ERRAND.search(script)
    return found[1] if found else ""


def carry_out(machine: SimulatedMachine, errand: str, callback: str, run: str) -> Life:
    """Live in the RAM system from its kernel's start to whatever ends it."""
    hello = machine.introduce()
    if errand == "wipe":
        yield from _wipe(machine, callback, run, hello)
    elif errand == "inspect":
        yield from _inspect(machine, callback, run, hello)
    else:
        yield from _rescue(machine, callback, run, hello)


def _wipe(machine: SimulatedMachine, callback: str, run: str, hello: dict[str, object]) -> Life:
    boot_id, disk = str(hello["boot_id"]), machine.disk
    if not (yield from machine.ask_go(f"{callback}/wipe-started", hello)):
        machine.power_off()
        return
    disk.wipe(machine.at(), run, boot_id)
    machine.stage = "wiping"
    if machine.chance("hang"):
        machine.stage = "wipe hangs"
        return
    yield machine.timing.wipe_s / 2
    if machine.chance("self_reboot"):
        yield from machine.restart()
        return
    if machine.chance("fails"):
        failed: dict[str, object] = {"stage": disk.name, "message": f"{disk.serial}: I/O error"}
        yield from machine.tell(callback, "wipe-failed", failed)
        machine.power_off()
        return
    yield from machine.tell(callback, "progress", {"stage": disk.name, "percent": 50}, tries=1)
    yield machine.timing.slow_s if machine.chance("slow_installer") else machine.timing.wipe_s / 2
    disk.finish_wipe(machine.at(), run, boot_id)
    machine.stage = "wiped"
    if not machine.chance("silent"):
        done: dict[str, object] = {"boot_id": boot_id, "message": f"{disk.name} {disk.serial} zeroed"}
        yield from machine.tell(callback, "wipe-complete", done)


def _inspect(machine: SimulatedMachine, callback: str, run: str, hello: dict[str, object]) -> Life:
    machine.stage = "inspecting"
    if machine.chance("hang") or machine.chance("silent"):
        return
    if machine.chance("self_reboot"):
        yield from machine.restart()
        return
    if machine.chance("fails"):
        yield from machine.tell(callback, "inspect-failed", {"stage": "cpu", "message": "no /proc/cpuinfo"})
        return
    machine.errands.append(("inspect", run))
    found = {"cpus": 4, "arch": "x86_64", "memory_mib": 8192, "disks": hello["disks"], "product": "simulated"}
    yield from machine.tell(callback, "inspect-complete", {**hello, "inventory": json.dumps(found)})
    machine.stage = "inspected"


def _rescue(machine: SimulatedMachine, callback: str, run: str, hello: dict[str, object]) -> Life:
    machine.stage = "rescue system starts"
    if machine.chance("hang") or machine.chance("silent"):
        return
    if machine.chance("fails"):
        yield from machine.tell(callback, "rescue-failed", {"stage": "sshd", "message": "no key"})
        return
    machine.errands.append(("rescue", run))
    machine.stage = "rescue"
    up = {**hello, "ssh_host_keys": [machine.key_of(run)], "addresses": ["10.0.0.5"]}
    yield from machine.tell(callback, "rescue-started", up)
