"""An ISO image as a medium: Rock Ridge, UDF, Joliet or plain names, in this order; bytes straight from the file.

Owns the walk over what pycdlib has read (docs/decisions/0019) and the check that every file lies inside the image.
Deliberately unknown: what the files mean, and where they go.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, cast

from pycdlib import PyCdlib

from baremetal.errors import Invalid
from baremetal.media.image import Image, NamesOnly
from baremetal.media.tree import Kind, Member, Source, check_name, refuse, shown

_VERSION = re.compile(r";\d{1,5}\Z")
_MOST_MEMBERS = 1_000_000


class Iso:
    """An image with its members listed."""

    def __init__(self, path: Path) -> None:
        """Open and list. Raises Invalid BM205 for what is no image, truncated, damaged or hostile."""
        self._path = path
        self._image = Image(path)
        try:
            self._members = _list(self._image, path.name)
        except BaseException:
            self._image.close()
            raise

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def room(self) -> int:
        return self._image.size

    @property
    def members(self) -> Sequence[Member]:
        return self._members

    def chunks(self, member: Member) -> Iterator[bytes]:
        for offset, length in member.extents:
            end = offset + length
            while offset < end:
                try:
                    data = self._image.read(offset, end - offset)
                except OSError as error:
                    raise refuse(f"cannot read {shown(member.path)}: {error.strerror}") from error
                if not data:
                    raise refuse(f"{self.name} became shorter while it was read")
                offset += len(data)
                yield data

    def close(self) -> None:
        self._image.close()


def open_source(path: Path) -> Source:
    """Open an image or a folder. Raises Invalid BM205."""
    from baremetal.media.folder import Folder

    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise refuse(f"there is no {path}")
    return Iso(path)


def _list(image: Image, name: str) -> list[Member]:
    try:
        with closing(_open(image, udf=False)) as iso:
            if iso.has_rock_ridge() or not image.udf:
                return list(_Names(iso, image.size).walk())
        with closing(_open(image, udf=True)) as iso:
            return list(_Names(iso, image.size).walk())
    except Invalid:
        raise
    # The library reads what strangers wrote: whatever it stumbles over is the image's fault, and the way on the same.
    except Exception as error:
        raise refuse(
            f"{name} cannot be read: its directories are damaged, or of a kind that is not known here",
            seen=shown(str(error) or type(error).__name__),
            fix="compare its SHA-256 with the publisher's; or unpack it (7z x, bsdtar -xf) and add the folder",
        ) from error


def _open(image: Image, *, udf: bool) -> PyCdlib:
    iso = PyCdlib()
    iso.open_fp(cast(BinaryIO, NamesOnly(image, udf=udf)))
    return iso


class _Names:
    """One of the name spaces of an image; all lead to the same bytes."""

    def __init__(self, iso: PyCdlib, size: int) -> None:
        self._iso = iso
        self._size = size
        if iso.has_rock_ridge():
            self._space = "rr_path"
        elif iso.has_udf():
            self._space = "udf_path"
        elif iso.has_joliet():
            self._space = "joliet_path"
        else:
            self._space = "iso_path"

    def walk(self) -> Iterator[Member]:
        # Pairs of the library's path and ours: plain names are shown in small letters, as Linux shows them.
        waiting = [("", "")]
        count = 0
        while waiting:
            theirs, ours = waiting.pop()
            for record in self._iso.list_children(**{self._space: theirs or "/"}):
                if record is None or record.is_dot() or record.is_dotdot():
                    continue
                key, name = self._name(record)
                check_name(name, ours)
                path = f"{ours}/{name}" if ours else name
                member = self._member(record, f"{theirs}/{key}", path)
                if member.kind is Kind.FOLDER:
                    waiting.append((f"{theirs}/{key}", path))
                count += 1
                if count > _MOST_MEMBERS:
                    raise refuse("it has more than a million members")
                yield member

    def _name(self, record: Any) -> tuple[str, str]:
        """Return the name by which the library finds a record, and the one that we give it."""
        if self._space == "rr_path" and record.rock_ridge is not None:
            name = record.rock_ridge.name().decode("utf-8")
            return name, name
        if self._space == "udf_path":
            name = record.file_ident.fi.decode(record.file_ident.encoding)
            return name, name
        if self._space == "joliet_path":
            key = record.file_identifier().decode("utf-16_be")
            return key, _VERSION.sub("", key)
        key = record.file_identifier().decode("utf-8")
        return key, _VERSION.sub("", key).removesuffix(".").lower()

    def _member(self, record: Any, key: str, path: str) -> Member:
        if record.is_dir():
            return Member(path, Kind.FOLDER)
        if self._space == "rr_path" and record.rock_ridge is not None:
            rock_ridge = record.rock_ridge
            if rock_ridge.is_symlink():
                return Member(path, Kind.LINK, target=rock_ridge.symlink_path().decode("utf-8"))
            mode = stat.S_IFMT(rock_ridge.get_file_mode())
            if mode not in (0, stat.S_IFREG):
                raise _no_file(path)
        elif self._space == "udf_path" and not record.is_file():
            raise _no_file(path)
        extents = tuple(self._extents(record, key))
        for at, length in extents:
            if at < 0 or at + length > self._size:
                raise refuse(
                    "it is truncated or damaged: a file lies beyond its end",
                    seen=f"{shown(path)} ends at byte {at + length} of {self._size}",
                    fix="download or copy it again, and compare its SHA-256 (--sha256)",
                )
        return Member(path, Kind.FILE, sum(length for _, length in extents), extents=extents)

    def _extents(self, record: Any, key: str) -> Iterator[tuple[int, int]]:
        """Yield where the bytes lie. ISO 9660 keeps files of 4 GiB and more in pieces, each with a record of its own.

        The library finds only the last piece of such a file by its Rock Ridge path, so its records are followed here.
        """
        if self._space == "udf_path":
            yield from (piece for piece in self._iso.get_file_byte_extents(udf_path=key) if piece[1])
            return
        while record is not None:
            if record.data_length:  # its own; get_data_length() gives that of another file at the same place
                yield record.extent_location() * self._iso.logical_block_size, record.data_length
            record = record.data_continuation


def _no_file(path: str) -> Invalid:
    return refuse(
        f"neither file, folder nor link: {shown(path)}",
        seen="a device, a pipe or a socket",
        fix="do not trust this medium",
    )
