"""GRUB as upstream builds it for the network, from Debian's modules: it looks for its configuration per MAC by itself.

Debian's signed build carries a configuration that reads one file only; without one GRUB goes through its whole list.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs import unpacked

PACKAGE = ("grub-efi-amd64-bin", "usr/lib/grub/x86_64-efi/normal.mod")
_MODULES = "normal tftp efinet net linux configfile echo sleep test boot reboot minicmd"


def make(target: Path) -> None:
    """Write the image; its files are looked for beside it."""
    program = shutil.which("grub-mkimage")
    if program is None:
        pytest.skip("grub-mkimage is not installed (grub-common)")
    modules = Path(unpacked(*PACKAGE).path).parent
    command = [program, "-O", "x86_64-efi", "-d", str(modules), "-p", "", "-o", str(target)]
    subprocess.run([*command, *_MODULES.split()], check=True, capture_output=True, timeout=60)
