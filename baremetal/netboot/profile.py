"""Profiles as netboot sees them: what is booted and which files answer for it.

Owns the value and its own consistency. Deliberately unknown: where profiles are configured, time budgets, proofs:
those belong to configuration and lifecycle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from baremetal.errors import Invalid

INSTALL_SCRIPT: Final = "loaders/install.ipxe.j2"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}\Z")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_MEDIA = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*\Z")


class Family(StrEnum):
    """Which installer reads the answer file, and so how the kernel is told where it is.

    RAMDISK is none: a small system that fetches one shell script and runs it (`bm.script=URL` on its command line).
    NOCLOUD is none either: a clone's first boot reads its files from a seed beside its volume (cloud-init's NoCloud).
    """

    KICKSTART = "kickstart"
    PRESEED = "preseed"
    RAMDISK = "ramdisk"
    AUTOINSTALL = "autoinstall"
    AUTOYAST = "autoyast"
    ESXI = "esxi"
    WINDOWS = "windows"
    IGNITION = "ignition"
    IMAGE = "image"
    NOCLOUD = "nocloud"


# The file an installer asks for first, and the further ones that the family's shipped templates fetch themselves.
MAIN_FILE: Final[Mapping[Family, str]] = {
    Family.KICKSTART: "ks.cfg",
    Family.PRESEED: "preseed.cfg",
    Family.AUTOINSTALL: "user-data",
    Family.AUTOYAST: "autoinst.xml",
    Family.ESXI: "ks.cfg",
    Family.WINDOWS: "unattend.xml",
    Family.IGNITION: "config.ign",
    Family.IMAGE: "run.sh",
    Family.RAMDISK: "run.sh",
    Family.NOCLOUD: "user-data",
}
MORE_FILES: Final[Mapping[Family, Mapping[str, str]]] = {
    Family.PRESEED: {"early.sh": "preseed/early.sh.j2"},
    Family.AUTOINSTALL: {
        "meta-data": "autoinstall/meta-data.yaml.j2",
        "early.sh": "autoinstall/early.sh.j2",
        "late.sh": "autoinstall/late.sh.j2",
    },
    Family.AUTOYAST: {"early.sh": "autoyast/early.sh.j2", "late.sh": "autoyast/late.sh.j2"},
    Family.ESXI: {"boot.cfg": "esxi/boot.cfg.j2"},
    Family.WINDOWS: {
        "winpeshl.ini": "windows/winpeshl.ini.j2",
        "install.bat": "windows/install.bat.j2",
        "SetupComplete.cmd": "windows/setupcomplete.cmd.j2",
    },
    Family.NOCLOUD: {"meta-data": "nocloud/meta-data.yaml.j2"},
    Family.IGNITION: {"install.sh": "ignition/install.sh.j2", "target.ign": "ignition/target.ign.j2"},
}
# What is booted beside, or instead of, a kernel and an initrd; as the installation media of the family have it.
MEDIA_FILES: Final[Mapping[Family, tuple[str, ...]]] = {
    Family.ESXI: ("boot.cfg", "mboot.c32", "efi/boot/bootx64.efi"),
    Family.WINDOWS: ("boot/bcd", "boot/boot.sdi"),
}
# Installers that cannot ask for go: their boot script is served once, and that serving is the go (promises I3).
SILENT: Final = frozenset({Family.ESXI, Family.WINDOWS})
_OWN_SCRIPT: Final = frozenset({Family.ESXI, Family.WINDOWS})
_WITHOUT_KERNEL: Final = frozenset({Family.ESXI, Family.NOCLOUD})


@dataclass(frozen=True, slots=True)
class Profile:
    """What to install. `kernel` and `initrd` are paths under the profile's media; `kernel_args` is a template too.

    ESXi has neither (its own loader reads boot.cfg), nor has a clone; for Windows they are wimboot and boot.wim.
    """

    name: str
    family: Family
    kernel: str
    initrd: str
    template: str
    kernel_args: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise Invalid(
                f"not a profile name: {self.name[:64]!r}", fix="use a-z, 0-9, dot, hyphen, underscore"
            )
        for what, path in (("kernel", self.kernel), ("initrd", self.initrd)):
            if not path and self.family in _WITHOUT_KERNEL:
                continue
            if not _MEDIA.match(path):
                raise Invalid(f"profile {self.name}: not a path under its media: {what} = {path[:80]!r}")
        for file in self.files:
            if not _FILE.match(file):
                raise Invalid(f"profile {self.name}: not a file name: {file[:80]!r}")

    @property
    def main_file(self) -> str:
        """The answer file that the installer is pointed to."""
        return MAIN_FILE[self.family]

    @property
    def answer_files(self) -> dict[str, str]:
        """Every answer file of the profile and the template behind it, the main one first."""
        return {self.main_file: self.template, **MORE_FILES.get(self.family, {}), **self.files}

    @property
    def asks_go(self) -> bool:
        """Whether the installer asks for go; where it cannot, its boot script is served once, and that is the go."""
        return self.family not in SILENT

    @property
    def needs_ipxe(self) -> bool:
        """Whether only iPXE can start it: what ESXi and Windows boot is no kernel with an initrd."""
        return self.family in _OWN_SCRIPT

    @property
    def has_script(self) -> bool:
        """Whether anything of ours is booted to get the system onto its target."""
        return self.family is not Family.NOCLOUD

    @property
    def install_script(self) -> str:
        """The template of the iPXE script that starts the installer."""
        return f"loaders/install_{self.family}.ipxe.j2" if self.needs_ipxe else INSTALL_SCRIPT

    @property
    def media_files(self) -> tuple[str, ...]:
        """What must lie under the profile's media before a machine can boot it."""
        return media_files(self.family, self.kernel, self.initrd)


def media_files(family: Family, kernel: str, initrd: str) -> tuple[str, ...]:
    """List what must lie under the media of such a profile before a machine can boot it."""
    return (*(path for path in (kernel, initrd) if path), *MEDIA_FILES.get(family, ()))
