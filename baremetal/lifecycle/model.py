"""The values of a server's life: states, verbs, signals, a run and what `decide` knows of a server.

Plain data only. What is *not* here is what deciding does not need: BMC addresses, credentials, variables, templates.
Those live in the store beside this value and are frozen into the run's record when it starts.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace


class ProvisionState(StrEnum):
    """Where in its life a server is, in Ironic's strings."""

    ENROLL = "enroll"
    VERIFYING = "verifying"
    MANAGEABLE = "manageable"
    AVAILABLE = "available"
    DEPLOYING = "deploying"
    WAIT_CALLBACK = "wait call-back"
    ACTIVE = "active"
    DEPLOY_FAILED = "deploy failed"
    DELETING = "deleting"
    ERROR = "error"
    INSPECTING = "inspecting"
    INSPECT_WAIT = "inspect wait"
    INSPECT_FAILED = "inspect failed"
    CLEANING = "cleaning"
    CLEAN_WAIT = "clean wait"
    CLEAN_FAILED = "clean failed"
    RESCUING = "rescuing"
    RESCUE_WAIT = "rescue wait"
    RESCUE = "rescue"
    RESCUE_FAILED = "rescue failed"
    UNRESCUING = "unrescuing"
    UNRESCUE_FAILED = "unrescue failed"


class Verb(StrEnum):
    """What an operator asks for."""

    MANAGE = "manage"
    PROVIDE = "provide"
    ADOPT = "adopt"
    DEPLOY = "deploy"
    REBUILD = "rebuild"
    RELEASE = "release"
    INSPECT = "inspect"
    RESCUE = "rescue"
    UNRESCUE = "unrescue"
    ABORT = "abort"


class Method(StrEnum):
    """How a system gets onto its target."""

    INSTALLER = "installer"
    IMAGE = "image"
    CLONE = "clone"


class PowerState(StrEnum):
    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class BootDevice(StrEnum):
    PXE = "pxe"
    DISK = "disk"
    CDROM = "cdrom"
    BIOS = "bios"
    NONE = "none"


