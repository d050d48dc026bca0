"""A rack of virtual servers in one folder: bring it up, look at it, take it down.

Owns the folder's layout (`rack.json`, `bmc-password`, one folder per server) and the life of the process that runs the
BMCs (`vbmc.py`). Any process may call it: what is running is found from the folder, not remembered here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from baremetal.errors import LabError
from baremetal.lab.firmware import find_firmware
from baremetal.lab.process import end, is_running, read_pid
from baremetal.lab.server import VirtualServer
from baremetal.lab.vbmc import LOCK, LOG, PID, STATE, STATUS, read_state, write_file
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.ramsystem.architecture import Architecture

_MODULE = "baremetal.lab.vbmc"
_UP_S = 60.0
_DOWN_S = 30.0
MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A virtual server now. `error` is why it last lost power by itself; `boots` counts firmware starts."""

    server: VirtualServer
    power: str
    boots: int = 0
    pid: int | None = None
    error: str = ""


def available(
    boot_mode: str = BootMode.BIOS, architecture: Architecture = Architecture.X86_64
) -> tuple[bool, str]:
    """Say whether virtual servers of a boot mode can run on this host; if not, why and what to install."""
    try:
        for mode in _modes(boot_mode, 2):
            find_firmware(mode, architecture=architecture)
    except LabError as error:
        return False, str(error)
    return True, ""


