"""The bytes of an image file: what kind of file it is, whether it is whole, and a view for those who read its names.

Owns the few fields of ECMA-119 that tell a whole image from a truncated one, and what is hidden from the library that
reads directories: boot sector, partition tables and El Torito records. We boot nothing from them, and a reader that
insists on understanding them has refused images of well-known distributions. Deliberately unknown: directories, names.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Final

from baremetal.media.tree import CHUNK, refuse

SECTOR: Final = 2048
_DESCRIPTORS: Final = 16  # the first sector of them; before it is the system area
_MOST_DESCRIPTORS: Final = 64
_BOOT, _PRIMARY, _SUPPLEMENTARY, _END = 0, 1, 2, 255
_UDF: Final = (b"NSR02", b"NSR03")  # ECMA-167 3/9.1: between them and the end of our list stands BEA01
_EXTENDED: Final = (*_UDF, b"BEA01", b"TEA01", b"BOOT2", b"CDW02")
_ENDLESS: Final = 1 << 45
# What the names of an image may need in all: a third of a million files have 64 MiB. More is a trap.
_MOST_METADATA: Final = 192 << 20

# What people take for an image, by its first bytes.
_OTHERS: Final = (
    (b"\x1f\x8b", "it is gzip data: unpack it first"),
    (b"BZh", "it is bzip2 data: unpack it first"),
    (b"\xfd7zXZ\0", "it is xz data: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is zstd data: unpack it first"),
    (b"PK\x03\x04", "it is a zip archive: unpack it first and add the folder or the image in it"),
    (b"QFI\xfb", "it is a qcow2 disk image, not an installation medium"),
    (b"MSWIM", "it is a Windows image by itself: add the whole installation medium"),
    (b"<!DOC", "it is a web page: the download went wrong"),
    (b"<html", "it is a web page: the download went wrong"),
)


class Image:
    """An image file, opened for reading. `volume_size` is what its own descriptor says; `udf`: it has UDF names too."""

    def __init__(self, path: Path) -> None:
        """Open and look at the descriptors. Raises Invalid BM205 for what is no image, and for half of one."""
        try:
            self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise refuse(f"cannot read {path}: {error.strerror}") from error
        try:
            found = os.fstat(self.file)
            if not stat.S_ISREG(found.st_mode):
                raise refuse(f"{path} is neither an image file nor a folder")
            self.size = found.st_size
            self.descriptors = self._descriptors(path)
            self.extended = self._extended()
            self.udf = any(name in _UDF for name in self.extended)
            self.volume_size = self._volume_size()
            if self.volume_size > self.size:
                raise refuse(
                    f"{path.name} is truncated",
                    seen=f"{self.size} bytes of {self.volume_size}",
                    fix="download or copy it again, and compare its SHA-256 (--sha256)",
                )
            if self.descriptors[-1][0] != _END:
                raise refuse(f"{path.name} is damaged: its list of volume descriptors does not end")
        except BaseException:
            os.close(self.file)
            raise

    def _descriptors(self, path: Path) -> list[bytes]:
        """Read the volume descriptors up to the end of their set (ECMA-119 8.1)."""
        found: list[bytes] = []
        for sector in range(_DESCRIPTORS, _DESCRIPTORS + _MOST_DESCRIPTORS):
            data = os.pread(self.file, SECTOR, sector * SECTOR)
            if len(data) < SECTOR or data[1:6] != b"CD001":
                break
            found.append(data)
            if data[0] == _END:
                break
        if not any(data[0] == _PRIMARY for data in found):
            raise self._no_image(path)
        return found

    def _extended(self) -> list[bytes]:
        """Read the names of the descriptors that follow: those of UDF."""
        found: list[bytes] = []
        first = _DESCRIPTORS + len(self.descriptors)
        for sector in range(first, first + _MOST_DESCRIPTORS):
            name = os.pread(self.file, 5, sector * SECTOR + 1)
            if name not in _EXTENDED:
                break
            found.append(name)
        return found

    def _no_image(self, path: Path) -> Exception:
        first = os.pread(self.file, 64, 0)
        for magic, words in _OTHERS:
            if first.lstrip()[: len(magic)].lower() == magic.lower():
                return refuse(f"{path.name} is no ISO image", seen=words)
        if not self.size:
            words = "it is empty"
        elif self.size < (_DESCRIPTORS + 1) * SECTOR:
            words = f"it has only {self.size} bytes"
        else:
            words = "there is no ISO 9660 volume descriptor in it"
        return refuse(f"{path.name} is no ISO image", seen=words, fix="give an ISO image, or a folder")

    def _volume_size(self) -> int:
        """Return blocks times block size of the primary descriptor (ECMA-119 8.4.8, 8.4.12)."""
        primary = next(data for data in self.descriptors if data[0] == _PRIMARY)
        return int.from_bytes(primary[80:84], "little") * int.from_bytes(primary[128:130], "little")

    def read(self, offset: int, length: int) -> bytes:
        """Read up to CHUNK bytes; fewer only at the end of the file."""
        return os.pread(self.file, min(length, CHUNK), offset)

    def close(self) -> None:
        os.close(self.file)


class NamesOnly(io.RawIOBase):
    """An image as a file that shows names and data, and neither boot sectors nor boot records.

    Its boot records are left out of the list of descriptors, whose end is repeated to keep the length. Without `udf`
    that part is hidden too, and the file claims to be endless, because the library quietly shortens files that lie
    beyond its end. What is read is bounded, and so is what a hostile image can make a reader build.
    """

    def __init__(self, image: Image, *, udf: bool) -> None:
        self._image = image
        self._size = image.size if udf else _ENDLESS
        self._at = 0
        self._left = _MOST_METADATA
        kept = [data for data in image.descriptors if data[0] in (_PRIMARY, _SUPPLEMENTARY)]
        kept += [image.descriptors[-1]] * (len(image.descriptors) - len(kept))
        self._front = bytes(_DESCRIPTORS * SECTOR) + b"".join(kept)
        if not udf:
            self._front += bytes(SECTOR * len(image.extended))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a place before the beginning")
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read as `io.RawIOBase.read` does; raises ValueError once more was asked for than names can need."""
        length = max(0, self._image.size - self._at)
        if size >= 0:
            length = min(length, size)
        if length > self._left:
            raise ValueError("more directories than an image can need")
        self._left -= length
        data = self._front[self._at : self._at + length]
        while len(data) < length:
            more = self._image.read(self._at + len(data), length - len(data))
            if not more:
                break
            data += more
        self._at += len(data)
        return data
