"""The processor architectures of virtual servers, and what each is called by those who build for it.

Owns names only. Knows nothing of machines or packages.
"""

from __future__ import annotations

from enum import StrEnum


class Architecture(StrEnum):
    """As on a server's record."""

    X86_64 = "x86_64"
    ARM64 = "arm64"

    @property
    def gnu(self) -> str:
        """What QEMU and GNU's tools call it."""
        return {Architecture.X86_64: "x86_64", Architecture.ARM64: "aarch64"}[self]

    @property
    def debian(self) -> str:
        """What Debian's packages call it."""
        return {Architecture.X86_64: "amd64", Architecture.ARM64: "arm64"}[self]

    @property
    def efi(self) -> str:
        """How the names of its UEFI programs end (UEFI 2.10 §3.5.1.1)."""
        return {Architecture.X86_64: "x64", Architecture.ARM64: "aa64"}[self]

    @property
    def console(self) -> str:
        """What Linux calls the first serial port of its virtual machines."""
        return {Architecture.X86_64: "ttyS0", Architecture.ARM64: "ttyAMA0"}[self]
