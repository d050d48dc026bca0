"""A machine that boots Debian's own loaders over QEMU's TFTP server, from a folder of the names that we would answer.

Owns the guest's command line and the folder. The texts in it come from the functions that answer machines.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from baremetal.lab.firmware import Firmware, find_firmware
from baremetal.lifecycle.model import BootMode
from tests.lab.guests import text_of

_ASKED = re.compile(rb"\x00\x01/?([A-Za-z0-9_./:-]{4,120})\x00octet\x00")
SYSTEM_UUID: Final = "0b5e7c2e-5a39-4a55-9d0c-3d8f6f1f0a22"
SYSLINUX: Final = Path("/usr/lib/syslinux/modules/bios")


@dataclass(frozen=True, slots=True)
class Guest:
    """A running machine. `disk` is its only one, and boots after the network."""

    folder: Path
    mac: str

    @property
    def said(self) -> bytes:
        return text_of(self.folder / "serial.log")

    @property
    def asked(self) -> list[str]:
        """Every name that was asked for over TFTP, in order, repetitions in a row once."""
        names = [name.decode() for name in _ASKED.findall(text_of(self.folder / "net.pcap"))]
        return [name for at, name in enumerate(names) if at == 0 or name != names[at - 1]]


@contextmanager
def boot(
    folder: Path,
    tree: Path,
    first: str,
    mac: str,
    disk: Path,
    mode: BootMode,
    *,
    system_uuid: str = SYSTEM_UUID,
) -> Iterator[Guest]:
    """Boot the file `first` of `tree` by DHCP and TFTP; the guest ends with the context."""
    firmware = find_firmware(mode)
    process = subprocess.Popen(
        [*_command(folder, tree, first, mac, disk, firmware), "-uuid", system_uuid], stdin=subprocess.DEVNULL
    )
    try:
        yield Guest(folder, mac)
    finally:
        process.kill()
        process.wait(10)


def _command(folder: Path, tree: Path, first: str, mac: str, disk: Path, firmware: Firmware) -> list[str]:
    command = ["nice", str(firmware.qemu), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += [
        "-accel",
        "tcg",
        "-m",
        "512",
        "-boot",
        "strict=on",
        "-serial",
        f"file:{folder / 'serial.log'}",
    ]
    card = f"virtio-net-pci,netdev=net0,mac={mac},bootindex=0"
    if firmware.code is None:
        command += ["-machine", "pc,usb=off,graphics=off"]
        card += f",disable-legacy=on,romfile={firmware.network_rom}"
    else:
        assert firmware.variables is not None
        variables = folder / "variables.fd"
        shutil.copy(firmware.variables, variables)
        command += ["-machine", "q35,usb=off"]
        command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware.code}"]
        command += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
        card += ",romfile="  # what boots is the firmware's own client
    command += ["-netdev", f"user,id=net0,tftp={tree},bootfile={first}", "-device", card]
    command += ["-object", f"filter-dump,id=dump0,netdev=net0,file={folder / 'net.pcap'}"]
    command += ["-drive", f"if=none,id=disk0,format=raw,cache=unsafe,file={disk}"]
    command += ["-device", "virtio-blk-pci,drive=disk0,bootindex=1"]
    return [
        *command,
        "-object",
        "rng-random,id=rng0,filename=/dev/urandom",
        "-device",
        "virtio-rng-pci,rng=rng0",
    ]
