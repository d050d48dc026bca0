"""The effects a server may be owed: idempotent, described by their target state, never by a motion.

An action says *what must be true*; how it is made true is `engine/perform.py`'s affair.
"""

from __future__ import annotations

from msgspec import Struct

from baremetal.lifecycle.model import BootDevice, PowerState


class CheckAccess(Struct, frozen=True):
    """Prove that the BMC answers to our credentials, and see whether the server is on. Reads only."""

    def __str__(self) -> str:
        return "check access to the BMC"


class EnsurePower(Struct, frozen=True):
    target: PowerState

    def __str__(self) -> str:
        return f"power {self.target}"


class EnsureBootDevice(Struct, frozen=True):
    device: BootDevice
    persistent: bool = False

    def __str__(self) -> str:
        if self.device is BootDevice.NONE:
            return "boot device cleared"
        return f"boot device {self.device}{', persistent' if self.persistent else ', once'}"


class CheckLogin(Struct, frozen=True):
    """Prove over SSH that what runs is what this run installed."""

    def __str__(self) -> str:
        return "prove by SSH"


Action = CheckAccess | EnsurePower | EnsureBootDevice | CheckLogin
