"""What a BMC drives: the power button of a machine, and the boot order its firmware is handed.

Owns the seam between a simulated BMC and the machine behind it, which may be a value in memory, a simulated
server or a QEMU process. Knows nothing of IPMI, sessions or time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from baremetal.lifecycle.model import BootDevice


@dataclass(frozen=True, slots=True)
class BootOrder:
    """What firmware is told at power-on or reset. Device `none` means: the machine's own order.

    `persistent` only says where the wish came from; firmware obeys it for this boot either way.
    """

    device: BootDevice = BootDevice.NONE
    efi: bool = False
    persistent: bool = False


OWN_ORDER = BootOrder()


class Chassis(Protocol):
    """A machine as its BMC sees it. Every method returns at once and may be called in any state.

    `power_on` is only called when `is_on` is false and `reset` only when it is true; the other two may find
    nothing to do. Reading `is_on` must be cheap: a BMC reads it for every command.
    """

    @property
    def is_on(self) -> bool: ...

    def power_on(self, boot: BootOrder) -> None: ...

    def power_off(self) -> None: ...

    def soft_off(self) -> None: ...

    def reset(self, boot: BootOrder) -> None: ...


@dataclass(slots=True)
class DummyChassis:
    """A machine that is only a switch, and remembers what was done to it, in order.

    `obeys_soft_off=False` is the operating system that ignores the ACPI button.
    """

    is_on: bool = False
    obeys_soft_off: bool = True
    log: list[tuple[str, BootOrder | None]] = field(default_factory=list)

    def power_on(self, boot: BootOrder) -> None:
        self.log.append(("on", boot))
        self.is_on = True

    def power_off(self) -> None:
        self.log.append(("off", None))
        self.is_on = False

    def soft_off(self) -> None:
        self.log.append(("soft-off", None))
        if self.obeys_soft_off:
            self.is_on = False

    def reset(self, boot: BootOrder) -> None:
        self.log.append(("reset", boot))
