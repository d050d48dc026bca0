"""What a storage host is to us: somewhere that keeps volumes, and something that serves them as iSCSI targets.

Owns the values and the two seams, `Keeper` (volumes as files, as LVM's logical volumes) and `Portal` (targets by tgt,
by LIO); `host.py` puts one of each together. What is ours carries a tag, and nothing without our tag is ever changed.
Deliberately unknown: servers, runs and the database; a tag's words are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

LOCK_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Output:
    """How a command ended: its exit status and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The last thing it said, for people."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip()[:300] if lines else f"exit status {self.status}"


class Shell(Protocol):
    """Runs commands on the machine that keeps the volumes: this one, or another over SSH.

    Commands are argument arrays; secrets come on standard input and never in an argument. Every method raises
    StorageError, UNREACHABLE where the command was not run to its end within the deadline, HOST_KEY where another
    machine answers. A command that fails raises nothing: its status says so.
    """

    @property
    def place(self) -> str:
        """Where it is, for people: an address, or "this machine"."""
        ...

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 30.0) -> Output: ...

    def send(self, argv: Sequence[str], source: Iterator[bytes], *, deadline_s: float) -> Output:
        """Run a command that reads a long standard input."""
        ...

    def holding(self, argv: Sequence[str], *, deadline_s: float) -> AbstractContextManager[None]:
        """Start a command, wait for its first line, and keep it running, its standard input open, until the end."""
        ...


@dataclass(frozen=True, slots=True)
class Tag:
    """Whose a volume is: `volume` is its own id, `server` an id or "" for nobody's (a golden one), `run` 0 for none."""

    volume: str
    server: str = ""
    run: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A volume as the storage host has it; sizes in bytes. `used` and `origin` where they are known.

    `tag` None: not ours.
    """

    name: str
    size: int
    used: int | None = None
    origin: str | None = None
    tag: Tag | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """How much space there is, in bytes."""

    size: int
    free: int


class Keeper(Protocol):
    """Keeps volumes. Names are `[a-z0-9-]{1,48}` and checked before they come here.

    Each change is idempotent: a half-made volume of an earlier try is taken up or made anew, never found as done.
    Raises StorageError: CLASH where the name is taken by what does not carry this tag, FULL, MISSING, and the shell's.
    """

    @property
    def snapshots(self) -> str:
        """How a clone is made, for people, after "a clone by": "thin snapshot", "reflink, or copy"."""
        ...

    def check(self) -> Room:
        """Look whether volumes can be kept here at all."""
        ...

    def volumes(self) -> list[Kept]:
        """List what is kept here, what is not ours too where it stands beside it."""
        ...

    def create(self, name: str, size: int, tag: Tag) -> None: ...

    def clone(self, name: str, origin: str, size: int, tag: Tag) -> None:
        """Copy `origin`, at least as large as it. Later changes of the one are not seen in the other."""
        ...

    def fill(self, name: str, size: int, tag: Tag, source: Iterator[bytes]) -> None:
        """Create a volume with this content."""
        ...

    def seed(self, name: str, content: bytes | None) -> None:
        """Keep a small second image beside a volume, in place of an earlier one; None: no more."""
        ...

    def path(self, name: str) -> str:
        """Return the file or device that the target software opens."""
        ...

    def seed_path(self, name: str) -> str: ...

    def remove(self, name: str, tag: Tag) -> bool:
        """Remove a volume and its seed. Return whether there was one."""
        ...


@dataclass(frozen=True, slots=True)
class Chap:
    """What an initiator proves itself with, and (mutual) what the target proves itself with to the initiator."""

    user: str
    password: str = field(repr=False)
    mutual_user: str = ""
    mutual_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Lun:
    """A file or device behind a number."""

    number: int
    path: str
    writable: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """One iSCSI target: who may log in, with what, and what is behind it. Without CHAP, the name is enough."""

    iqn: str
    initiators: tuple[str, ...]
    luns: tuple[Lun, ...]
    chap: Chap | None = None


class Portal(Protocol):
    """Serves volumes as iSCSI targets. Knows paths, not volumes.

    Raises StorageError: SETTINGS where a target of this name has LUNs that `ours` does not know, and the shell's.
    """

    @property
    def first_lun(self) -> int:
        """The number of the first LUN: tgt 1, LIO 0."""
        ...

    def check(self) -> str:
        """Look whether targets can be served here; return the software's name and version."""
        ...

    def targets(self) -> dict[str, Target]:
        """Read back what is served now, by IQN. Of CHAP only what can be read; passwords may be empty."""
        ...

    def agrees(self, there: Target | None, wanted: Target) -> bool:
        """Whether what was read back is what is wanted, as far as it can be read."""
        ...

    def serve(self, target: Target, ours: Sequence[str]) -> bool:
        """Make a target be exactly so, in place of an earlier form of it; return whether anything was changed.

        `ours`: the paths, this target's and earlier ones', that may stand behind a target of ours. Idempotent; read
        back before it returns; survives a restart of the storage host where the software can.
        """
        ...

    def withdraw(self, iqn: str, ours: Sequence[str]) -> bool:
        """Serve this target no more, ending its sessions; return whether there was one. Idempotent."""
        ...
