"""Reading a clone's seed as its first boot does: the files of a small FAT12 filesystem (cloud-init's NoCloud).

Knows FAT and nothing of who wrote it, so that what a storage host serves is read and not believed. Source: Microsoft's
FAT specification, version 1.03.
"""

from __future__ import annotations

import struct

_LONG, _LABEL = 0x0F, 0x08
_LAST = 0xFF8


def read_seed(image: bytes) -> dict[str, bytes]:
    """Return the files of the root directory by their names. Raises ValueError for anything but FAT12."""
    if image[510:512] != b"\x55\xaa" or image[54:62] != b"FAT12   ":
        raise ValueError("no FAT12 filesystem")
    sector, per_cluster, reserved, fats, entries, _, _, fat_sectors = struct.unpack_from(
        "<HBHBHHBH", image, 11
    )
    root = (reserved + fats * fat_sectors) * sector
    data, cluster_size = root + entries * 32, sector * per_cluster
    files: dict[str, bytes] = {}
    long_name = ""
    for at in range(root, data, 32):
        entry = image[at : at + 32]
        if entry[0] == 0:
            break
        if entry[0] == 0xE5:
            continue
        if entry[11] == _LONG:
            part = (entry[1:11] + entry[14:26] + entry[28:32]).decode("utf-16-le")
            long_name = part.partition("\0")[0] + long_name
        elif not entry[11] & _LABEL:
            first, size = struct.unpack_from("<HI", entry, 26)
            content = b""
            for cluster in _chain(image, reserved * sector, first):
                begin = data + (cluster - 2) * cluster_size
                content += image[begin : begin + cluster_size]
            files[long_name or _short_name(entry)] = content[:size]
            long_name = ""
    return files


def _chain(image: bytes, fat: int, cluster: int) -> list[int]:
    """Follow a file's clusters; two entries of twelve bits share three bytes."""
    found: list[int] = []
    while 2 <= cluster < _LAST:
        if cluster in found:
            raise ValueError("a file's clusters go round in a circle")
        found.append(cluster)
        (pair,) = struct.unpack_from("<H", image, fat + cluster + cluster // 2)
        cluster = pair >> 4 if cluster & 1 else pair & 0xFFF
    return found


def _short_name(entry: bytes) -> str:
    stem, ending = (part.decode("ascii").rstrip() for part in (entry[:8], entry[8:11]))
    return f"{stem}.{ending}" if ending else stem
