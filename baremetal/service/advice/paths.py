"""Every way in which a machine may come to its boot answer: the files it asks for, in order, and which one answers.

Owns the ways there are, and what is worth knowing of each. What a name answers is asked of the functions that answer
the machine. Deliberately unknown: which way a machine takes; that is its firmware's and DHCP's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from baremetal.netboot import grub, ipxe, pxelinux
from baremetal.netboot.dialect import constant
from baremetal.netboot.lookup import By, Loader
from baremetal.service.boot.looks import weigh
from baremetal.service.boot.machine import Machine
from baremetal.service.media.loaders import Loaders
from baremetal.store.records import ServerRecord


@dataclass(frozen=True, slots=True)
class Way:
    """One way. `names` are asked for in order; those that are no loader's configuration are programs or passed over."""

    title: str
    loader: Loader
    names: tuple[str, ...]
    http: bool = False
    bios: bool = False
    note: str = ""
    passed: frozenset[str] = field(default_factory=frozenset)


def ways(mac: str, address: str, uuid: str, arch: str = "x86_64") -> list[Way]:
    """List the ways of a machine with this MAC, address and UUID; either of the latter may be unknown.

    Only x86 has BIOS, and only there UEFI programs go without the architecture in their names.
    """
    arm64 = arch == "arm64"
    ipxe_efi, snponly, efi = (
        ("ipxe-arm64.efi", "snponly-arm64.efi", "aa64") if arm64 else ("ipxe.efi", "snponly.efi", "x64")
    )
    hint = (
        "" if address else "between MAC and the last name it asks by its address, which is not known here; "
    )
    revoked = ("revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi")
    shim = (f"boot{efi}.efi", *revoked, f"grub{efi}.efi")
    signed = "GRUB is signed by Debian, never asks per MAC by itself, and has no HTTP: kernel and initrd come by TFTP"
    every = [
        Way("iPXE", Loader.IPXE, ("boot.ipxe", f"ipxe?mac={mac}"), http=True,
            note="iPXE in the NIC, or chained: DHCP must tell it apart (option 175), or it loads itself for ever"),
        Way("BIOS, iPXE from TFTP", Loader.IPXE, ("undionly.kpxe", "boot.ipxe", f"ipxe?mac={mac}"), http=True,
            bios=True, note="the first by TFTP, the rest by HTTP"),
        Way("UEFI, iPXE from TFTP", Loader.IPXE, (ipxe_efi, "boot.ipxe", f"ipxe?mac={mac}"), http=True,
            note=f"the first by TFTP, the rest by HTTP; {snponly} where {ipxe_efi} has no driver for the NIC"),
        Way("BIOS, pxelinux", Loader.PXELINUX,
            ("pxelinux.0", "ldlinux.c32", *pxelinux.lookups(mac, address, uuid)), bios=True,
            note=f"{hint}all by TFTP"),
        Way("BIOS, lpxelinux", Loader.LPXELINUX,
            ("lpxelinux.0", "ldlinux.c32", *pxelinux.lookups(mac, address, uuid)), http=True, bios=True,
            note=f"{hint}DHCP option 210 (path prefix) sends it to HTTP"),
        Way("UEFI, shim and Debian's GRUB", Loader.GRUB,
            (*shim, *(name.lstrip("/") for name in grub.debian_lookups(mac, arch))), note=f"all by TFTP; {signed}",
            passed=frozenset(revoked)),
        Way("UEFI, shim and Red Hat's GRUB", Loader.GRUB,
            (*shim, *(name.lstrip("/") for name in grub.lookups(mac, address))), passed=frozenset(revoked),
            note=f"{hint}all by TFTP, beside the folder that GRUB came from"),
        Way("UEFI HTTP boot", Loader.IPXE, (f"loaders/{ipxe_efi}", "boot.ipxe", f"ipxe?mac={mac}"), http=True,
            note="not with Debian's signed GRUB: it has no HTTP, and would look for its files by TFTP"),
        Way("scripts of the founding systems", Loader.IPXE, tuple(ipxe.founding_lookups(mac, uuid)), http=True,
            note="whichever of these a script of yours chains to"),
    ]  # fmt: skip
    return [way for way in every if not (arm64 and way.bios)]


class Guide:
    """Walks the ways for one machine."""

    def __init__(self, loaders: Loaders, base: str) -> None:
        self._loaders = loaders
        self._base = base

    def walk(self, way: Way, record: ServerRecord | None, mac: str) -> Iterator[dict[str, Any]]:
        """Say for every name of a way what it answers; the names after the one that decides are not asked."""
        decided = False
        for name in way.names:
            told = self._told(way, name, record, mac)
            yield {"url": self._place(way, name), "answer": told[0], "asked": not decided}
            decided = decided or told[1]

    def _told(self, way: Way, name: str, record: ServerRecord | None, mac: str) -> tuple[str, bool]:
        if name.startswith("ipxe?"):
            return self._weighed(Machine(mac=mac, base=self._base), record)
        machine = Machine.by_name(name, "", self._base, http=way.http)
        if machine is None or machine.asked is None:
            return self._program(way, name), False
        if machine.asked.by is By.PREFIX:
            return "not found: the loader goes on", False
        if constant(machine.loader, machine.asked, self._base) is not None:
            last = machine.loader in (Loader.PXELINUX, Loader.LPXELINUX)
            if machine.asked.by is By.SETTINGS:
                return "the same for every machine: where we are", False
            if last:
                return "local boot: whoever gets here is no enrolled server", True
            return "the same for every machine: sends it on to the next", False
        return self._weighed(machine, record)

    def _weighed(self, machine: Machine, record: ServerRecord | None) -> tuple[str, bool]:
        look = weigh(machine, record)
        if not look.found or look.answer is None:
            return "not found: the loader goes on", False
        return look.answer.reason, True

    def _program(self, way: Way, name: str) -> str:
        found = self._loaders.find(name)
        if found is not None:
            return f"{found.path}"
        if name in way.passed or name.endswith(".lst"):
            return "not found, which is normal"
        fixes: Iterable[str] = (missing.fix for missing in self._loaders.missing([name]))
        return "missing: " + next(iter(fixes), "not found")

    def _place(self, way: Way, name: str) -> str:
        chained = name in ("undionly.kpxe", "ipxe.efi", "ipxe-arm64.efi", "lpxelinux.0")
        return f"{self._base}/{name}" if way.http and not chained else f"tftp:{name}"
