"""The initramfs archive ("newc", kernel Documentation/driver-api/early-userspace/buffer-format.rst).

Owns the format only; what goes in is a folder somebody else laid out. Everything in the archive belongs to root,
whoever packs it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def pack_folder(folder: Path) -> bytes:
    """Pack `folder` as an uncompressed newc archive, owned by root, times zero, so equal folders give equal bytes."""
    parts = [
        _member(number, path.relative_to(folder).as_posix(), path)
        for number, path in enumerate(_walk(folder), start=1)
    ]
    parts.append(_record(0, "TRAILER!!!", 0, b""))
    return b"".join(parts)


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _member(number: int, name: str, path: Path) -> bytes:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return _record(number, name, mode, os.fsencode(os.readlink(path)))
    if stat.S_ISDIR(mode):
        return _record(number, name, mode, b"")
    return _record(number, name, mode, path.read_bytes())


def _record(number: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = os.fsencode(name) + b"\0"
    fields = (number, mode, 0, 0, 2 if stat.S_ISDIR(mode) else 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
