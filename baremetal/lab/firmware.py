"""What a virtual server is made of on this host: QEMU, its network boot ROMs and the UEFI firmware.

Owns the search for them and the words that say which package is missing. Starts nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError
from baremetal.lifecycle.model import BootMode

_ROMS = ("/usr/lib/ipxe/qemu", "/usr/share/ipxe/qemu", "/usr/share/ipxe", "/usr/share/qemu")
_BIOS_ROM, _UEFI_ROM = "pxe-virtio.rom", "efi-virtio.rom"
_OVMF = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
# Firmware that enforces Secure Boot, and variables in which the keys of shim's signer are enrolled.
_OVMF_SECURE = (("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),)


@dataclass(frozen=True, slots=True)
class Firmware:
    """The files one boot mode needs. `code` and `variables` are None for BIOS, which QEMU carries itself."""

    qemu: Path
    network_rom: Path
    code: Path | None = None
    variables: Path | None = None


def find_firmware(
    mode: BootMode, environment: Mapping[str, str] | None = None, *, secure_boot: bool = False
) -> Firmware:
    """Find QEMU and the firmware for a boot mode. Raises LabError that names the Debian package to install."""
    if secure_boot and mode is not BootMode.UEFI:
        raise LabError(f"Secure Boot is a part of UEFI, not of {mode}")
    environment = os.environ if environment is None else environment
    qemu = shutil.which("qemu-system-x86_64", path=environment.get("PATH"))
    if qemu is None:
        raise _missing("QEMU (qemu-system-x86_64)", "qemu-system-x86")
    name = _UEFI_ROM if mode is BootMode.UEFI else _BIOS_ROM
    rom = next((path for folder in _ROMS if (path := Path(folder, name)).is_file()), None)
    if rom is None:
        raise _missing(f"the network boot ROM {name}", "ipxe-qemu")
    if mode is BootMode.BIOS:
        return Firmware(Path(qemu), rom)
    for code, variables in _OVMF_SECURE if secure_boot else _OVMF:
        if Path(code).is_file() and Path(variables).is_file():
            return Firmware(Path(qemu), rom, Path(code), Path(variables))
    raise _missing(f"the UEFI firmware OVMF{' with Secure Boot' if secure_boot else ''}", "ovmf")


def _missing(what: str, package: str) -> LabError:
    return LabError(
        f"{what} is not installed",
        fix=f"install the package {package} (apt-get install {package})",
    )
