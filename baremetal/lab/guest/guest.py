"""A running guest: a QEMU machine with a built image as its first disk, reached by SSH with a pinned host key.

Owns the copy of the disk, the forwarded ports and the waiting. The kernel and the initramfs are given to QEMU, so that
an image without a boot partition will do.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from baremetal.errors import LabError, StorageError, StorageErrorKind
from baremetal.lab.firmware import find_firmware
from baremetal.lab.guest.build import GuestImage
from baremetal.lab.guest.recipe import GuestRecipe
from baremetal.lab.machine import MachineSpec, QemuMachine, VirtualDisk
from baremetal.lifecycle.model import BootMode
from baremetal.sim.chassis import OWN_ORDER
from baremetal.storage.remote import SshShell

BOOT_S = 400.0
ADDRESS = "10.0.2.15"  # what QEMU's user network gives its first guest


class Guest:
    """The guest while it runs: `with Guest(...) as guest: guest.shell.run([...])`.

    `folder` takes its disk, `more_disks` further ones; `ports` are ports of the guest, each reached on loopback at
    `guest.port(NUMBER)`.
    """

    def __init__(
        self,
        recipe: GuestRecipe,
        image: GuestImage,
        folder: Path,
        *,
        more_disks: Sequence[VirtualDisk] = (),
        ports: Sequence[int] = (),
        memory_mib: int = 768,
    ) -> None:
        self._ports = {port: _free_port() for port in (22, *ports)}
        folder.mkdir(parents=True, exist_ok=True)
        disk = folder / "root.img"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(image.disk), str(disk)], check=True)
        size_mib = disk.stat().st_size >> 20
        kernel = ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", recipe.kernel_args]
        spec = MachineSpec(
            name=recipe.name,
            directory=folder,
            mac="52:54:00:9e:57:01",
            uuid=uuid4(),
            serial="GUEST01",
            disks=(VirtualDisk(disk, size_mib, "GUEST-ROOT"), *more_disks),
            boot_url="",
            own_order=(),  # QEMU gives its own loader of the kernel the first place
            memory_mib=memory_mib,
            ssh_port=self._ports[22],
            forwards=tuple((outer, inner) for inner, outer in self._ports.items() if inner != 22),
            more_arguments=tuple(kernel),
            network_rom=False,
        )
        self.machine = QemuMachine(spec, find_firmware(BootMode.BIOS))
        self.shell = SshShell("127.0.0.1", self._ports[22], "root", image.key, image.host_key)

    def __enter__(self) -> Self:
        try:
            self.power_on()
        except BaseException:
            self.machine.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.machine.close()

    def port(self, number: int) -> int:
        """Return the loopback port that leads to this port of the guest."""
        return self._ports[number]

    def power_on(self, within_s: float = BOOT_S) -> float:
        """Start it and wait until it can be logged in to; return how long that took. Raises LabError."""
        began = time.monotonic()
        self.machine.power_on(OWN_ORDER)
        while time.monotonic() - began < within_s:
            try:
                if self.shell.run(["true"], deadline_s=20).status == 0:
                    return time.monotonic() - began
            except StorageError as error:
                if error.kind is not StorageErrorKind.UNREACHABLE:
                    raise
            if not self.machine.is_on:
                break
            time.sleep(1.0)
        log = self.machine.spec.serial_log
        tail = log.read_text(errors="replace")[-300:] if log.exists() else ""
        raise LabError(
            "the guest was not up in time",
            server=self.machine.spec.name,
            seen=self.machine.last_error or tail,
        )

    def power_off(self) -> None:
        """Take the power away, as a failing host would."""
        self.machine.power_off()
        deadline = time.monotonic() + 20
        while self.machine.pid is not None and time.monotonic() < deadline:
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
