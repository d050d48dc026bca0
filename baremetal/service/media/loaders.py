"""Where the loaders' own programs are: the data directory first, then where Debian's packages put them.

Owns the names under which firmware and loaders ask for them, and which package has which. Nothing is copied: a loader
is served from where its package keeps it up to date. Deliberately unknown: who asks, and by which protocol.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_IPXE: Final = Path("/usr/lib/ipxe")
_PXELINUX: Final = Path("/usr/lib/PXELINUX")
_SYSLINUX: Final = Path("/usr/lib/syslinux/modules/bios")
_SHIM: Final = Path("/usr/lib/shim")
_GRUB: Final = Path("/usr/lib/grub")


@dataclass(frozen=True, slots=True)
class Program:
    """A loader's file and the Debian package that has it; without a package it is the operator's to provide."""

    file: Path | None
    package: str = ""


def _modules(*names: str) -> dict[str, Program]:
    return {name: Program(_SYSLINUX / name, "syslinux-common") for name in names}


# By the name that is asked for, in lower case: BOOTX64.EFI is as common as bootx64.efi.
PROGRAMS: Final[Mapping[str, Program]] = {
    "undionly.kpxe": Program(_IPXE / "undionly.kpxe", "ipxe"),
    "ipxe.efi": Program(_IPXE / "ipxe.efi", "ipxe"),
    "snponly.efi": Program(_IPXE / "snponly.efi", "ipxe"),
    "ipxe.lkrn": Program(_IPXE / "ipxe.lkrn", "ipxe"),
    "ipxe.pxe": Program(_IPXE / "ipxe.pxe", "ipxe"),
    "ipxe-arm64.efi": Program(None),
    "snponly-arm64.efi": Program(None),
    "pxelinux.0": Program(_PXELINUX / "pxelinux.0", "pxelinux"),
    "lpxelinux.0": Program(_PXELINUX / "lpxelinux.0", "pxelinux"),
    **_modules("ldlinux.c32", "libcom32.c32", "libutil.c32", "libmenu.c32", "menu.c32", "vesamenu.c32"),
    **_modules("chain.c32", "reboot.c32", "poweroff.c32", "linux.c32", "mboot.c32"),
    "memdisk": Program(Path("/usr/lib/syslinux/memdisk"), "syslinux-common"),
    "bootx64.efi": Program(_SHIM / "shimx64.efi.signed", "shim-signed"),
    "shimx64.efi": Program(_SHIM / "shimx64.efi.signed", "shim-signed"),
    "grubx64.efi": Program(_GRUB / "x86_64-efi-signed" / "grubnetx64.efi.signed", "grub-efi-amd64-signed"),
    "mmx64.efi": Program(_SHIM / "mmx64.efi.signed", "shim-helpers-amd64-signed"),
    "mokmanager.efi": Program(_SHIM / "mmx64.efi.signed", "shim-helpers-amd64-signed"),
    "bootaa64.efi": Program(_SHIM / "shimaa64.efi.signed", "shim-signed:arm64"),
    "shimaa64.efi": Program(_SHIM / "shimaa64.efi.signed", "shim-signed:arm64"),
    "grubaa64.efi": Program(
        _GRUB / "arm64-efi-signed" / "grubnetaa64.efi.signed", "grub-efi-arm64-signed:arm64"
    ),
    "mmaa64.efi": Program(_SHIM / "mmaa64.efi.signed", "shim-helpers-arm64-signed:arm64"),
    "unicode.pf2": Program(Path("/usr/share/grub/unicode.pf2"), "grub-common"),
    "wimboot": Program(None),
}
# What comes after what: a first program that is there is no use without these.
FOLLOWED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "pxelinux.0": ("ldlinux.c32",),
    "lpxelinux.0": ("ldlinux.c32",),
    "bootx64.efi": ("grubx64.efi",),
    "shimx64.efi": ("grubx64.efi",),
    "bootaa64.efi": ("grubaa64.efi",),
    "shimaa64.efi": ("grubaa64.efi",),
}
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}\Z")
_DEPTH = 5


@dataclass(frozen=True, slots=True)
class LoaderFile:
    """A loader's file that may be served."""

    path: Path
    stat: os.stat_result
    name: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A loader that is needed and not there; `package` empty: no package of Debian's has it."""

    name: str
    package: str
    folder: Path

    @property
    def fix(self) -> str:
        """Say what to do."""
        if self.package:
            return f"apt-get install {self.package}; or put it at {self.folder / self.name}"
        return f"put it at {self.folder / self.name}: no package of Debian's has it"


class Loaders:
    """The loaders' programs. `folder` is the operator's own: whatever stands there may be served, and wins."""

    def __init__(self, folder: Path, programs: Mapping[str, Program] = PROGRAMS) -> None:
        self.folder = folder
        self._programs = dict(programs)

    def find(self, name: str) -> LoaderFile | None:
        """Find the file behind a name, a path without a leading slash; None for whatever may not or cannot be served.

        The folder that is asked for means nothing: shim asks for GRUB beside itself, wherever DHCP said that is.
        """
        segments = name.split("/")
        if len(segments) > _DEPTH or not all(_SEGMENT.match(part) for part in segments):
            return None
        base = segments[-1]
        known = self._programs.get(base.lower())
        places = [self.folder / base]
        if known is not None:
            if base != base.lower():
                places.append(self.folder / base.lower())
            if known.file is not None:
                places.append(known.file)
        for place in places:
            found = _regular(place)
            if found is not None:
                return LoaderFile(place, found, base)
        return None

    def missing(self, wanted: Iterable[str]) -> list[Missing]:
        """List which of these, and of what they need next, are not there."""
        found: dict[str, Missing] = {}
        for name in wanted:
            base = name.rpartition("/")[2]
            for one in (base, *FOLLOWED_BY.get(base.lower(), ())):
                if self.find(one) is None:
                    known = self._programs.get(one.lower())
                    found[one] = Missing(one, known.package if known is not None else "", self.folder)
        return list(found.values())


def _regular(path: Path) -> os.stat_result | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None
