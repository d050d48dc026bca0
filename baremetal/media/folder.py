"""A folder as a medium: an unpacked image, a mounted disc, a mirror.

Owns the walk, which follows no link. Deliberately unknown: what the files mean.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from baremetal.media.tree import CHUNK, Kind, Member, bytes_in, check_name, refuse, shown


class Folder:
    """The files below a folder, as they were when it was opened."""

    def __init__(self, root: Path) -> None:
        """List the folder. Raises Invalid BM205 for devices, strange names and what may not be read."""
        self._root = root
        self._members = list(self._walk(""))
        self._room = bytes_in(self._members)

    @property
    def name(self) -> str:
        return self._root.name

    @property
    def room(self) -> int:
        return self._room

    @property
    def members(self) -> Sequence[Member]:
        return self._members

    def _walk(self, folder: str) -> Iterator[Member]:
        try:
            with os.scandir(self._root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise refuse(f"cannot read {self._root / folder}: {error.strerror}") from error
        for entry in entries:
            check_name(entry.name, folder)
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                yield self._member(path, entry)
            except OSError as error:
                raise refuse(f"cannot read {shown(path)}: {error.strerror}") from error
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(path)

    @staticmethod
    def _member(path: str, entry: os.DirEntry[str]) -> Member:
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            return Member(path, Kind.LINK, target=os.readlink(entry.path))
        if stat.S_ISDIR(found.st_mode):
            return Member(path, Kind.FOLDER)
        if stat.S_ISREG(found.st_mode):
            return Member(path, Kind.FILE, found.st_size)
        raise refuse(f"neither file, folder nor link: {shown(path)}", fix="remove it")

    def chunks(self, member: Member) -> Iterator[bytes]:
        left = member.size
        try:
            # Not blocking: a pipe that took the file's place would hang us.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(self._root / member.path, flags)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise refuse(f"changed while it was read: {shown(member.path)}")
                while left and (data := os.read(file, min(CHUNK, left))):
                    left -= len(data)
                    yield data
            finally:
                os.close(file)
        except OSError as error:
            raise refuse(f"cannot read {shown(member.path)}: {error.strerror}") from error
        if left:
            raise refuse(f"changed while it was read: {shown(member.path)}", fix="try again")

    def close(self) -> None:
        """Nothing is open between files."""
