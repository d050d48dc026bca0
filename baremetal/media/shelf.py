"""The folder that media lie in: one subfolder each, put there whole or not at all.

Owns the lock, temporary folders, the exchange of old and new, and `media.json` in each. Deliberately unknown: where
media come from and who boots them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from baremetal.errors import BaremetalError, Conflict, Refused
from baremetal.media.finding import Confidence

RECORD: Final = "media.json"
NO_ROOM: Final = "BM207"
_LOCK: Final = ".lock"
_TEMPORARY: Final = ".new-"
_ASIDE: Final = ".old-"
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What `media.json` says of a medium."""

    distro: str
    title: str
    family: str
    version: str
    arch: str
    kernel: str
    initrd: str
    kernel_sha256: str
    initrd_sha256: str
    confidence: Confidence
    evidence: tuple[str, ...]
    source: str
    source_sha256: str = ""
    bytes: int
    files: int
    added_at: str
    note: str = ""


class Shelf:
    """The media folder. Writing needs the lock, which `work` takes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Keep others from writing here, and remove what a killed import left. Raises Conflict, Refused."""
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.mkdir(exist_ok=True, mode=0o755)
            lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise _cannot("write to", self.root, error) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    "another `media add` or `media remove` is at work", seen=str(self.root), fix="wait for it"
                ) from None
            self._sweep()
            yield
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        """Remove temporary folders, which under the lock nobody can be filling; put back what lost its place."""
        for path in self.root.glob(f"{_TEMPORARY}*"):
            _remove(path)
        for path in self.root.glob(f"{_ASIDE}*"):
            place = self.root / path.name.removeprefix(_ASIDE)
            if place.exists():
                _remove(path)
            else:
                path.rename(place)

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """Make a folder beside the media, removed at the end unless `put` has moved it away."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.root))
        except OSError as error:
            raise _cannot("write to", self.root, error) from error
        try:
            yield folder
        finally:
            _remove(folder)

    def put(self, folder: Path, name: str, record: Record) -> None:
        """Write the record and make `folder` the medium `name`, durably and at once; the old one takes its place."""
        target = self.root / name
        try:
            (folder / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
            folder.chmod(0o755)
            _write_out(folder)
            if target.is_dir():
                _exchange(folder, target)
            else:
                folder.rename(target)
            _sync(self.root)
        except OSError as error:
            raise _cannot("write", target, error) from error

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.root.iterdir() if path.is_dir() and path.name[0] != ".")
        except OSError:
            return []

    def record(self, name: str) -> Record | None:
        """Read what is known of a medium; None where it was put there by hand."""
        try:
            return msgspec.json.decode((self.root / name / RECORD).read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return None

    def remove(self, name: str) -> None:
        """Take a medium away: out of sight at once, then its files."""
        with self.temporary() as folder:
            try:
                (self.root / name).rename(folder / "old")
                _sync(self.root)
            except OSError as error:
                raise _cannot("remove", self.root / name, error) from error

    def check_room(self, needed: int) -> None:
        """Make sure that the bytes fit. Raises Refused BM207."""
        found = os.statvfs(self.root)
        free = found.f_bavail * found.f_frsize
        if needed > free:
            raise Refused(
                "there is no room for it",
                code=NO_ROOM,
                seen=f"{needed} bytes needed, {free} free in {self.root}",
                fix="make room, or set [server] data_dir to another disk",
            )


def _cannot(verb: str, path: Path, error: OSError) -> BaremetalError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(
            "there is no room for it", code=NO_ROOM, seen=f"{path}: {error.strerror}", fix="make room"
        )
    return Refused(
        f"cannot {verb} {path}",
        seen=error.strerror,
        fix="run this as the user of the service, for instance by sudo -u baremetal",
    )


def cannot_write(path: Path, error: OSError) -> BaremetalError:
    """Word a failed write into a media folder."""
    return _cannot("write", path, error)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_out(folder: Path) -> None:
    """Bring a tree to the disk: one syncfs, because an fsync for each of ten thousand files takes minutes."""
    syncfs = getattr(_libc(), "syncfs", None)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if syncfs is None:
            os.sync()
        elif syncfs(handle) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step where the file system can, else in two; a sweep mends a crash between."""
    renameat2 = getattr(_libc(), "renameat2", None)
    if renameat2 is not None:
        done = renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE)
        if done == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    aside = old.with_name(f"{_ASIDE}{old.name}")
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise
    _remove(aside)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
