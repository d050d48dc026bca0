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


class EnsureVolume(Struct, frozen=True):
    """Have this run's volume stand on its storage host, served to this server and to nobody else."""

    def __str__(self) -> str:
        return "volume made and served"


class EnsureNoVolume(Struct, frozen=True):
    """Have no volume of this server stand; with `earlier`, none of a run before this one. Each by its tag."""

    earlier: bool = False

    def __str__(self) -> str:
        return "earlier volumes removed" if self.earlier else "volumes removed"


class CheckLogin(Struct, frozen=True):
    """Prove over SSH that what runs is what this run installed."""

    def __str__(self) -> str:
        return "prove by SSH"


StorageAction = EnsureVolume | EnsureNoVolume
Action = CheckAccess | EnsurePower | EnsureBootDevice | EnsureVolume | EnsureNoVolume | CheckLogin
