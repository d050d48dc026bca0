"""How one action is made true on a real machine: read, write only where needed, read back.

Knows drivers' conversations, the SSH proof and storage hosts through three small seams; knows no database, no retry, no
deadline of a run. Whether a write may be sent at all is asked of `permit`, which records the intention first (I13).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from baremetal.drivers.base import BmcDriver, BootFlags, Permit, PowerTarget
from baremetal.errors import BmcError, BmcErrorKind, Invalid, LoginError
from baremetal.failpoints import failpoint
from baremetal.lifecycle.actions import (
    Action,
    CheckAccess,
    CheckLogin,
    EnsureBootDevice,
    EnsureNoVolume,
    EnsurePower,
    EnsureServed,
    EnsureVolume,
    StorageAction,
)
from baremetal.lifecycle.model import BootDevice, BootMode, PowerState, Run
from baremetal.store.records import ServerRecord

VERIFY_FIRST_S = 0.2
VERIFY_STEP_S = 2.0
VERIFY_TOTAL_S = 8.0
SETTLE_MOST_S = 10.0


@dataclass(frozen=True, slots=True)
class Quirks:
    """The named vendor deviations of one server that change how actions are performed.

    `settle_s`: the pause between off and on that this machine needs. `efi`: "auto" follows the boot mode, "never"
    leaves the EFI bit alone and does not compare it. `flags_unreadable`: an invalid parameter means *unknown*.
    """

    settle_s: float = 0.0
    efi: str = "auto"
    flags_unreadable: bool = False

    @classmethod
    def parse(cls, words: Sequence[str]) -> Quirks:
        """Read the `name` or `name=value` words of a server record; words for other parts are passed over."""
        named = dict(word.partition("=")[::2] for word in words)
        try:
            settle_s = float(named.get("settle") or 0)
        except ValueError:
            raise Invalid(
                f"the quirk settle={named['settle']} names no number of seconds", fix="write settle=2"
            ) from None
        return cls(
            settle_s=min(max(settle_s, 0.0), SETTLE_MOST_S),
            efi=named.get("efi") or "auto",
            flags_unreadable="flags_unreadable" in named,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What the read-back showed."""

    wrote: bool = False
    power: PowerState | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class LoginTarget:
    """Where the proof logs in, which host keys it accepts, and what the forced command must print."""

    addresses: tuple[tuple[str, int], ...]
    host_keys: tuple[str, ...]
    expect: str


class Login(Protocol):
    """Log in with our key and return what the forced command prints. Raises `LoginError`."""

    def __call__(self, address: str, port: int, host_keys: Sequence[str], deadline_s: float) -> str: ...


class Volumes(Protocol):
    """Make the volume of a run stand and be served, or be gone. Raises `StorageError`."""

    def make(self, record: ServerRecord, run: Run, permit: Permit) -> str:
        """Have the run's volume stand whole; return what was read back, in words."""
        ...

    def serve(self, record: ServerRecord, run: Run, permit: Permit) -> str:
        """Have the server's target show it."""
        ...

    def remove(self, record: ServerRecord, run: Run, permit: Permit, *, earlier: bool) -> str: ...


