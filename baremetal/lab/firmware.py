"""What a virtual server is made of on this host: QEMU, its network boot ROMs and the UEFI firmware.

Owns the search for them and the words that say which package is missing. Starts nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from baremetal.errors import LabError
from baremetal.lifecycle.model import BootMode
from baremetal.ramsystem.architecture import Architecture

_ROMS = ("/usr/lib/ipxe/qemu", "/usr/share/ipxe/qemu", "/usr/share/ipxe", "/usr/share/qemu")
_BIOS_ROM, _UEFI_ROM = "pxe-virtio.rom", "efi-virtio.rom"
_OVMF = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
_AAVMF = (
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
)
# Firmware that enforces Secure Boot, and variables in which the keys of shim's signer are enrolled.
_OVMF_SECURE = (("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),)


@dataclass(frozen=True, slots=True)
class Firmware:
    """The files one boot mode needs. `code` and `variables` are None for BIOS, which QEMU carries itself.

    `network_rom` is None where none is made for the architecture: its UEFI firmware netboots by itself.
    """

    qemu: Path
    network_rom: Path | None
    code: Path | None = None
    variables: Path | None = None


def find_firmware(
    mode: BootMode,
    environment: Mapping[str, str] | None = None,
    *,
    architecture: Architecture = Architecture.X86_64,
    secure_boot: bool = False,
) -> Firmware:
    """Find QEMU and the firmware for a boot mode. Raises LabError that names the Debian package to install."""
    if secure_boot and mode is not BootMode.UEFI:
        raise LabError(f"Secure Boot is a part of UEFI, not of {mode}")
    if architecture is Architecture.ARM64:
        return _find_arm64(mode, environment, secure_boot)
    qemu = _find_qemu(architecture, "qemu-system-x86", environment)
    name = _UEFI_ROM if mode is BootMode.UEFI else _BIOS_ROM
    rom = next((path for folder in _ROMS if (path := Path(folder, name)).is_file()), None)
    if rom is None:
        raise _missing(f"the network boot ROM {name}", "ipxe-qemu")
    if mode is BootMode.BIOS:
        return Firmware(qemu, rom)
    pair = _first_pair(_OVMF_SECURE if secure_boot else _OVMF)
    if pair is None:
        raise _missing(f"the UEFI firmware OVMF{' with Secure Boot' if secure_boot else ''}", "ovmf")
    return Firmware(qemu, rom, *pair)


def _find_arm64(mode: BootMode, environment: Mapping[str, str] | None, secure_boot: bool) -> Firmware:
    if mode is not BootMode.UEFI or secure_boot:
        raise LabError("a virtual server of arm64 boots by UEFI, without Secure Boot")
    qemu = _find_qemu(Architecture.ARM64, "qemu-system-arm", environment)
    pair = _first_pair(_AAVMF)
    if pair is None:
        raise _missing("the UEFI firmware AAVMF", "qemu-efi-aarch64")
    return Firmware(qemu, None, *pair)


def _find_qemu(architecture: Architecture, package: str, environment: Mapping[str, str] | None) -> Path:
    name = f"qemu-system-{architecture.gnu}"
    qemu = shutil.which(name, path=(os.environ if environment is None else environment).get("PATH"))
    if qemu is None:
        raise _missing(f"QEMU ({name})", package)
    return Path(qemu)


def _first_pair(pairs: Iterable[tuple[str, str]]) -> tuple[Path, Path] | None:
    """Return the first code and variables that are both there."""
    there = ((Path(code), Path(variables)) for code, variables in pairs)
    return next((pair for pair in there if all(path.is_file() for path in pair)), None)


def _missing(what: str, package: str) -> LabError:
    return LabError(
        f"{what} is not installed",
        fix=f"install the package {package} (apt-get install {package})",
    )