class BootMode(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class BootTarget(StrEnum):
    """Where an active server boots: its own disk, or the volume that a storage host keeps for it."""

    DISK = "disk"
    ISCSI = "iscsi"


class Proof(StrEnum):
    """What must be shown before a deployed server counts as active (promises I14)."""

    SSH = "ssh"
    FIRST_BOOT = "first-boot"
    NONE = "none"


class Signal(StrEnum):
    """News that the machine itself calls back with."""

    INSTALL_STARTED = "install-started"
    PROGRESS = "progress"
    INSTALL_COMPLETE = "install-complete"
    INSTALL_FAILED = "install-failed"
    FIRST_BOOT = "first-boot"
    WIPE_STARTED = "wipe-started"
    WIPE_COMPLETE = "wipe-complete"
    WIPE_FAILED = "wipe-failed"
    INSPECT_COMPLETE = "inspect-complete"
    INSPECT_FAILED = "inspect-failed"
    RESCUE_STARTED = "rescue-started"
    RESCUE_FAILED = "rescue-failed"


class Fetch(StrEnum):
    """What a netbooting machine was seen to ask for: observations, which move no state."""

    SCRIPT = "script"
    ANSWER = "answer"
    KERNEL = "kernel"
    INITRD = "initrd"
    MEDIA = "media"


MAIN = "main"
"""The system of a server of which nobody says that it has several."""


class Budgets(Struct, frozen=True):
    """How long each wait of a run may last, in seconds; frozen into the run when it starts."""

    access_s: float = 30.0
    ensure_s: float = 180.0
    volume_s: float = 1800.0
    boot_s: float = 900.0
    start_s: float = 1800.0
    install_s: float = 5400.0
    first_boot_s: float = 1800.0
    proof_s: float = 600.0
    inspect_s: float = 900.0
    rescue_s: float = 900.0
    wipe_s: float = 86400.0


class Limits(Struct, frozen=True):
    """Bounds on what a run may do to a machine (promises, BMC conversation rules).

    `flags_fresh_s`: power-on follows the verified boot flags within this, since BMCs forget them after 60 s.
    `patience_s`: how long, in all, an open circuit breaker may stretch the deadlines of one step.
    """

    netboot_attempts: int = 3
    max_serves: int = 3
    power_writes_per_step: int = 4
    power_writes_per_hour: int = 12
    flags_fresh_s: float = 30.0
    patience_s: float = 900.0


class Go(Struct, frozen=True):
    """The one permission of a run to touch a disk: to which boot instance, from where, for which disk.

    An install names one `disk`, a wipe all of its `disks`, each by name and serial.
    All empty for an installer that cannot ask: it was served its boot script once, and that was the go.
    """

    boot_id: str
    disk: str
    address: str
    at: datetime
    disks: tuple[str, ...] = ()


class Run(Struct, frozen=True):
    """One execution of a workflow on one server, from the verb to its end.

    `wipe` belongs to the verb: the disks are overwritten too. `step` indexes the workflow's steps, or the closing
    steps once `closing` carries the reason why the run is being given up. `system` is what is installed, by name: a
    server on volumes may have several. `served`: from the intention on to show its volume in the place of the one that
    the system had before. `attempt`, `serves`, `power_on_intended` and
    `flags_at` belong to the current *netboot* attempt; `tries` and `power_writes` to the current step.
    """

    number: int
    verb: Verb
    method: Method | None
    started: datetime
    entered: datetime
    wipe: bool = False
    step: int = 0
    deadline: datetime | None = None
    retry_at: datetime | None = None
    postponed_s: float = 0.0
    tries: int = 0
    power_writes: int = 0
    attempt: int = 1
    serves: int = 0
    power_on_intended: bool = False
    flags_at: datetime | None = None
    heard: frozenset[Signal] = frozenset()
    go: Go | None = None
    closing: str = ""
    target: BootTarget = BootTarget.DISK
    system: str = MAIN
    proof: Proof = Proof.SSH
    served: bool = False
    reboots: bool = False
    asks_go: bool = True
    flip: BootDevice = BootDevice.DISK
    budgets: Budgets = Budgets()
    limits: Limits = Limits()
    last_sign: str = ""
    trouble: str = ""


class Server(Struct, frozen=True):
    """What `decide` knows of one server. Every accepted change adds one to `generation`.

    `paused` holds what was left of the run's deadline while maintenance stops the clock. `found_on` says that the
    server was running something when we first saw it and has never been released by us, so it is not deployed
    without force. `deployed` is the run whose system is installed, 0 for none, and `target` where that one lives.
    `volumes` are the runs of which a volume may stand on a storage host: from the intention to make one until it is
    known to be gone. `systems` are those that were proven on volumes, by name, each with the run that made it; the one
    of `deployed` is what the server boots. `fence` only grows; it is raised by each reservation, by abort and by
    maintenance. `power_writes` are the times of the last hour's power writes.
    """

    name: str
    state: ProvisionState = ProvisionState.ENROLL
    generation: int = 0
    fence: int = 0
    runs: int = 0
    run: Run | None = None
    maintenance: bool = False
    paused: timedelta | None = None
    found_on: bool = False
    deployed: int = 0
    target: BootTarget = BootTarget.DISK
    volumes: tuple[int, ...] = ()
    systems: tuple[tuple[str, int], ...] = ()
    last_error: str = ""
    power_writes: tuple[datetime, ...] = ()

    def with_run(self, **changes: object) -> Server:
        """Return this server with some fields of its open run replaced. Raises AssertionError without a run."""
        assert self.run is not None
        return replace(self, run=replace(self.run, **changes))


class Disk(Struct, frozen=True):
    """A disk as an installer reported it; size in bytes."""

    name: str
    serial: str = ""
    wwn: str = ""
    size: int = 0
    rotational: bool | None = None
