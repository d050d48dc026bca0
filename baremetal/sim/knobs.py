"""The fault knobs of a simulated BMC: one table, whose defaults are a healthy BMC.

Owns the names (those of the promises, plus the few that real BMCs forced on us) and what each means. What a
knob did is counted by its name, without `_s`, in `SimulatedBmc.fired`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from baremetal.sim.suites import SUITES


class EfiPolicy(StrEnum):
    """What a BMC and its firmware make of the EFI bit of the boot flags."""

    HONEST = "honest"
    REQUIRED = "required"  # an override without the bit is ignored at boot (bmc-toolbox/bmclib#209)
    BREAKS = "breaks"  # an override with the bit is ignored at boot
    DROPS = "drops"  # the bit does not stick: it reads back cleared (metal-stack/metal-core#19)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """How a simulated BMC misbehaves. Turn one with `dataclasses.replace` and assign to `SimulatedBmc.knobs`.

    A chance is between 0 and 1, per event, drawn from the BMC's own seeded generator, and only when it is not
    0: a healthy run draws nothing. Seconds are on the BMC's own clock.
    """

    # sessions and logins
    max_sessions: int = 8
    """Slots in the session table; one login more hears status 0x01 (openbmc/openbmc#1241)."""
    idle_reap_s: float = 60.0
    """Seconds until a silent session loses its slot."""
    suites: tuple[int, ...] = (3, 17)
    """Cipher suites on offer; a login with any other is refused with status 0x11 (ipmitool/ipmitool#363)."""
    lockout_after: int = 0
    """Wrong passwords in a row that lock an account (dsx-ai-factory/infra-controller#1292); 0 is never."""
    lockout_s: float = 300.0
    """How long a locked account stays locked."""

    # a BMC that does not answer
    freeze: float = 0.0
    """Chance per command that it goes unanswered and undone, and so does everything after it for `freeze_s`."""
    freeze_s: float = 30.0
    reboot: float = 0.0
    """Chance per command that the BMC restarts instead of answering, before the command took effect or after."""
    reboot_s: float = 20.0
    """How long a restart takes. It loses sessions and one-time boot flags; the machine's power stays as it is."""
    crash_after: int = 0
    """Commands that a BMC survives: the next one finds it restarting, every time; 0 is never."""

    # power
    lie_power: float = 0.0
    """Chance that a power command is answered OK and does nothing (dsx-ai-factory/infra-controller#595)."""
    settle_s: float = 0.0
    """Seconds until an accepted power command takes effect and shows."""
    strict_state: bool = False
    """`off` when off and `on` when on answer 0xD5 (aws/eks-anywhere#3568)."""
    busy: float = 0.0
    """Chance that a command is refused with 0xC0 and does nothing."""

    # boot flags
    boot_expiry_s: float = 60.0
    """One-time flags lose their valid bit so long after they were set, unless parameter 3 says no; 0 is never."""
    ignore_parameter_3: bool = False
    """Flags expire whatever parameter 3 says (RackHD/on-tasks#493)."""
    refuse_parameter_3: bool = False
    """Writing parameter 3 answers 0x80, at which some clients give up."""
    stale_flags: float = 0.0
    """Chance that flags are stored without their valid bit; used flags go on showing their device (ipmitool#304)."""
    efi_policy: EfiPolicy = EfiPolicy.HONEST
    ignore_persist: bool = False
    """The persistent bit is accepted and dropped (metal-stack/metal-core#19)."""
    ignore_boot: float = 0.0
    """Chance that firmware ignores a valid override, and uses it up (aws/eks-anywhere#6742)."""
    pxe_first: bool = False
    """The machine's own order is network first (cobbler/cobbler#3329)."""

    # the network in between, per packet and direction
    reply_delay_s: float = 0.0
    """Seconds from every request to its reply."""
    loss: float = 0.0
    """Chance that a packet vanishes."""
    dup: float = 0.0
    """Chance that a packet comes twice."""
    reorder: float = 0.0
    """Chance that a packet comes after the next one."""
    delay: float = 0.0
    """A packet takes up to so many seconds more, evenly spread."""
    malformed: float = 0.0
    """Chance that a reply is four bytes of rubbish."""

    def __post_init__(self) -> None:
        """Take what a file or command line gives (names and lists). Raises ValueError for what cannot be."""
        object.__setattr__(self, "efi_policy", EfiPolicy(self.efi_policy))
        object.__setattr__(self, "suites", tuple(int(number) for number in self.suites))
        for name in CHANCES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"knob {name} is a chance between 0 and 1, not {getattr(self, name)}")
        if unknown := set(self.suites) - set(SUITES):
            raise ValueError(f"knob suites: there is no suite {min(unknown)} here, only {sorted(SUITES)}")


CHANCES = (
    "freeze",
    "reboot",
    "lie_power",
    "busy",
    "stale_flags",
    "ignore_boot",
    "loss",
    "dup",
    "reorder",
    "malformed",
)

HEALTHY = Knobs()