@dataclass(frozen=True, slots=True)
class Performer:
    sleep: Callable[[float], None]
    login: Login
    login_deadline_s: float = 20.0
    volumes: Volumes | None = None

    def perform(
        self, action: Action, bmc: BmcDriver, boot_mode: BootMode, quirks: Quirks, permit: Permit
    ) -> Seen:
        """Make a BMC's action true and return what was read back.

        Idempotent. Raises `BmcError`; NO_EFFECT when the BMC said yes and the read-back disagrees.
        """
        match action:
            case CheckAccess():
                return self._check(bmc)
            case EnsurePower(target):
                return self._ensure_power(bmc, target, quirks, permit)
            case EnsureBootDevice():
                return self._ensure_boot_device(bmc, action, boot_mode, quirks, permit)
            case CheckLogin() | EnsureVolume() | EnsureServed() | EnsureNoVolume():
                raise AssertionError(f"to {action}, nobody speaks to a BMC")

    def keep(self, action: StorageAction, record: ServerRecord, run: Run, permit: Permit) -> Seen:
        """Make a storage host's action true and return what was read back. Idempotent. Raises `StorageError`."""
        assert self.volumes is not None, "no deploy to iscsi is accepted without storage hosts"
        match action:
            case EnsureVolume():
                return Seen(wrote=True, text=self.volumes.make(record, run, permit))
            case EnsureServed():
                return Seen(wrote=True, text=self.volumes.serve(record, run, permit))
            case EnsureNoVolume(earlier):
                return Seen(wrote=True, text=self.volumes.remove(record, run, permit, earlier=earlier))

    def prove(self, target: LoginTarget) -> Seen:
        """Log in at the addresses in turn and compare what they print. Raises `LoginError`.

        An address where something answered tells more than one that is silent, so its trouble is the one raised.
        """
        trouble: LoginError | None = None
        for address, port in target.addresses:
            try:
                failpoint("ssh.verify:before")
                text = self.login(address, port, target.host_keys, self.login_deadline_s).strip()
                failpoint("ssh.verify:after")
            except LoginError as error:
                if trouble is None or not error.silent:
                    trouble = error
                continue
            if text == target.expect:
                return Seen(text=f"ssh to {address} port {port} answered with this run's id")
            trouble = LoginError(
                "the system that answers is not the one this run installed",
                transient=True,
                seen=f"{text[:80]!r} instead of {target.expect!r}",
            )
        raise trouble or LoginError(
            "no address is known to log in at",
            transient=True,
            fix="set one with `baremetal set NAME --ip` or the variable ssh_address",
        )

    def _check(self, bmc: BmcDriver) -> Seen:
        info = bmc.check()
        power = bmc.power()
        product = " ".join(part for part in (info.vendor, info.product, info.firmware) if part)
        return Seen(power=power, text=f"{product or 'BMC'}, power {power}")

    def _ensure_power(self, bmc: BmcDriver, target: PowerState, quirks: Quirks, permit: Permit) -> Seen:
        point = f"power_{target}"
        if bmc.power() is target:
            return Seen(power=target)
        if target is PowerState.ON and quirks.settle_s:
            self.sleep(quirks.settle_s)
        try:
            bmc.set_power(PowerTarget(target), _armed(permit, f"{point}.send"))
            failpoint(f"{point}.send:after")
        except BmcError as error:
            # 0xD5 "not in this state" is how some BMCs say that it is so already: the read-back decides
            if error.kind is not BmcErrorKind.CONFLICT:
                raise
        failpoint(f"{point}.verify:before")
        seen = self._poll_power(bmc, target)
        failpoint(f"{point}.verify:after")
        if seen is not target:
            raise BmcError(
                f"the BMC accepted power {target}, and {VERIFY_TOTAL_S:.0f} s later it is not so",
                BmcErrorKind.NO_EFFECT,
                code="BM112",
                seen=f"power {seen}",
            )
        return Seen(wrote=True, power=seen)

    def _poll_power(self, bmc: BmcDriver, target: PowerState) -> PowerState:
        waited, pause = 0.0, VERIFY_FIRST_S
        while (seen := bmc.power()) is not target and waited < VERIFY_TOTAL_S:
            self.sleep(pause)
            waited += pause
            pause = min(pause * 2, VERIFY_STEP_S, VERIFY_TOTAL_S - waited)
        return seen

    def _ensure_boot_device(
        self, bmc: BmcDriver, action: EnsureBootDevice, boot_mode: BootMode, quirks: Quirks, permit: Permit
    ) -> Seen:
        once = action.device is not BootDevice.NONE and not action.persistent
        point = "boot_set" if once else "boot_target"
        efi = boot_mode is BootMode.UEFI and quirks.efi == "auto"
        # a one-time flag that stands already may be about to expire, so it is always set anew
        if not once and flags_agree(bmc.boot_device(), action, efi, quirks):
            return Seen(text="read back")
        armed = _armed(permit, f"{point}.send")
        bmc.set_boot_device(action.device, persistent=action.persistent, efi=efi, permit=armed)
        failpoint(f"{point}.send:after")
        failpoint(f"{point}.verify:before")
        flags = bmc.boot_device()
        failpoint(f"{point}.verify:after")
        if not flags_agree(flags, action, efi, quirks):
            raise BmcError(
                f"{action}: the BMC accepted it and shows something else",
                BmcErrorKind.NO_EFFECT,
                seen=flags_in_words(flags),
                fix="see `baremetal set --quirk` for this firmware (efi=never, flip=none, flags_unreadable)",
            )
        return Seen(wrote=True, text="read back")


def _armed(permit: Permit, point: str) -> Permit:
    def ask() -> None:
        permit()
        failpoint(f"{point}:before")

    return ask


def flags_agree(flags: BootFlags, action: EnsureBootDevice, efi: bool, quirks: Quirks) -> bool:
    """Whether the boot flags that were read back are those that were asked for."""
    if flags.valid is None:
        return quirks.flags_unreadable
    if action.device is BootDevice.NONE:
        return flags.valid is False or flags.device in (None, BootDevice.NONE)
    return (
        flags.valid
        and flags.device is action.device
        and flags.persistent is action.persistent
        and (flags.efi is efi or quirks.efi == "never")
    )


def flags_in_words(flags: BootFlags) -> str:
    if flags.valid is None:
        return "boot flags that cannot be read"
    return (
        f"{'valid' if flags.valid else 'not valid'}, {flags.device or 'unknown device'}, "
        f"{'persistent' if flags.persistent else 'once'}, {'EFI' if flags.efi else 'no EFI'}"
    )
