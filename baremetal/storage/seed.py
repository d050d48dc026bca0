"""Seeds: the small second image of a clone, from which its first boot learns who it is (cloud-init's NoCloud).

Owns the image's form: a FAT filesystem labelled CIDATA with a few small files, the same bytes for the same files.
Written here because it is eighty lines, needs no program on the storage host or beside the service, and is checked in
the tests by two that know FAT better. Source: Microsoft's FAT specification, version 1.03.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import datetime

from baremetal.errors import Invalid

LABEL = b"CIDATA     "
_SECTOR = 512
_SECTORS = 2880  # of a 1.44 MB floppy: every FAT driver knows this form
_FATS, _FAT_SECTORS, _ROOT_ENTRIES = 2, 9, 224
_ROOT_SECTORS = _ROOT_ENTRIES * 32 // _SECTOR
_DATA_AT = 1 + _FATS * _FAT_SECTORS + _ROOT_SECTORS
_CLUSTERS = _SECTORS - _DATA_AT
_END = 0xFFF


def make_seed(files: Mapping[str, bytes], at: datetime) -> bytes:
    """Return the image of a FAT12 filesystem with these files in its root. `at`: their time.

    Raises Invalid where they do not fit, which is at 1.4 MB.
    """
    fat = [0xFF0, _END]
    directory = bytearray(_entry(LABEL, 0x08, at))
    data = bytearray()
    for number, (name, content) in enumerate(files.items(), 1):
        short = f"FILE{number:04d}".encode() + b"   "
        clusters = -(-len(content) // _SECTOR)
        first = len(fat) if clusters else 0
        fat += [*range(first + 1, first + clusters), _END] if clusters else []
        directory += _long_name(name, short) + _entry(short, 0x20, at, first, len(content))
        data += content.ljust(clusters * _SECTOR, b"\0")
    if len(fat) - 2 > _CLUSTERS or len(directory) > _ROOT_ENTRIES * 32:
        raise Invalid(f"the seed is larger than {_CLUSTERS * _SECTOR} bytes", code="BM204")
    table = _pack(fat).ljust(_FAT_SECTORS * _SECTOR, b"\0")
    image = _boot_sector() + table * _FATS + bytes(directory).ljust(_ROOT_SECTORS * _SECTOR, b"\0") + data
    return bytes(image).ljust(_SECTORS * _SECTOR, b"\0")


def _boot_sector() -> bytes:
    head = struct.pack(
        "<3s8sHBHBHHBHHHII", b"\xeb\x3c\x90", b"MSDOS5.0", _SECTOR, 1, 1, _FATS, _ROOT_ENTRIES, _SECTORS,
        0xF0, _FAT_SECTORS, 18, 2, 0, 0,
    )  # fmt: skip
    more = struct.pack("<BBBI11s8s", 0, 0, 0x29, 0x62617265, LABEL, b"FAT12   ")
    return (head + more).ljust(510, b"\0") + b"\x55\xaa"


def _pack(entries: list[int]) -> bytes:
    """Two entries of twelve bits make three bytes."""
    packed = bytearray()
    for at in range(0, len(entries), 2):
        low, high = entries[at], entries[at + 1] if at + 1 < len(entries) else 0
        packed += bytes((low & 0xFF, low >> 8 | (high & 0xF) << 4, high >> 4))
    return bytes(packed)


def _entry(short: bytes, attributes: int, at: datetime, first: int = 0, size: int = 0) -> bytes:
    day = (max(at.year, 1980) - 1980) << 9 | at.month << 5 | at.day
    time = at.hour << 11 | at.minute << 5 | at.second // 2
    return struct.pack("<11sBBBHHHHHHHI", short, attributes, 0, 0, time, day, day, 0, time, day, first, size)


def _long_name(name: str, short: bytes) -> bytes:
    """Return the entries before a short one that carry its long name, the last part first."""
    checksum = 0
    for byte in short:
        checksum = ((checksum & 1) << 7 | checksum >> 1) + byte & 0xFF
    text = name.encode("utf-16-le")
    parts = [text[at : at + 26] for at in range(0, len(text), 26)]
    entries = b""
    for number in range(len(parts), 0, -1):
        part = parts[number - 1]
        if len(part) < 26:
            part = (part + b"\0\0").ljust(26, b"\xff")
        order = number | (0x40 if number == len(parts) else 0)
        entries += struct.pack(
            "<B10sBBB12sH4s", order, part[:10], 0x0F, 0, checksum, part[10:22], 0, part[22:]
        )
    return entries
