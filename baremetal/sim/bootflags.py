"""System boot options as a BMC keeps them: parameters 0 to 5 of IPMI 2.0 §28.12 to §28.14, table 28-14.

Owns the bytes, when a one-time flag runs out, and what firmware finds when it looks. Knows nothing of power,
sessions or how the bytes arrived; the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from baremetal.lifecycle.model import BootDevice
from baremetal.sim.chassis import OWN_ORDER, BootOrder
from baremetal.sim.completion import Code, CompletionError
from baremetal.sim.knobs import EfiPolicy, Knobs

VALID, PERSISTENT, EFI = 0x80, 0x40, 0x20

SELECTOR_OF = {
    BootDevice.NONE: 0x0,
    BootDevice.PXE: 0x1,
    BootDevice.DISK: 0x2,
    BootDevice.CDROM: 0x5,
    BootDevice.BIOS: 0x6,
}
DEVICE_OF = {selector: device for device, selector in SELECTOR_OF.items()}

_LENGTHS = {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 5}
_KEEP_WITHOUT_CONTROL = 0x08  # parameter 3: do not clear the valid bit for want of a chassis control command


@dataclass(frozen=True, slots=True)
class BootFlagBytes:
    """The first two bytes of parameter 5; a selector outside our five devices reads as `none`."""

    valid: bool
    persistent: bool
    efi: bool
    device: BootDevice

    @classmethod
    def decode(cls, data: bytes) -> BootFlagBytes:
        """Take parameter 5 apart. Raises ValueError when it is shorter than its device byte."""
        if len(data) < 2:
            raise ValueError(f"boot flags of {len(data)} bytes")
        return cls(
            valid=bool(data[0] & VALID),
            persistent=bool(data[0] & PERSISTENT),
            efi=bool(data[0] & EFI),
            device=DEVICE_OF.get(data[1] >> 2 & 0x0F, BootDevice.NONE),
        )

    def encode(self) -> bytes:
        """Return the five bytes of parameter 5."""
        first = VALID * self.valid | PERSISTENT * self.persistent | EFI * self.efi
        return bytes((first, SELECTOR_OF[self.device] << 2, 0, 0, 0))


class BootOptions:
    """The boot option parameters of one BMC. `chance` draws a knob by name; `fire` counts one that acted."""

    def __init__(self, chance: Callable[[str], bool], fire: Callable[[str], None]) -> None:
        self._chance = chance
        self._fire = fire
        self._set_at = 0.0
        self._locked: set[int] = set()
        self._values = {number: bytes(length) for number, length in _LENGTHS.items()}

    def read(self, number: int, knobs: Knobs, now: float) -> bytes:
        """Answer Get System Boot Options: version, parameter, data (§28.13). Raises CompletionError 0x80."""
        self.expire(knobs, now)
        if number not in self._values:
            raise CompletionError(Code.PARAMETER_NOT_SUPPORTED)
        return bytes((0x01, number | (0x80 if number in self._locked else 0))) + self._values[number]

    def write(self, number: int, lock: bool, data: bytes, knobs: Knobs, now: float) -> None:
        """Carry out Set System Boot Options (§28.12). Raises CompletionError 0x80, 0x81, 0xC7 or 0xC8."""
        self.expire(knobs, now)
        if number not in self._values:
            raise CompletionError(Code.PARAMETER_NOT_SUPPORTED)
        if number == 3 and knobs.refuse_parameter_3:
            self._fire("refuse_parameter_3")
            raise CompletionError(Code.PARAMETER_NOT_SUPPORTED)
        if data and len(data) != _LENGTHS[number]:
            short = len(data) < _LENGTHS[number]
            raise CompletionError(Code.DATA_TOO_SHORT if short else Code.DATA_TOO_LONG)
        if number == 0:
            data = self._progress(data)
        elif number == 4 and data:  # only the bits in the write mask change; the mask reads as zero
            old = self._values[4][1]
            data = bytes((0, (old & ~data[0]) | (data[1] & data[0])))
        elif number == 5 and data:
            data = self._store(data, knobs)
            self._set_at = now
        (self._locked.add if lock else self._locked.discard)(number)
        if data:
            self._values[number] = data

    def restart_countdown(self, now: float) -> None:
        """Begin the 60 s anew, as a chassis control command does (table 28-14, parameter 3)."""
        self._set_at = now

    def expire(self, knobs: Knobs, now: float) -> None:
        """Clear the valid bit of one-time flags whose time is up."""
        first = self._values[5][0]
        if not first & VALID or first & PERSISTENT or not knobs.boot_expiry_s:
            return
        asked_to_keep = self._values[3][0] & _KEEP_WITHOUT_CONTROL
        if now - self._set_at < knobs.boot_expiry_s or (asked_to_keep and not knobs.ignore_parameter_3):
            return
        self._fire("ignore_parameter_3" if asked_to_keep else "boot_expiry")
        self._spend(knobs)

    def take(self, knobs: Knobs, now: float) -> BootOrder:
        """Do what firmware does at boot: read the override, use up a one-time one, and say what it obeys."""
        self.expire(knobs, now)
        flags = BootFlagBytes.decode(self._values[5])
        order = OWN_ORDER
        if flags.valid:
            order = BootOrder(device=flags.device, efi=flags.efi, persistent=flags.persistent)
            if not flags.persistent:
                self._spend(knobs)
            if flags.device is not BootDevice.NONE and self._disobeyed(flags, knobs):
                order = OWN_ORDER
        if order.device is BootDevice.NONE and knobs.pxe_first:
            self._fire("pxe_first")
            order = BootOrder(device=BootDevice.PXE)
        return order

    def forget_once(self, knobs: Knobs) -> None:
        """Lose what a restart of the BMC loses: one-time flags and the set-in-progress state."""
        self._values[0] = b"\x00"
        if not self._values[5][0] & PERSISTENT:
            self._spend(knobs)

    def _progress(self, data: bytes) -> bytes:
        state = data[0] & 0x03 if data else 0
        if state == 1 and self._values[0][0] == 1:
            raise CompletionError(Code.SET_IN_PROGRESS)
        return bytes((1 if state == 2 else state,))  # commit write leaves the set open until set complete

    def _store(self, data: bytes, knobs: Knobs) -> bytes:
        first = data[0]
        if first & PERSISTENT and knobs.ignore_persist:
            self._fire("ignore_persist")
            first &= ~PERSISTENT
        if first & EFI and knobs.efi_policy is EfiPolicy.DROPS:
            self._fire("efi_policy")
            first &= ~EFI
        if first & VALID and self._chance("stale_flags"):
            first &= ~VALID
        return bytes((first,)) + data[1:]

    def _disobeyed(self, flags: BootFlagBytes, knobs: Knobs) -> bool:
        refused = {EfiPolicy.REQUIRED: not flags.efi, EfiPolicy.BREAKS: flags.efi}.get(
            knobs.efi_policy, False
        )
        if refused:
            self._fire("efi_policy")
        return refused or self._chance("ignore_boot")

    def _spend(self, knobs: Knobs) -> None:
        old = self._values[5]
        self._values[5] = bytes((old[0] & ~VALID,)) + old[1:] if knobs.stale_flags else bytes(5)