class Rack:
    """The virtual servers in one folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    @property
    def is_running(self) -> bool:
        """Whether the rack's BMCs answer."""
        pid = read_pid(self.directory / PID)
        return pid is not None and is_running(pid, _MODULE, str(self.directory))

    @property
    def servers(self) -> list[VirtualServer]:
        """The servers of this rack, running or not. Raises LabError when the state file cannot be read."""
        return read_state(self.directory)

    @property
    def password(self) -> str:
        """The password of the rack's BMCs. Raises LabError when there is no rack."""
        try:
            return (self.directory / "bmc-password").read_text().strip()
        except OSError as error:
            raise LabError(f"there is no rack in {self.directory}", seen=error.strerror) from error

    def up(
        self,
        *,
        servers: int = 1,
        boot_mode: str = BootMode.BIOS,
        architecture: Architecture = Architecture.X86_64,
        boot_url: str,
        disk_mib: int = 4096,
        more_disks_mib: tuple[int, ...] = (),
        memory_mib: int | None = None,
        own_order: tuple[BootDevice, ...] = (BootDevice.DISK, BootDevice.PXE),
        knobs: dict[str, Any] | None = None,
        taps: tuple[str, ...] = (),
        network_rom: bool = True,
        http_boot: bool = False,
        secure_boot: bool = False,
        attached: bool = False,
    ) -> list[VirtualServer]:
        """Start the BMCs of a rack, with every server off, and return its servers. Idempotent.

        A rack that is there is kept with its disks, and its process started if it is not running; it is refused when
        it was made differently. `boot_mode` may also be "mixed". `attached` ends the rack with this process. `taps`
        put the servers, in their order, on a segment instead of QEMU's user network. `disk_mib` of 0 makes them
        diskless: they boot from the network or not at all.
        Raises LabError naming the missing package, the taken port, or what the rack's process said.
        """
        wanted = _modes(boot_mode, servers)
        if more_disks_mib and not disk_mib:
            raise LabError("a server without a first disk has no further ones")
        for mode in set(wanted):
            find_firmware(mode, architecture=architecture, secure_boot=secure_boot)
        there = self.servers
        made = [
            _how(server.boot_mode, server.architecture, server.boot_url, server.disk_mib) for server in there
        ]
        if made and made != [_how(mode, architecture, boot_url, disk_mib) for mode in wanted]:
            raise LabError(
                f"there is another rack in {self.directory}",
                seen=", ".join(
                    f"{server.name} {' '.join(how)}" for server, how in zip(there, made, strict=True)
                ),
                fix="take it down first (baremetal lab down), or use another folder",
            )
        if not there:
            extra = {
                "architecture": architecture,
                "disk_mib": disk_mib,
                "more_disks_mib": more_disks_mib,
                "memory_mib": memory_mib,
                "own_order": own_order,
                "knobs": knobs or {},
                "network_rom": network_rom,
                "http_boot": http_boot,
                "secure_boot": secure_boot,
            }
            self._write(self._design(wanted, boot_url, extra, taps or ("",) * servers))
        if not self.is_running:
            self._clear_away()
            self._start(attached)
        return self.servers

    def down(self, *, keep: bool = False) -> None:
        """Power off and end everything and, unless `keep`, remove the servers, disks and logs. Idempotent."""
        servers = self.servers
        pid = read_pid(self.directory / PID)
        if pid is not None:
            end(pid, _MODULE, str(self.directory), grace_s=_DOWN_S)
        self._clear_away()
        if keep:
            return
        for server in servers:
            shutil.rmtree(server.directory, ignore_errors=True)
        for name in (STATE, LOCK, LOG, "bmc-password"):
            (self.directory / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()  # somebody else's files stay

    def status(self) -> list[ServerStatus]:
        """Say how each server is; "unknown" while the rack is not running."""
        running = self._reported().get("servers", {}) if self.is_running else {}
        return [
            ServerStatus(server, **running[server.name])
            if server.name in running
            else ServerStatus(server, "unknown")
            for server in self.servers
        ]

    def _design(
        self, modes: list[BootMode], boot_url: str, extra: dict[str, Any], taps: tuple[str, ...]
    ) -> list[VirtualServer]:
        rack = secrets.token_hex(2)
        ports = _free_ports(len(modes))
        return [
            VirtualServer(
                name=f"r{number}",
                directory=self.directory / f"r{number}",
                mac=f"52:54:00:{rack[:2]}:{rack[2:]}:{number:02x}",
                uuid=uuid4(),
                serial=f"LAB{rack.upper()}-{number}",
                boot_mode=mode,
                boot_url=boot_url,
                bmc_port=bmc_port,
                ssh_port=ssh_port,
                tap=tap,
                **extra,
            )
            for number, (mode, (bmc_port, ssh_port), tap) in enumerate(
                zip(modes, ports, taps, strict=True), 1
            )
        ]

    def _write(self, servers: list[VirtualServer]) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            password = os.open(self.directory / "bmc-password", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(password, "w") as file:
                os.fchmod(password, 0o600)
                file.write(secrets.token_hex(8) + "\n")  # 16 bytes: what every IPMI client can send
            for server in servers:
                server.directory.mkdir(exist_ok=True)
            write_file(
                self.directory / STATE, json.dumps({"servers": [s.as_dict() for s in servers]}, indent=1)
            )
        except OSError as error:
            raise LabError(
                f"the rack's folder {self.directory} cannot be written", seen=str(error)
            ) from error

    def _start(self, attached: bool) -> None:
        command = [sys.executable, "-m", _MODULE, str(self.directory)] + ["--attached"] * attached
        with (self.directory / LOG).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _UP_S
        while time.monotonic() < deadline:
            said = self._reported()
            if said.get("pid") == process.pid and said.get("ready"):
                _let_go(process)
                return
            if process.poll() is not None:
                raise LabError(
                    str(said.get("error") or f"the rack's process ended with status {process.returncode}"),
                    code=said.get("code"),
                    seen=None if said.get("error") else _tail(self.directory / LOG),
                )
            time.sleep(0.02)
        process.kill()
        process.wait()
        raise LabError("the rack's process did not start in time", seen=_tail(self.directory / LOG))

    def _clear_away(self) -> None:
        """End machines that a killed rack process left behind, and remove what said they ran."""
        for server in self.servers:
            spec = server.machine()
            pid = read_pid(spec.pid_file)
            if pid is not None:
                end(pid, "-pidfile", str(spec.pid_file), grace_s=5.0)
            spec.pid_file.unlink(missing_ok=True)
        for name in (PID, STATUS):
            (self.directory / name).unlink(missing_ok=True)

    def _reported(self) -> dict[str, Any]:
        try:
            said = json.loads((self.directory / STATUS).read_text())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}


def _how(mode: BootMode, architecture: Architecture, boot_url: str, disk_mib: int) -> tuple[str, ...]:
    """What a server that is there must agree with."""
    return (mode, architecture, boot_url) if disk_mib else (mode, architecture, boot_url, "diskless")


def _modes(boot_mode: str, servers: int) -> list[BootMode]:
    if not 1 <= servers <= 64:
        raise LabError(f"a rack holds 1 to 64 servers, not {servers}")
    if boot_mode == MIXED:
        return [(BootMode.BIOS, BootMode.UEFI)[number % 2] for number in range(servers)]
    try:
        return [BootMode(boot_mode)] * servers
    except ValueError:
        raise LabError(f"no boot mode {boot_mode!r}", fix="use bios, uefi or mixed") from None


def _free_ports(count: int) -> list[tuple[int, int]]:
    """Find a free UDP port (BMC) and a free TCP port (SSH) on loopback for each server."""
    with contextlib.ExitStack() as stack:
        pairs = []
        for _ in range(count):
            bound = [
                stack.enter_context(socket.socket(socket.AF_INET, kind))
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
            ]
            for each in bound:
                each.bind(("127.0.0.1", 0))
            pairs.append((int(bound[0].getsockname()[1]), int(bound[1].getsockname()[1])))
        return pairs


def _tail(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else None
    return None


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Forget a child that is meant to outlive us: `down` finds it by its id, and waits for it where it is a child."""
    process.returncode = 0
