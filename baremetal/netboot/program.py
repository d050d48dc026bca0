"""What a loader's program is, by its own bytes: for which firmware it was built, whether it is signed, or iPXE.

Owns reading the heads of EFI programs (PE/COFF; Microsoft's "PE Format"). Whether a signature is a good one is the
firmware's to say. Deliberately unknown: where programs are, and who is given which.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

BIOS: Final = "bios"
_MACHINES: Final = {0x8664: "x86_64", 0xAA64: "arm64", 0x014C: "i386"}
_PE32_PLUS: Final = 0x20B
_CERTIFICATES: Final = 4  # the data directory's entry for signatures
_MOST: Final = 8 * 1024 * 1024  # the largest loader there is has 2 MiB


@dataclass(frozen=True, slots=True)
class Program:
    """`firmware` is `bios`, or for EFI programs the architecture; "" for an EFI program that cannot be read further.

    `is_ipxe` is None where it is packed, as iPXE for BIOS is, and does not tell.
    """

    firmware: str
    signed: bool = False
    is_ipxe: bool | None = False


def look_at(file: Path) -> Program | None:
    """Read a loader's program; None where it cannot be read. What was read is remembered until the file changes."""
    try:
        found = file.stat()
        return _read(file, found.st_mtime_ns, found.st_size)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _read(file: Path, _at: int, _size: int) -> Program:
    with file.open("rb") as opened:
        return read_program(opened.read(_MOST))


def read_program(data: bytes) -> Program:
    """Say what a program is by its bytes; whatever is no EFI program is taken for one that BIOS starts."""
    is_ipxe = b"iPXE" in data
    if data[:2] != b"MZ":
        return Program(BIOS, is_ipxe=is_ipxe or (False if b"PXELINUX" in data else None))
    try:
        (at,) = struct.unpack_from("<I", data, 0x3C)
        if data[at : at + 4] != b"PE\0\0":
            return Program("", is_ipxe=is_ipxe)
        (machine,) = struct.unpack_from("<H", data, at + 4)
        (magic,) = struct.unpack_from("<H", data, at + 24)
        directories = at + 24 + (112 if magic == _PE32_PLUS else 96)
        (count,) = struct.unpack_from("<I", data, directories - 4)
        length = 0
        if count > _CERTIFICATES:
            _, length = struct.unpack_from("<II", data, directories + 8 * _CERTIFICATES)
    except struct.error:
        return Program("", is_ipxe=is_ipxe)
    return Program(_MACHINES.get(machine, ""), length > 0, is_ipxe)
