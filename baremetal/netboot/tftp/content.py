"""What a name stands for, and how it is read block by block without loading a file whole.

Owns the two kinds of content and their reading. Deliberately unknown: which name means which content, and the network.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

AHEAD = 128 * 1024
"""Bytes that are fetched at once from a file that is not in memory yet."""

_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class FileContent:
    """A regular file. Whoever answers with one has made sure that it may be given away."""

    path: Path


Content = bytes | FileContent


class Source(Protocol):
    """Content while it is being read. Positions are bytes from the beginning."""

    size: int

    def read_into(self, view: memoryview, at: int) -> bool:
        """Fill `view` from `at` without waiting for a disk; False: `fetch` first."""
        ...

    def fetch(self, at: int) -> None:
        """Bring what stands at `at` close enough for `read_into`; may block. Raises OSError."""
        ...

    def close(self) -> None: ...


class BytesSource:
    """Content that was computed."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = memoryview(content)

    def read_into(self, view: memoryview, at: int) -> bool:
        view[:] = self._content[at : at + len(view)]
        return True

    def fetch(self, at: int) -> None:
        """Nothing is ever far."""

    def close(self) -> None:
        """Nothing is open."""


class FileSource:
    """An open file, read where the kernel has it in memory; otherwise a piece at a time, by `fetch`.

    Two hundred transfers of one file share the kernel's copy. The size is that of the open file: replacing the file
    by another leaves running transfers alone, cutting it short ends them.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; may block. Raises OSError, also for what is no regular file."""
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._file)
            raise OSError(errno.EINVAL, "no regular file", str(path))
        self.size = found.st_size
        self._piece, self._piece_at = b"", 0
        self._flags = getattr(os, "RWF_NOWAIT", 0)

    def read_into(self, view: memoryview, at: int) -> bool:
        within = at - self._piece_at
        if self._piece and within >= 0 and within + len(view) <= len(self._piece):
            view[:] = self._piece[within : within + len(view)]
            return True
        if not view:
            return True
        if not self._flags:
            return False
        try:
            return os.preadv(self._file, [view], at, self._flags) == len(view)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._flags = 0  # a file system that cannot say what it has in memory: all by `fetch`
            return False

    def fetch(self, at: int) -> None:
        piece, wanted = b"", min(AHEAD, self.size - at)
        while len(piece) < wanted:
            more = os.pread(self._file, wanted - len(piece), at + len(piece))
            if not more:
                raise OSError(errno.EIO, "the file has become shorter")
            piece += more
        self._piece, self._piece_at = piece, at

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def open_content(content: Content) -> Source:
    """Open content for reading; may block. Raises OSError."""
    return FileSource(content.path) if isinstance(content, FileContent) else BytesSource(content)
