"""The process that is all BMCs of a rack: `python -m baremetal.lab.vbmc RACKDIR [--attached]`.

Owns the IPMI servers, the machines behind them and the status file that the rack reads. Knows nothing of what the
machines boot. It ends on SIGTERM and SIGINT and powers everything off; when it is killed instead, the kernel ends its
machines. `--attached` ends it with the process that started it.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from baremetal.errors import LabError
from baremetal.lab.firmware import find_firmware
from baremetal.lab.machine import QemuMachine
from baremetal.lab.server import BMC_USER, VirtualServer
from baremetal.sim.bmc import Identity, SimulatedBmc
from baremetal.sim.knobs import Knobs
from baremetal.sim.rmcp import BmcFarm
from baremetal.sim.sessions import User

STATE, STATUS, LOCK, PID, LOG = "rack.json", "vbmc.json", "vbmc.lock", "vbmc.pid", "vbmc.log"
_GLANCE_S = 1.0


def read_state(rack: Path) -> list[VirtualServer]:
    """Return the rack's servers; none when there is no rack. Raises LabError when the file is not ours."""
    try:
        state = json.loads((rack / STATE).read_text())
        listed = state["servers"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"the rack's state in {rack} cannot be read", seen=repr(error)) from error
    return [VirtualServer.from_dict(values, rack) for values in listed]


def write_file(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old or the new one, never half of it."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.replace(path)


class RackProcess:
    """The BMCs and machines of one rack, while they run."""

    def __init__(self, rack: Path) -> None:
        self._rack = rack
        self._machines: dict[str, QemuMachine] = {}
        self._wake = threading.Event()
        self._ended = False

    def run(self, *, attached: bool) -> None:
        """Serve until told to end. Raises LabError when the rack cannot be started."""
        parent = os.getppid()
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        with ExitStack() as stack:
            lock = stack.enter_context((self._rack / LOCK).open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(f"the rack in {self._rack} is already running") from None
            write_file(self._rack / PID, f"{os.getpid()}\n")
            farm = stack.enter_context(BmcFarm())
            stack.callback(self._power_all_off)  # before the farm goes: machines ask it for their boot order
            for server in read_state(self._rack):
                self._serve(farm, server)
            while not self._ended and not (attached and os.getppid() != parent):
                self._report(ready=True)
                self._wake.wait(_GLANCE_S if attached else None)
                self._wake.clear()
        self._report(ready=False)

    def _end(self, *_: object) -> None:
        self._ended = True
        self._wake.set()

    def _serve(self, farm: BmcFarm, server: VirtualServer) -> None:
        machine = QemuMachine(
            server.machine(),
            find_firmware(server.boot_mode, architecture=server.architecture, secure_boot=server.secure_boot),
            next_boot=lambda: farm.call(bmc.take_boot),
            on_change=self._wake.set,
        )
        self._machines[server.name] = machine
        bmc = SimulatedBmc(
            machine,
            time.monotonic,
            Knobs(**server.knobs),
            random.Random(server.serial),
            users=(User(BMC_USER, server.password_file.read_text().strip()),),
            identity=Identity(name=server.serial),
        )
        try:
            farm.add(bmc, server.bmc_port)
        except OSError as error:
            raise LabError(
                f"the BMC's port {server.bmc_port} cannot be had",
                code="BM303",
                server=server.name,
                seen=error.strerror,
            ) from error

    def _power_all_off(self) -> None:
        for machine in self._machines.values():
            machine.power_off()
        for machine in self._machines.values():
            machine.close()

    def _report(self, *, ready: bool) -> None:
        servers: dict[str, Any] = {
            name: {
                "power": "on" if machine.is_on else "off",
                "pid": machine.pid,
                "boots": machine.boots,
                "error": machine.last_error,
            }
            for name, machine in self._machines.items()
        }
        status = {"pid": os.getpid(), "ready": ready, "error": "", "servers": servers}
        write_file(self._rack / STATUS, json.dumps(status, indent=1))


def main(arguments: list[str]) -> int:
    """Run a rack's process; return its exit status."""
    attached = "--attached" in arguments
    (where,) = [word for word in arguments if word != "--attached"]
    rack = Path(where)
    try:
        RackProcess(rack).run(attached=attached)
    except LabError as error:
        failed = {"pid": os.getpid(), "ready": False, "error": str(error), "code": error.code, "servers": {}}
        write_file(rack / STATUS, json.dumps(failed))
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
