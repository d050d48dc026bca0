"""The tiny system's two trees: the installer's initramfs, and the installed root.

Owns which files of the packages and which of our scripts (`system/`) stand where. Deliberately unknown: where the
packages come from, and what becomes of a tree.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from baremetal.ramsystem import parts as shared
from baremetal.ramsystem.parts import (
    Parts,
    copy_modules,
    copy_with_libraries,
    install,
    lay_out_busybox,
    write_accounts,
)

SCRIPTS = Path(__file__).parent / "system"
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng")
_ROOT_MODULES = ("evdev", "button")


def lay_out_initramfs(folder: Path, parts: Parts) -> None:
    """Make the tree that boots from the network and installs, and from the disk to the installed root."""
    lay_out_busybox(folder, parts)
    for name in ("dev", "proc", "sys", "mnt/sysroot", "tmp", "run", "etc"):
        (folder / name).mkdir(parents=True)
    order = copy_modules(_BOOT_MODULES, parts, folder / "lib/modules")
    (folder / "lib/modules/order").write_text("".join(f"{name}\n" for name in order))
    install(
        folder,
        {"init": "init", "installer": "sbin/installer", "dhcp-event": "sbin/dhcp-event", "curl": "bin/curl"},
        SCRIPTS,
    )
    shutil.copyfile(shared.SCRIPTS / "network.sh", folder / "lib/network.sh")
    shutil.copyfile(SCRIPTS / "kickstart.awk", folder / "lib/kickstart.awk")


def lay_out_root(folder: Path, parts: Parts) -> None:
    """Make the installed system's root."""
    lay_out_busybox(folder, parts)
    for name in (
        "dev",
        "proc",
        "sys",
        "mnt",
        "tmp",
        "run",
        "boot",
        "etc/ssh",
        "etc/dropbear",
        "etc/baremetal",
        "var/log",
    ):
        (folder / name).mkdir(parents=True)
    (folder / "root/.ssh").mkdir(parents=True)
    (folder / "var/lib/tiny").mkdir(parents=True)
    for name in ("root", "root/.ssh"):
        (folder / name).chmod(0o700)
    copy_modules(_ROOT_MODULES, parts, folder / "lib/modules")
    for tool in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
        copy_with_libraries(parts, tool, folder)
    install(
        folder,
        {
            "inittab": "etc/inittab",
            "rc": "etc/tiny/rc",
            "sshd": "etc/tiny/sshd",
            "first-boot": "etc/tiny/first-boot",
            "power-button": "etc/tiny/power-button",
            "power-off": "etc/acpi/PWRF/00000080",
            "dhcp-event": "sbin/dhcp-event",
            "curl": "bin/curl",
            "ssh-keygen": "usr/bin/ssh-keygen",
        },
        SCRIPTS,
    )
    write_accounts(folder, "tiny", "tiny lab system")
