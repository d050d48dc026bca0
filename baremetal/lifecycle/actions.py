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
    """Have this run's volume stand whole on its storage host. Nobody sees it yet."""

    def __str__(self) -> str:
        return "volume made"


class EnsureServed(Struct, frozen=True):
    """Have this run's volume be what the server's target shows, to this server and to nobody else.

    Only while the server is off: what it ran until now lives on the volume that the target showed before.
    """

    def __str__(self) -> str:
        return "volume served"


class EnsureNoVolume(Struct, frozen=True):
    """Have no volume of this server stand; with `earlier`, none of a run before this one. Each by its tag."""

    earlier: bool = False

    def __str__(self) -> str:
        return "earlier volumes removed" if self.earlier else "volumes removed"


class CheckLogin(Struct, frozen=True):
    """Prove over SSH that what runs is what this run installed."""

    def __str__(self) -> str:
        return "prove by SSH"


StorageAction = EnsureVolume | EnsureServed | EnsureNoVolume
Action = CheckAccess | EnsurePower | EnsureBootDevice | StorageAction | CheckLogin
