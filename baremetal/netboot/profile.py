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

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}\Z")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_MEDIA = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*\Z")


class Family(StrEnum):
    """Which installer reads the answer file, and so how the kernel is told where it is.

    RAMDISK is none: a small system that fetches one shell script and runs it (`bm.script=URL` on its command line).
    """

    KICKSTART = "kickstart"
    PRESEED = "preseed"
    RAMDISK = "ramdisk"


# The file an installer asks for first, and the further ones that the family's shipped templates fetch themselves.
MAIN_FILE: Final[Mapping[Family, str]] = {
    Family.KICKSTART: "ks.cfg",
    Family.PRESEED: "preseed.cfg",
    Family.RAMDISK: "run.sh",
}
MORE_FILES: Final[Mapping[Family, Mapping[str, str]]] = {
    Family.KICKSTART: {},
    Family.RAMDISK: {},
    Family.PRESEED: {"early.sh": "preseed/early.sh.j2"},
}


@dataclass(frozen=True, slots=True)
class Profile:
    """What to install. `kernel` and `initrd` are paths under the profile's media; `kernel_args` is a template too."""

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
        return {self.main_file: self.template, **MORE_FILES[self.family], **self.files}
