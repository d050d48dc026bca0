"""Everything `decide` hears: verbs, results of actions, signals, requests seen, deadlines, flags.

Results carry (run, step, fence) of the turn that produced them, so that late ones are recognised as stale.
"""

from __future__ import annotations

from msgspec import Struct

from baremetal.lifecycle.model import (
    MAIN,
    BootDevice,
    BootTarget,
    Budgets,
    Fetch,
    Limits,
    Method,
    PowerState,
    Proof,
    Signal,
    Verb,
)


class Asked(Struct, frozen=True):
    """An operator asks for a verb. The settings of a deploy are frozen into its run."""

    verb: Verb
    by: str = "operator"
    force: bool = False
    wipe: bool = False
    method: Method | None = None
    target: BootTarget = BootTarget.DISK
    system: str = MAIN
    proof: Proof = Proof.SSH
    reboots: bool = False
    asks_go: bool = True
    flip: BootDevice = BootDevice.DISK
    budgets: Budgets = Budgets()
    limits: Limits = Limits()


class Intended(Struct, frozen=True):
    """A write is about to be sent: recorded before its first byte (promises I13)."""

    run: int
    step: int
    fence: int


class Did(Struct, frozen=True):
    """An action's target state was read back. `wrote` is false where it was true already."""

    run: int
    step: int
    fence: int
    wrote: bool = False
    power: PowerState | None = None
    seen: str = ""


class Failed(Struct, frozen=True):
    """An action did not reach its target. `pauses` marks an open breaker: the wait is not held against the step."""

    run: int
    step: int
    fence: int
    error: str
    transient: bool
    retry_after_s: float = 0.0
    pauses: bool = False


class Heard(Struct, frozen=True):
    """The machine called back, with a token that was made for `run`. `disks`: what a wipe would overwrite."""

    signal: Signal
    run: int
    boot_id: str = ""
    address: str = ""
    disk: str = ""
    disks: tuple[str, ...] = ()
    stage: str = ""
    message: str = ""


class Fetched(Struct, frozen=True):
    """The machine asked for something inside a run."""

    what: Fetch
    address: str = ""


class Overdue(Struct, frozen=True):
    """The deadline of this run's step has passed."""

    run: int
    step: int


class MaintenanceChanged(Struct, frozen=True):
    on: bool
    by: str = "operator"


class SystemChosen(Struct, frozen=True):
    """An operator says which of its systems a server is to boot from now on; what runs just now goes on running."""

    system: str
    by: str = "operator"


Event = Asked | Intended | Did | Failed | Heard | Fetched | Overdue | MaintenanceChanged | SystemChosen
