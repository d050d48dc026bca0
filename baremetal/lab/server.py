"""One virtual server as the rack remembers it: a value, its form in the state file, and the machine it describes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from baremetal.errors import LabError
from baremetal.lab.machine import MachineSpec, VirtualDisk
from baremetal.lifecycle.model import BootDevice, BootMode
from baremetal.ramsystem.architecture import Architecture

BMC_USER = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServer:
    """A virtual server: who it is, how its BMC and its SSH are reached from this host, and where its files are.

    `knobs` are fault knobs of its BMC (`sim.knobs`) that differ from a healthy one's. `disk_mib` of 0: it has no disk.
    """

    name: str
    directory: Path
    mac: str
    uuid: UUID
    serial: str
    boot_mode: BootMode
    boot_url: str
    bmc_port: int
    ssh_port: int
    disk_mib: int
    architecture: Architecture = Architecture.X86_64
    memory_mib: int | None = None
    own_order: tuple[BootDevice, ...] = (BootDevice.DISK, BootDevice.PXE)
    knobs: dict[str, Any] = field(default_factory=dict)
    more_disks_mib: tuple[int, ...] = ()
    tap: str = ""
    network_rom: bool = True
    http_boot: bool = False
    secure_boot: bool = False

    @property
    def bmc_url(self) -> str:
        """The address to enrol, without the password."""
        return f"ipmi://{BMC_USER}@127.0.0.1:{self.bmc_port}"

    @property
    def password_file(self) -> Path:
        """Holds the password of the rack's BMCs; readable by its owner only."""
        return self.directory.parent / "bmc-password"

    @property
    def ssh_address(self) -> str:
        """Where the guest's port 22 is reached: the guest itself sits behind QEMU's address translation."""
        return f"127.0.0.1:{self.ssh_port}"

    @property
    def serial_log(self) -> Path:
        return self.machine().serial_log

    @property
    def disk(self) -> VirtualDisk:
        """Its first disk. Raises LabError when it has none."""
        if not self.disks:
            raise LabError("the server has no disk", server=self.name)
        return self.disks[0]

    @property
    def disks(self) -> tuple[VirtualDisk, ...]:
        sizes = (self.disk_mib, *self.more_disks_mib) if self.disk_mib else ()
        return tuple(
            VirtualDisk(self.directory / f"disk{number}.img", size, f"{self.serial}-{number}")
            for number, size in enumerate(sizes)
        )

    def machine(self) -> MachineSpec:
        """Describe the machine to QEMU."""
        return MachineSpec(
            name=self.name,
            directory=self.directory,
            mac=self.mac,
            uuid=self.uuid,
            serial=self.serial,
            disks=self.disks,
            boot_url=self.boot_url,
            boot_mode=self.boot_mode,
            architecture=self.architecture,
            own_order=self.own_order,
            memory_mib=self.memory_mib,
            ssh_port=self.ssh_port,
            tap=self.tap,
            network_rom=self.network_rom,
            http_boot=self.http_boot,
            secure_boot=self.secure_boot,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the form of the state file; `directory` is where the file is, so it is left out."""
        return {
            "name": self.name,
            "mac": self.mac,
            "uuid": str(self.uuid),
            "serial": self.serial,
            "boot_mode": str(self.boot_mode),
            "architecture": str(self.architecture),
            "boot_url": self.boot_url,
            "bmc_port": self.bmc_port,
            "ssh_port": self.ssh_port,
            "disk_mib": self.disk_mib,
            "memory_mib": self.memory_mib,
            "own_order": [str(device) for device in self.own_order],
            "knobs": self.knobs,
            "more_disks_mib": self.more_disks_mib,
            "tap": self.tap,
            "network_rom": self.network_rom,
            "http_boot": self.http_boot,
            "secure_boot": self.secure_boot,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], rack: Path) -> VirtualServer:
        """Read the form of the state file back. Raises LabError when it is not one of ours."""
        try:
            return cls(
                **values
                | {
                    "directory": rack / values["name"],
                    "uuid": UUID(values["uuid"]),
                    "boot_mode": BootMode(values["boot_mode"]),
                    "architecture": Architecture(values.get("architecture", Architecture.X86_64)),
                    "own_order": tuple(BootDevice(device) for device in values["own_order"]),
                    "more_disks_mib": tuple(values.get("more_disks_mib", ())),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LabError(f"the rack's state in {rack} cannot be read", seen=repr(error)) from error
