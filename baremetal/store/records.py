"""What leaves the store: frozen values, without a session, a row or a statement behind them.

Those that come by the hundred are msgspec's structs, which cost a tenth of a frozen dataclass to make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import msgspec

from baremetal.lifecycle.events import Asked
from baremetal.lifecycle.model import PowerState, Server


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a server and not needed for deciding.

    `bmc` is a URL without credentials, `bmc_identity` what tells two BMCs apart. `ip` is "10.0.0.5/24" or "". The first
    MAC is the boot NIC's. A quirk is `name` or `name=value`.
    """

    bmc: str
    bmc_identity: str
    macs: tuple[str, ...]
    uuid: str = ""
    serial: str = ""
    arch: str = "x86_64"
    boot_mode: str = "bios"
    boot_target: str = "disk"
    ip: str = ""
    vars: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    quirks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Credentials:
    """A BMC account, on its way into the store. Its `repr` does not show the password."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewServer:
    """A server to be enrolled. The life carries the name and the state that it begins in.

    `then`: the verb that its enrolment is to end with, kept in the history row that says that it was enrolled.
    """

    life: Server
    facts: Facts
    credentials: Credentials | None = None
    note: str = "enrolled"
    by: str = "operator"
    then: str = ""


class ServerRecord(msgspec.Struct, frozen=True):
    """A server under care. `id` is never used twice. `reserved_until`: of a reservation that no fence has voided."""

    id: str
    life: Server
    facts: Facts
    power_state: PowerState
    power_seen_at: datetime | None
    created_at: datetime
    reserved_until: datetime | None = None

    @property
    def name(self) -> str:
        return self.life.name

    def is_held(self, now: datetime) -> bool:
        """Whether somebody has reserved it for a turn, and his time is not over."""
        return self.reserved_until is not None and self.reserved_until > now


@dataclass(frozen=True, slots=True)
class WaitingRecord:
    """A deploy that has not begun: all that its run will need. `number`: those with lower ones go first."""

    number: int
    server_id: str
    server: str
    at: datetime
    asked: Asked
    profile: str
    frozen: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """What people want to know of a deploy that waits; `place` 1 is the next to begin."""

    place: int
    at: datetime
    asked: Asked
    profile: str


class NewRun(msgspec.Struct, frozen=True):
    """A run that begins. `frozen` is all that it goes by, whatever is configured otherwise meanwhile."""

    server_id: str
    number: int
    verb: str
    profile: str
    frozen: Mapping[str, Any]
    started_at: datetime


class RunRecord(msgspec.Struct, frozen=True):
    """One run, and what was learnt on the way. What it froze at its start is asked for by itself: it is large.

    `outcome` is "" while the run is open, else the provision state it ended in. `accepted` says when each signal was
    first accepted, because an accepted one repeated within a day still hears 200 after the run's end.
    """

    server_id: str
    number: int
    verb: str
    profile: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = ""
    error: str = ""
    boot_id: str = ""
    disk: str = ""
    disks: Sequence[Mapping[str, Any]] = ()
    ssh_host_keys: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    accepted: Mapping[str, datetime] = {}


@dataclass(frozen=True, slots=True)
class InventoryRecord:
    """What an inspection found, in which run, when."""

    run: int
    at: datetime
    found: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume of ours; sizes in bytes. `role`: "golden", "system" or "data". `origin`: the volume it was cloned from.

    `server_id` "" and `run` 0: nobody's. `ready`: it was seen standing whole.
    """

    id: str
    storage: str
    name: str
    role: str
    size: int
    created_at: datetime
    server_id: str = ""
    run: int = 0
    origin: str = ""
    ready: bool = False


@dataclass(frozen=True, slots=True)
class DoorRecord:
    """An iSCSI target of a server and what opens it. `volume_id`: the volume behind it; `at`: since when."""

    server_id: str
    storage: str
    target: str
    initiator: str
    volume_id: str
    secrets: tuple[str, ...]
    at: datetime

    def __repr__(self) -> str:
        return f"DoorRecord({self.target!r} on {self.storage!r} for {self.initiator!r})"


class HistoryEntry(msgspec.Struct, frozen=True):
    """One line of the history.

    `kind` is "decision" (changed something, refused a machine, or a recorded no-op), "observation", "audit" or
    "enrolled". A decision carries its event and the fence it was decided under, so that the history can be folded.
    """

    id: int
    at: datetime
    server_id: str
    server: str
    run: int | None
    kind: str
    note: str
    from_state: str | None = None
    to_state: str | None = None
    outcome: str | None = None
    event: Mapping[str, Any] | None = None
    data: Mapping[str, Any] = {}
    fence: int | None = None


class Committed(msgspec.Struct, frozen=True):
    """A decision that is written down: the rows that the history was given, the decision's last.

    `fence` is that of the reservation that was taken with it, if one was.
    """

    entries: list[HistoryEntry]
    fence: int | None = None


class Observed(Protocol):
    """One thing seen from a machine, before it is written (`engine/observations.py` makes them)."""

    @property
    def at(self) -> datetime: ...
    @property
    def server_id(self) -> str: ...
    @property
    def server(self) -> str: ...
    @property
    def run(self) -> int | None: ...
    @property
    def what(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A log that an installer uploaded."""

    run: int
    name: str
    at: datetime
    content: bytes


@dataclass(frozen=True, slots=True)
class UnknownMachine:
    """A machine that asked to be booted and is not enrolled."""

    mac: str
    uuid: str
    serial: str
    arch: str
    what: str
    first_seen_at: datetime
    last_seen_at: datetime
    times: int


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A control token; only its hash is known here."""

    name: str
    role: str
    hash: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BmcMemoRecord:
    """Which credentials a BMC refused (keyed fingerprints, newest last), and when."""

    refused: tuple[str, ...] = ()
    at: datetime | None = None
    reason: str = ""
