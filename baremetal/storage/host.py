"""One storage host: volumes kept and served, one change at a time.

Owns the order of things (a volume stands whole before a target shows it; a target is gone before its volume goes), the
lock that keeps two changes apart, here and on the host itself, and which paths count as ours. Each change may be asked
for twice, and begins again wherever it was cut off. Deliberately unknown: when a change is wanted, and its record.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from baremetal.errors import StorageError, StorageErrorKind
from baremetal.failpoints import failpoints
from baremetal.storage.base import LOCK_WAIT_S, Chap, Keeper, Lun, Portal, Shell, Tag, Target

Permit = Callable[[], None]
HERE_S = 10.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A volume as it is to be: a clone of `origin` where one is named, else empty. `seed`: its small second image."""

    name: str
    tag: Tag
    size: int
    origin: str | None = None
    seed: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a target shows: a system's volume, its seed if it has one, and its data disks, by name."""

    volume: str
    seeded: bool = False
    data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Door:
    """The way in to a server's volumes: the target's name, who may pass, and with what."""

    target: str
    initiator: str
    chap: Chap | None = None


@dataclass(frozen=True, slots=True)
class StorageHost:
    """A keeper and a portal on one machine. `lock`: a file there, which every change holds."""

    name: str
    shell: Shell
    keeper: Keeper
    portal: Portal
    lock: str
    _here: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def make(self, wanted: Wanted, permit: Permit) -> None:
        """Have a volume stand whole; no target shows it yet. Raises StorageError.

        `permit` is asked before each change, and raises where it is no longer wanted.
        """
        with self.locked():
            permit()
            with failpoints("volume.create"):
                self._make(wanted, permit)

    def serve(self, shown: Shown, door: Door, known: Sequence[str], permit: Permit = lambda: None) -> bool:
        """Have volumes that stand be served; return whether it was not so. Raises StorageError.

        `known`: the names of the server's volumes, which its target may have shown before.
        """
        target = self.target(shown, door)
        with self.locked():
            permit()
            return self.portal.serve(target, self._paths([*known, shown.volume, *shown.data]))

    def target(self, shown: Shown, door: Door) -> Target:
        """Return the target that volumes are served by: the system's first, then the seed, read only, then data (S4-8).

        Data disks keep their numbers whether there is a seed or not.
        """
        first = self.portal.first_lun
        luns = [Lun(first, self.keeper.path(shown.volume))]
        if shown.seeded:
            luns.append(Lun(first + 1, self.keeper.seed_path(shown.volume), writable=False))
        luns += [Lun(first + 2 + at, self.keeper.path(name)) for at, name in enumerate(shown.data)]
        return Target(door.target, (door.initiator,), tuple(luns), door.chap)

    def withdraw(self, target: str, known: Sequence[str], permit: Permit = lambda: None) -> bool:
        """Have a target be gone; return whether there was one. The volumes stay. Raises StorageError.

        `known`: the names of the volumes that it may have shown.
        """
        with self.locked():
            permit()
            return self.portal.withdraw(target, self._paths(known))

    def drop(self, volumes: Sequence[tuple[str, Tag]], permit: Permit) -> bool:
        """Remove volumes that no target shows any more; return whether there was any. Raises StorageError."""
        with self.locked():
            return self._remove(volumes, permit)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other change away, of this process and of others. Raises StorageError."""
        # Not for ever: who waits holds one of the threads that all servers are served by.
        if not self._here.acquire(timeout=HERE_S):
            raise StorageError(f"{self.name} is busy with other changes", StorageErrorKind.BUSY)
        try:
            holder = ["flock", "-x", "-w", f"{LOCK_WAIT_S:.0f}", self.lock, "sh", "-c", "echo held; exec cat"]
            with self.shell.holding(holder, deadline_s=LOCK_WAIT_S + 10.0):
                yield
        finally:
            self._here.release()

    def _make(self, wanted: Wanted, permit: Permit) -> None:
        if wanted.origin is None:
            self.keeper.create(wanted.name, wanted.size, wanted.tag)
        else:
            self.keeper.clone(wanted.name, wanted.origin, wanted.size, wanted.tag)
        if wanted.seed is not None:
            permit()  # a copy may have taken an hour
            self.keeper.seed(wanted.name, wanted.seed)

    def _remove(self, volumes: Sequence[tuple[str, Tag]], permit: Permit) -> bool:
        there = False
        for name, tag in volumes:
            permit()
            with failpoints("volume.remove"):
                there = self._is_removed(name, tag) or there
        return there

    def _is_removed(self, name: str, tag: Tag) -> bool:
        try:
            return self.keeper.remove(name, tag)
        except StorageError as error:
            if error.kind is not StorageErrorKind.CLASH:
                raise
            return False  # what has its name is another's: it stays, and ours does not stand

    def _paths(self, names: Sequence[str]) -> list[str]:
        return [path for name in names for path in (self.keeper.path(name), self.keeper.seed_path(name))]
