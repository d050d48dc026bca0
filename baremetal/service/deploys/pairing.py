"""Whether what our DHCP gives a server's firmware can start it: told before the server is switched on, not after.

Owns the pairs that cannot work: a loader for other firmware, a signed shim before a GRUB that Secure Boot refuses, and
an installer that only iPXE starts. A loader that is not there is `doctor`'s: a NIC may bring iPXE of its own, and never
ask. Deliberately unknown: what somebody else's DHCP server gives.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from baremetal.errors import Invalid
from baremetal.netboot.dhcp.offer import Segment
from baremetal.netboot.profile import Family
from baremetal.netboot.program import BIOS, Program, look_at
from baremetal.service.media.loaders import FOLLOWED_BY, Loaders
from baremetal.store.records import ServerRecord

_BY_IPXE_ALONE = (Family.ESXI, Family.WINDOWS)
_WORDS = {BIOS: "BIOS", "x86_64": "x86-64 UEFI", "arm64": "arm64 UEFI", "i386": "32-bit UEFI"}


class Pairing:
    """Judges pairs of firmware and loader. `segments`: those on which our own DHCP names the loaders."""

    def __init__(self, segments: Sequence[Segment], loaders: Loaders) -> None:
        self._segments = tuple(segments)
        self._loaders = loaders

    def problem(self, record: ServerRecord, family: Family | None = None) -> Invalid | None:
        """Return why this server cannot netboot what a profile of this family starts with, None where it can."""
        facts = record.facts
        segment = self._of(facts.ip)
        if segment is None:
            return None
        firmware = BIOS if facts.boot_mode == "bios" and facts.arch == "x86_64" else facts.arch
        key, name = _loader(segment, firmware)
        program = self._program(name)
        if program is None:
            return None
        what = self._fault(name, program, firmware)
        if (
            what is None
            and family in _BY_IPXE_ALONE
            and name.lower() in FOLLOWED_BY
            and program.is_ipxe is False
        ):
            what = f"only iPXE starts {family}, and its firmware is given {name}"
        if what is None:
            return None
        return Invalid(
            f"{record.life.name} cannot netboot on {segment.name}: {what}",
            code="BM307",
            server=record.life.name,
            fix=f"set {key} of the segment {segment.name} to another loader, put the right program into "
            f"{self._loaders.folder}, or correct the server's --boot-mode",
        )

    def _fault(self, name: str, program: Program, firmware: str) -> str | None:
        if program.firmware and program.firmware != firmware:
            built = _WORDS.get(program.firmware, program.firmware)
            return f"{name} is a program for {built}, and the server has {_WORDS.get(firmware, firmware)}"
        for follower in FOLLOWED_BY.get(name.lower(), ()):
            if program.is_ipxe or firmware == BIOS:
                continue
            follows = self._program(follower)
            if follows is None:
                return f"{name} starts {follower}, which is not there"
            if follows.firmware and follows.firmware != firmware:
                return (
                    f"{name} starts {follower}, which is for {_WORDS.get(follows.firmware, follows.firmware)}"
                )
            if program.signed and not follows.signed:
                return f"{name} is signed and starts {follower}, which is not: Secure Boot refuses it"
        return None

    def _program(self, name: str) -> Program | None:
        found = self._loaders.find(name)
        return None if found is None else look_at(found.path)

    def _of(self, ip: str) -> Segment | None:
        """The segment of an address; without one, the only segment there is."""
        if ip:
            address = ipaddress.ip_address(ip.partition("/")[0])
            return next((one for one in self._segments if address in one.network), None)
        return self._segments[0] if len(self._segments) == 1 else None


def _loader(segment: Segment, firmware: str) -> tuple[str, str]:
    """Name the setting and the loader that firmware is given there."""
    if firmware == BIOS:
        return "loader_bios", segment.loader_bios
    return (
        ("loader_arm64", segment.loader_arm64)
        if firmware == "arm64"
        else ("loader_uefi", segment.loader_uefi)
    )
